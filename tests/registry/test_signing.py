"""Signatures: what we sign, the real `model_signing` accepts; what it signs, we accept; everything else is refused."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from filed import artifact
from needs import needs
from slmops.cli import main
from slmops.core.errors import CorruptInput, EngineMissing, OutputExists, PolicyRefused, SourceNotFound, VerificationFailed
from slmops.registry import Registry, archive, index, policy, signing, trust
from slmops.registry.blobs import Blob
from slmops.registry.policy import Policy, Signers
from slmops.registry.references import named
from slmops.registry.signing import Signer

if TYPE_CHECKING:
    from fakesigstore import Sigstore

pytestmark = needs("model_signing", "OpenSSL")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("SLMOPS_HOME", str(tmp_path / "home"))
    with Registry.open() as opened:
        yield opened


@pytest.fixture
def digest(registry: Registry, tmp_path: Path) -> str:
    return registry.add(artifact(tmp_path / "made"), named("home:v1"))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys by openssl-compatible PEM, and certificates of an authority, in a folder."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "other"):
        signing.make_key(folder / f"{name}.pem")

    def certificate(name: str, key: Any, issuer: str, by: Any, authority: bool) -> Any:
        called = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer)]
        now = datetime.datetime.now(datetime.UTC)
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
        usage = dict.fromkeys((*others, "decipher_only"), False)
        made = (
            x509.CertificateBuilder(called[1], called[0], key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(authority, None), True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage), True
            )
        )
        return made.sign(by, hashes.SHA256())

    roots = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "stranger")}
    key = serialization.load_pem_private_key((folder / "ours.pem").read_bytes(), None)
    for name, root in roots.items():
        made = certificate(name, root, name, root, True)
        (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    signed = certificate("release", key, "ca", roots["ca"], False)
    (folder / "chain.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    between = ec.generate_private_key(ec.SECP384R1())
    inner = certificate("between", between, "ca", roots["ca"], True)
    longer = [certificate("release", key, "between", between, False), inner]
    (folder / "longer.pem").write_bytes(b"".join(one.public_bytes(serialization.Encoding.PEM) for one in longer))
    (folder / "cut.pem").write_bytes(longer[0].public_bytes(serialization.Encoding.PEM))
    return folder


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "model_signing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def bundle_of(registry: Registry, digest: str, path: Path) -> Path:
    (_, held), *_ = signing.bundles(registry, digest)
    path.write_text(json.dumps(held))
    return path


def by_key(keys: Path, name: str = "ours") -> Signers:
    return Signers(("*",), keys=(keys / f"{name}.pub",))


@pytest.mark.slow
def test_model_signing_accepts_what_we_sign(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    bundle, folder = bundle_of(registry, digest, tmp_path / "model.sig"), registry.place(digest)
    words = ("verify", "key", "--signature", bundle, "--public_key")
    assert tool(*words, keys / "ours.pub", folder).returncode == 0
    assert tool(*words, keys / "other.pub", folder).returncode != 0
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "extra.json").write_text("{}")
    assert tool(*words, keys / "ours.pub", copy).returncode != 0


@pytest.mark.slow
def test_model_signing_accepts_our_certificates(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    _, who = signing.sign(registry, digest, Signer(keys / "ours.pem", keys / "chain.pem"))
    assert who == "certificate CN=release"
    bundle, folder = bundle_of(registry, digest, tmp_path / "model.sig"), registry.place(digest)
    words = ("verify", "certificate", "--signature", bundle, "--certificate_chain")
    assert tool(*words, keys / "ca.pem", folder).returncode == 0
    assert tool(*words, keys / "stranger.pem", folder).returncode != 0


@pytest.mark.slow
def test_we_accept_what_model_signing_signs(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    folder, bundle = registry.place(digest), tmp_path / "model.sig"
    words = ("sign", "key", "--private_key", keys / "ours.pem", "--signature", bundle, folder)
    assert tool(*words).returncode == 0
    signing.file(registry, digest, bundle)
    assert "ours.pub" in trust.verified(registry, digest, by_key(keys))[0]
    with pytest.raises(VerificationFailed, match="Key mismatch"):
        trust.verified(registry, digest, by_key(keys, "other"))


def test_a_key_signs_once(registry: Registry, digest: str, keys: Path) -> None:
    first = signing.sign(registry, digest, Signer(keys / "ours.pem"))
    assert signing.sign(registry, digest, Signer(keys / "ours.pem")) == first
    assert signing.sign(registry, digest, Signer(keys / "other.pem")) != first
    assert len(signing.bundles(registry, digest)) == 2
    assert trust.verified(registry, digest, by_key(keys)) == trust.verified(registry, digest, by_key(keys))


def test_a_certificate_leads_to_its_authority(registry: Registry, digest: str, keys: Path) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem", keys / "chain.pem"))
    assert trust.verified(registry, digest, Signers(("*",), authorities=(keys / "ca.pem",)))
    for wrong in (Signers(("*",), authorities=(keys / "stranger.pem",)), by_key(keys)):
        with pytest.raises(VerificationFailed):
            trust.verified(registry, digest, wrong)


@pytest.mark.parametrize("what", ["more", "less", "other", "renamed", "swapped"])
def test_a_signature_is_of_exactly_the_files(registry: Registry, digest: str, keys: Path, tmp_path: Path, what: str) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    (_, bundle), *_ = signing.bundles(registry, digest)
    found = registry.manifest(digest)
    first, second, *rest = found.layers
    layers = {
        "more": (*found.layers, dataclasses.replace(first, path="more.json")),
        "less": (second, *rest),
        "other": (dataclasses.replace(first, blob=Blob.of(b"other")), second, *rest),
        "renamed": (dataclasses.replace(first, path=first.path.upper()), second, *rest),
        "swapped": (dataclasses.replace(first, blob=second.blob), dataclasses.replace(second, blob=first.blob), *rest),
    }
    signing.check(found, bundle, by_key(keys))
    with pytest.raises(VerificationFailed, match="Signature mismatch"):
        signing.check(dataclasses.replace(found, layers=layers[what]), bundle, by_key(keys))


def test_a_signature_of_other_files_is_not_filed(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    other = registry.add(artifact(tmp_path / "other", b"y"))
    with pytest.raises(CorruptInput, match="exactly the files"):
        signing.file(registry, other, bundle_of(registry, digest, tmp_path / "model.sig"))
    for content in ("", "[]", "{}", "[" * 100_000, '{"dsseEnvelope": {"payload": 7}}'):
        (tmp_path / "noise.sig").write_text(content)
        with pytest.raises(CorruptInput):
            signing.file(registry, digest, tmp_path / "noise.sig")
    (tmp_path / "huge.sig").write_bytes(b" " * (signing.MOST_BUNDLE + 1))
    with pytest.raises(CorruptInput, match="too large"):
        signing.file(registry, digest, tmp_path / "huge.sig")


def payload(bundle: Any) -> Any:
    return json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))


def signature(bundle: Any) -> str:
    return str(bundle["dsseEnvelope"]["signatures"][0]["sig"])


def with_payload(bundle: Any, statement: Any) -> Any:
    content = base64.b64encode(json.dumps(statement).encode()).decode()
    return {**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "payload": content}}


HOSTILE: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda bundle: {},
    "no envelope": lambda bundle: {key: value for key, value in bundle.items() if key != "dsseEnvelope"},
    "no material": lambda bundle: {**bundle, "verificationMaterial": None},
    "a list": lambda bundle: {"verificationMaterial": [], "dsseEnvelope": []},
    "another type": lambda bundle: {**bundle, "mediaType": "application/json"},
    "numbers": lambda bundle: {"mediaType": 1, "verificationMaterial": 2, "dsseEnvelope": 3},
    "no signature": lambda bundle: {**bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": []}},
    "an empty signature": lambda bundle: {
        **bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": [{"sig": "", "keyid": ""}]}},
    "half a signature": lambda bundle: {
        **bundle,
        "dsseEnvelope": {**bundle["dsseEnvelope"], "signatures": [{"sig": signature(bundle)[:40], "keyid": ""}]},
    },
    "half a payload": lambda bundle: {
        **bundle, "dsseEnvelope": {**bundle["dsseEnvelope"], "payload": bundle["dsseEnvelope"]["payload"][:200]}},
    "another payload": lambda bundle: with_payload(bundle, {**payload(bundle), "subject": []}),
    "a payload that is no statement": lambda bundle: with_payload(bundle, [1, 2, 3]),
    "a chain of nothing": lambda bundle: {
        **bundle, "verificationMaterial": {"x509CertificateChain": {"certificates": []}, "tlogEntries": []}},
    "a certificate of noise": lambda bundle: {
        **bundle,
        "verificationMaterial": {"x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}]}, "tlogEntries": []},
    },
    "a nest": lambda bundle: {"verificationMaterial": json.loads("[" * 500 + "]" * 500)},
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_holds_for_nobody(registry: Registry, digest: str, keys: Path, what: str) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    (_, bundle), *_ = signing.bundles(registry, digest)
    found = registry.manifest(digest)
    hostile = HOSTILE[what](bundle)
    everyone = Signers(("*",), (keys / "ours.pub",), (keys / "ca.pem",))
    assert isinstance(signing.who(hostile), str)
    with pytest.raises(VerificationFailed):
        signing.check(found, hostile, everyone)


def test_what_is_no_key_cannot_sign(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "noise.pem").write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(CorruptInput, match="cannot sign"):
        signing.sign(registry, digest, Signer(tmp_path / "noise.pem"))
    with pytest.raises(CorruptInput, match="does not match"):
        signing.sign(registry, digest, Signer(keys / "other.pem", keys / "chain.pem"))
    with pytest.raises(SourceNotFound):
        signing.sign(registry, digest, Signer(tmp_path / "none.pem"))
    (tmp_path / "huge.pem").write_bytes(b"x" * (signing.MOST_KEY + 1))
    with pytest.raises(CorruptInput, match="too large"):
        signing.sign(registry, digest, Signer(tmp_path / "huge.pem"))
    assert signing.bundles(registry, digest) == []


def test_keys_are_made_once_and_for_their_owner(tmp_path: Path, registry: Registry, digest: str) -> None:
    public = signing.make_key(tmp_path / "a.pem", "secret")
    assert (tmp_path / "a.pem").stat().st_mode & 0o777 == 0o600 and public == tmp_path / "a.pub"
    assert b"ENCRYPTED" in (tmp_path / "a.pem").read_bytes()
    with pytest.raises(OutputExists):
        signing.make_key(tmp_path / "a.pem")
    with pytest.raises(CorruptInput):
        signing.sign(registry, digest, Signer(tmp_path / "a.pem"))
    signing.sign(registry, digest, Signer(tmp_path / "a.pem", password="secret"))
    assert trust.verified(registry, digest, Signers(("*",), keys=(public,)))


def required(keys: Path, name: str = "ours") -> Policy:
    return Policy(require_signature=(Signers(("file:*",), keys=(keys / f"{name}.pub",)),))


def exported(registry: Registry, digest: str, path: Path) -> Path:
    archive.send(registry, [digest], path)
    return path


def test_a_policy_lets_in_and_opens_what_is_signed(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    unsigned = exported(registry, digest, tmp_path / "unsigned.tar")
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    signed = exported(registry, digest, tmp_path / "signed.tar")
    home = tmp_path / "edge"
    with Registry.open(home, policy=required(keys)) as edge:
        with archive.opened(unsigned) as source, pytest.raises(PolicyRefused, match="not signed"):
            archive.receive(edge, source)
        assert not edge.rows() and not any(edge.blobs.all())
        with archive.opened(signed) as source:
            archive.receive(edge, source)
        assert edge.catalog.origin(digest) == f"file:{signed}"
        edge.place(digest)
        assert len(edge.catalog.signatures(digest)) == 1
    with Registry.open(home, policy=required(keys, "other")) as strict:
        with pytest.raises(PolicyRefused, match="require_signature"):
            strict.place(digest)
        with archive.opened(signed) as source, pytest.raises(PolicyRefused):
            archive.receive(strict, source)


def test_what_came_before_the_policy_is_asked_when_it_is_opened(
    registry: Registry, digest: str, keys: Path, tmp_path: Path
) -> None:
    unsigned, home = exported(registry, digest, tmp_path / "unsigned.tar"), tmp_path / "edge"
    with Registry.open(home) as edge, archive.opened(unsigned) as source:
        archive.receive(edge, source)
        edge.place(digest)
        edge.add(artifact(tmp_path / "again"))  # adding the same files again makes them nobody else's
        edge.reindex()
        assert edge.catalog.origin(digest) == f"file:{unsigned}"
    with Registry.open(home, policy=required(keys)) as strict:
        with pytest.raises(PolicyRefused, match="not signed"), strict.lease(digest):
            pass
        signing.sign(strict, digest, Signer(keys / "ours.pem"))
        strict.place(digest)


def test_a_lost_index_makes_nothing_ours(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    from slmops.registry import fsck

    unsigned, home = exported(registry, digest, tmp_path / "unsigned.tar"), tmp_path / "edge"
    with Registry.open(home) as edge, archive.opened(unsigned) as source:
        archive.receive(edge, source)
    (home / "index.json").unlink()
    (home / "catalog.sqlite").unlink()
    fsck.check(home, repair=True)
    assert index.read(home).origin(digest) == policy.LOST
    with Registry.open(home, policy=required(keys)) as strict, pytest.raises(PolicyRefused):
        strict.place(digest)


def test_an_archive_does_not_say_where_it_comes_from(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    archive.send(registry, [digest], tmp_path / "out")
    path = tmp_path / "out" / "index.json"
    value = json.loads(path.read_text())
    for entry in value["manifests"]:
        entry.setdefault("annotations", {})[index.ORIGIN] = "oci:trusted/home"
    path.write_text(json.dumps(value))
    with Registry.open(tmp_path / "edge") as edge, archive.opened(tmp_path / "out") as source:
        archive.receive(edge, source)
        assert edge.catalog.origin(digest) == f"file:{tmp_path / 'out'}"
    archive.send(registry, [digest], tmp_path / "again")
    assert index.ORIGIN not in (tmp_path / "again" / "index.json").read_text()


def test_the_verbs(registry: Registry, digest: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pem, out = str(tmp_path / "mine.pem"), str(tmp_path / "model.sig")
    assert main(["models", "key", pem]) == 0
    assert main(["models", "sign", "home:v1"]) == 2 and main(["models", "sign", "home:v1", "--certificate", pem]) == 2
    assert main(["models", "sign", "home:v1", "--key", pem, "-o", out, "--json"]) == 0
    assert main(["models", "sign", "home:v1", "--key", pem, "-o", out]) == 12
    assert main(["models", "sign", "home:v1", "--bundle", out]) == 0
    capsys.readouterr()
    assert main(["models", "verify", "home:v1", "--key", pem.replace(".pem", ".pub"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["digests"] == {"home:v1": digest} and "mine.pub" in said["signed"]["home:v1"][0]
    assert main(["models", "verify", "home:v1", "--key", str(keys / "ours.pub")]) == 10
    assert main(["models", "verify", "home:v1", "--identity", "me"]) == 2
    assert main(["models", "verify", "home:v1", "--key", str(tmp_path / "none.pub")]) == 3


def test_sigstore_is_the_librarys(registry: Registry, digest: str, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: that it is asked, and what comes of its refusal."""
    from model_signing import signing as theirs
    from model_signing import verifying

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    def by_key_instead(config: Any, **_: object) -> Any:
        return config.use_elliptic_key_signer(private_key=keys / "ours.pem")

    monkeypatch.setattr(theirs.Config, "use_sigstore_signer", unreachable)
    monkeypatch.setattr(verifying.Config, "use_sigstore_verifier", unreachable)
    with pytest.raises(VerificationFailed, match="no route to host"):
        signing.sign(registry, digest, Signer())
    monkeypatch.setattr(theirs.Config, "use_sigstore_signer", by_key_instead)
    signing.sign(registry, digest, Signer())
    someone = Signers(("*",), identities=(policy.Identity("me@example.org", "https://issuer.example"),))
    with pytest.raises(VerificationFailed, match="no route to host"):
        trust.verified(registry, digest, someone)


WHO, ISSUER = "ci@example.org", "https://issuer.example.org"


@pytest.fixture
def sigstore(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> Sigstore:
    """One that has signed home:v1; its bundle is in keyless.sig, what to believe of it in trust.json."""
    from fakesigstore import Sigstore

    made = Sigstore()
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    (_, held), *_ = signing.bundles(registry, digest)
    statement = base64.b64decode(held["dsseEnvelope"]["payload"])
    (tmp_path / "keyless.sig").write_text(json.dumps(made.sign(statement, WHO, ISSUER)))
    made.config(tmp_path / "trust.json")
    return made


@pytest.mark.slow
def test_a_sigstore_bundle_is_verified_without_a_network(
    registry: Registry, digest: str, sigstore: Sigstore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, believed = tmp_path / "keyless.sig", tmp_path / "trust.json"
    folder = registry.place(digest)
    theirs = ("verify", "sigstore", "--signature", bundle, "--identity", WHO, "--identity_provider", ISSUER)
    done = tool(*theirs, "--trust_config", believed, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert main(["models", "sign", "home:v1", "--bundle", str(bundle)]) == 0
    words = ["models", "verify", "home:v1", "--identity", WHO, "--issuer", ISSUER, "--trust"]
    assert main([*words, str(believed)]) == 0
    assert WHO in capsys.readouterr().out
    stranger = type(sigstore)().config(tmp_path / "stranger.json")
    for other in (
        [*words, str(stranger)],
        [*words[:4], "eve@example.org", *words[5:], str(believed)],
        [*words[:6], "https://issuer.example.com", words[7], str(believed)],
    ):
        assert main(other) == 10, other
    assert main([*words, str(tmp_path / "none.json")]) == 3
    assert main(["models", "verify", "home:v1", "--trust", str(believed)]) == 2
    believed.write_text("{}")
    assert main([*words, str(believed)]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("part", ["body", "checkpoint", "promise", "certificate", "signature"])
def test_a_sigstore_bundle_holds_only_whole(
    part: str, registry: Registry, digest: str, sigstore: Sigstore, tmp_path: Path
) -> None:
    bundle = json.loads((tmp_path / "keyless.sig").read_text())
    whose = Signers(("*",), identities=(policy.Identity(WHO, ISSUER, tmp_path / "trust.json"),))
    found = registry.manifest(digest)
    assert WHO in signing.check(found, bundle, whose)
    other = sigstore.sign(base64.b64decode(bundle["dsseEnvelope"]["payload"]), WHO, ISSUER)  # as good, and another's
    material, from_other = bundle["verificationMaterial"], other["verificationMaterial"]
    entry, its = material["tlogEntries"][0], from_other["tlogEntries"][0]
    if part == "body":
        entry["canonicalizedBody"] = its["canonicalizedBody"]
    elif part == "checkpoint":
        entry["inclusionProof"] = its["inclusionProof"]
    elif part == "promise":
        entry["inclusionPromise"] = its["inclusionPromise"]
    elif part == "certificate":
        material["certificate"] = from_other["certificate"]
    else:
        bundle["dsseEnvelope"] = other["dsseEnvelope"]
    with pytest.raises(VerificationFailed):
        signing.check(found, bundle, whose)


@pytest.mark.slow
def test_a_policy_may_ask_for_an_identity_without_a_network(
    registry: Registry, digest: str, sigstore: Sigstore, tmp_path: Path
) -> None:
    signing.file(registry, digest, tmp_path / "keyless.sig")
    signed = exported(registry, digest, tmp_path / "signed.tar")
    home = tmp_path / "edge"
    home.mkdir()
    (home / "trust.json").write_bytes((tmp_path / "trust.json").read_bytes())
    rule = f"{{identity: {WHO}, issuer: '{ISSUER}', trust: trust.json}}"
    (home / "policy.yaml").write_text(f"require_signature: [{{identities: [{rule}]}}]\n")
    with Registry.open(home) as edge, archive.opened(signed) as source:
        archive.receive(edge, source)
        edge.place(digest)
    type(sigstore)().config(home / "trust.json")  # another is believed now: what held before does not count
    with Registry.open(home) as edge, pytest.raises(PolicyRefused, match="require_signature"):
        edge.place(digest)


def test_fsck_tells_what_the_policy_would_refuse(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    """Another tool's edit of index.json, and what came before the policy."""
    from slmops.registry import fsck

    home, unsigned = tmp_path / "edge", exported(registry, digest, tmp_path / "unsigned.tar")
    with Registry.open(home) as edge, archive.opened(unsigned) as source:
        archive.receive(edge, source)
    assert fsck.check(home).sound
    held = index.read(home)
    held.tags[named("home:production")] = digest
    held.write(home)
    (home / "policy.yaml").write_text(f"require_signature: [{{keys: [{keys / 'ours.pub'}]}}]\n")
    found = {(one.what, one.name) for one in fsck.check(home).problems}
    assert ("policy", "home:production") in found and ("policy", "home:production, home:v1") in found


def test_noise_that_strangers_attach_hides_nothing(registry: Registry, digest: str, keys: Path) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    for kind in ("signature", "measurement", "approval", "bom", "card"):
        registry.attach(digest, kind, "this is no JSON")
    assert "ours.pub" in trust.verified(registry, digest, by_key(keys))[0]
    assert main(["models", "show", "home:v1", "--json"]) == 0 and main(["models", "bom", "home:v1"]) == 0
    assert main(["models", "tag", "home:v1", "home:production"]) == 15


def test_a_certificate_may_lead_over_others(registry: Registry, digest: str, keys: Path, tmp_path: Path) -> None:
    authority = Signers(("*",), authorities=(keys / "ca.pem",))
    signing.sign(registry, digest, Signer(keys / "ours.pem", keys / "cut.pem"))
    with pytest.raises(VerificationFailed):
        trust.verified(registry, digest, authority)
    signing.sign(registry, digest, Signer(keys / "ours.pem", keys / "longer.pem"))
    assert "CN=release" in trust.verified(registry, digest, authority)[0]


def test_without_the_library_it_says_what_to_install(
    registry: Registry, digest: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(EngineMissing) as caught:
        signing.sign(registry, digest, Signer(keys / "ours.pem"))
    assert "slmops[sign]" in caught.value.cure


def test_what_was_verified_once_opens_without_the_library(
    registry: Registry, digest: str, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signing.sign(registry, digest, Signer(keys / "ours.pem"))
    signed = exported(registry, digest, tmp_path / "signed.tar")
    with Registry.open(tmp_path / "edge", policy=required(keys)) as edge, archive.opened(signed) as source:
        archive.receive(edge, source)
        monkeypatch.setitem(sys.modules, "model_signing", None)
        edge.place(digest)
        edge.reindex()
        edge.place(digest)  # which forgets nothing that was hashed or verified
        with pytest.raises(EngineMissing):
            trust.verified(edge, digest, by_key(keys, "other"))
