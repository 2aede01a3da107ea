"""TLS by real handshakes: certificates that change while it serves, client certificates, and what is too old."""

from __future__ import annotations

import datetime
import json
import signal
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from serve.serving import ANSWER, ASKED, serving
from slmops.cli import main
from slmops.core.errors import CorruptInput, SourceNotFound, UsageError

pytestmark = needs("starlette", "uvicorn", "cryptography")


class Authority:
    """Makes certificates."""

    def __init__(self, name: str) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        self.name, self.key = name, ec.generate_private_key(ec.SECP256R1())
        self.certificate = self.issue(name, self.key, authority=True)

    def issue(self, name: str, key: Any, authority: bool = False) -> Any:
        import ipaddress

        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.x509.oid import NameOID

        now = datetime.datetime.now(datetime.UTC)
        subject, issuer = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, self.name))
        hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        built = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        built = built.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        built = built.not_valid_after(now + datetime.timedelta(days=1))
        built = built.add_extension(x509.BasicConstraints(authority, None), critical=True)
        if authority:
            built = built.add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
            )
        built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        built = built.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return built.add_extension(x509.SubjectAlternativeName(hosts), critical=False).sign(self.key, hashes.SHA256())

    def write(self, name: str, certificate: Path, key: Path) -> None:
        """A new certificate and its key, for a server or a client of this name."""
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        made = ec.generate_private_key(ec.SECP256R1())
        key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        certificate.write_bytes(self.issue(name, made).public_bytes(Encoding.PEM))

    def trusted(self, path: Path) -> Path:
        from cryptography.hazmat.primitives.serialization import Encoding

        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def status(url: str, context: ssl.SSLContext, headers: dict[str, str] | None = None) -> int:
    try:
        return int(
            urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), context=context, timeout=10).status
        )
    except urllib.error.HTTPError as error:
        return error.code


def serial(url: str, context: ssl.SSLContext) -> str:
    """Of the certificate that is shown now."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as one,
    ):
        found = one.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_a_certificate_that_changes_is_shown_without_a_restart(made: Path, tmp_path: Path) -> None:
    import httpx
    import openai

    first, second = Authority("first"), Authority("second")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    first.write("server", certificate, key)
    contexts = [ssl.create_default_context(cafile=one.trusted(tmp_path / f"{one.name}.pem")) for one in (first, second)]
    words = (f"home={made / 'gguf'}", "--tls-cert", certificate, "--tls-key", key)
    with serving(*words) as (url, process):
        assert url.startswith("https://")
        client = openai.OpenAI(
            base_url=f"{url}/v1", api_key="x", max_retries=0, http_client=httpx.Client(verify=contexts[0])
        )
        ask = lambda: client.chat.completions.create(model="home", messages=ASKED, temperature=0)  # type: ignore[call-overload]  # noqa: E731
        assert json.loads(ask().choices[0].message.content) == ANSWER
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            status(f"{url}/health/live", contexts[1])
        with pytest.raises((OSError, urllib.error.URLError)):  # no word without encryption
            urllib.request.urlopen(url.replace("https", "http") + "/health/live", timeout=5)
        old = serial(url, contexts[0])
        certificate.write_bytes(b"half of a file")  # what cannot be used changes nothing
        time.sleep(2.5)
        assert serial(url, contexts[0]) == old
        second.write("server", certificate, key)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                assert serial(url, contexts[1]) != old
                break
            except ssl.SSLError:
                time.sleep(0.2)
        with pytest.raises(ssl.SSLCertVerificationError):
            serial(url, contexts[0])
        assert json.loads(ask().choices[0].message.content) == ANSWER  # the connection that was open goes on
        with urllib.request.urlopen(f"{url}/health/live", context=contexts[1], timeout=10) as answer:
            assert "max-age" in answer.headers["strict-transport-security"]
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            aged = ssl.create_default_context(cafile=tmp_path / "second.pem")
            aged.set_ciphers("ALL:@SECLEVEL=0")
            aged.minimum_version = aged.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)):
                serial(url, aged)
        aged.minimum_version = aged.maximum_version = ssl.TLSVersion.TLSv1_2
        serial(url, aged)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0  # though its client still holds a connection


@pytest.mark.slow
def test_a_client_certificate_says_who_asks(made: Path, tmp_path: Path) -> None:
    ours, others = Authority("ours"), Authority("others")
    ours.write("server", tmp_path / "cert.pem", tmp_path / "key.pem")
    trusted = ours.trusted(tmp_path / "ours.pem")
    assert (
        main(["keys", "create", "root", "--keys", str(tmp_path / "keys.yaml"), "--role", "admin", "--subject", "boss"]) == 0
    )
    gone = ["--role", "admin", "--subject", "gone", "--expires", "2020-01-01"]
    assert main(["keys", "create", "left", "--keys", str(tmp_path / "keys.yaml"), *gone]) == 0
    contexts = {}
    for name, authority in (("ann", ours), ("boss", ours), ("gone", ours), ("mallory", others), ("", ours)):
        contexts[name] = ssl.create_default_context(cafile=trusted)
        if name:
            authority.write(name, tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
            contexts[name].load_cert_chain(tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    words = ("--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem", "--tls-client-ca", trusted)
    with serving(f"home={made / 'gguf'}", *words, "--keys", tmp_path / "keys.yaml", "--audit", tmp_path / "audit") as (
        url,
        _,
    ):
        assert status(f"{url}/v1/models", contexts["ann"]) == 200
        assert status(f"{url}/slmops/models", contexts["ann"]) == 403
        assert status(f"{url}/slmops/models", contexts["boss"]) == 200
        assert status(f"{url}/v1/models", contexts["gone"]) == 401
        assert status(f"{url}/v1/models", contexts["boss"], {"Authorization": "Bearer slm_wrong"}) == 401
        for name in ("", "mallory"):
            with pytest.raises((OSError, ssl.SSLError)):
                status(f"{url}/health/live", contexts[name])
        time.sleep(0.3)
        text = (tmp_path / "audit" / "000001.jsonl").read_text()
        assert '"who":"certificate:ann"' in text and '"status":403' in text


def test_what_is_no_certificate_is_refused_before_it_listens(tmp_path: Path) -> None:
    from slmops.serve.tls import Certificate

    ours = Authority("ours")
    certificate, key, other = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "other.pem"
    ours.write("server", certificate, key)
    ours.write("server", tmp_path / "x.pem", other)
    with pytest.raises(UsageError, match="not the key"):
        Certificate(certificate, other)
    with pytest.raises(SourceNotFound):
        Certificate(certificate, tmp_path / "none")
    (tmp_path / "text").write_text("no certificate")
    for words in ((tmp_path / "text", key), (certificate, tmp_path / "text"), (certificate, key, tmp_path / "text")):
        with pytest.raises(CorruptInput):
            Certificate(*words)
    from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

    locked = ours.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"words"))
    (tmp_path / "locked").write_bytes(locked)
    with pytest.raises(CorruptInput):  # nor is it asked for on the terminal
        Certificate(ours.trusted(tmp_path / "ours.pem"), tmp_path / "locked")
    for words in (
        ["--tls-cert", str(certificate)],
        ["--tls-client-ca", str(certificate)],
        ["--cors", "*"],
        ["--timeout", "0"],
    ):
        assert main(["serve", str(tmp_path), *words]) == 2
