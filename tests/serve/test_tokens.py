"""Tokens of an identity provider: its keys served over HTTP, real signatures, and every way that is known to forge one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from needs import needs
from slmops.cli import main
from slmops.core.errors import UsageError

pytestmark = needs("starlette", "uvicorn", "jwt", "cryptography")
ROLES = {"staff": "user", "ops": "operator", "root": "admin"}


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Provider:
    """A provider on this machine, whose keys and documents the test chooses."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

        self.private: dict[str, tuple[str, Any]] = {
            "r": ("RS256", rsa.generate_private_key(65537, 2048)),
            "e": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "d": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
        }
        self.served, self.asked, self.lying, self.down = ["r", "e", "d"], list[str](), "", False
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                body = json.dumps(provider.document(self.path)).encode()
                self.send_response(404 if provider.down else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/realm"

    def document(self, path: str) -> Any:
        if path == "/realm/.well-known/openid-configuration":
            return {"issuer": self.lying or self.url, "jwks_uri": f"{self.url}/keys"}
        return {
            "keys": [self.public(kid) for kid in self.served] + [{"kty": "oct", "kid": "o", "k": encoded(b"x" * 32)}, {}, 7]
        }

    def public(self, kid: str) -> dict[str, Any]:
        from jwt.algorithms import get_default_algorithms

        algorithm, private = self.private[kid]
        jwk: Any = get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)  # type: ignore[attr-defined]
        return {**jwk, "kid": kid, "use": "sig"}

    def claims(self, **more: Any) -> dict[str, Any]:
        now = int(time.time())
        base = {"iss": self.url, "aud": "slmops", "sub": "ann", "iat": now, "exp": now + 300, "roles": ["staff"]}
        return {name: value for name, value in (base | more).items() if value is not None}

    def token(self, kid: str = "r", header: dict[str, Any] | None = None, key: Any = None, **claims: Any) -> str:
        """Signed here, for the library does not make all that strangers do."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

        algorithm, private = self.private[kid]
        whole = {"typ": "JWT", "alg": algorithm, "kid": kid, **(header or {})}
        text = f"{encoded({k: v for k, v in whole.items() if v is not None})}.{encoded(self.claims(**claims))}"
        if algorithm == "RS256":
            signature = (key or private).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        elif algorithm == "ES256":
            r, s = utils.decode_dss_signature(private.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
            signature = r.to_bytes(32) + s.to_bytes(32)
        else:
            signature = private.sign(text.encode())
        return f"{text}.{encoded(signature)}"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


def issuer(provider: Provider, **more: Any) -> Any:
    from slmops.serve.tokens import Issuer

    return Issuer(provider.url, "slmops", ROLES, **more)  # type: ignore[arg-type]


def whose(one: Any, token: str) -> tuple[str, str] | None:
    found = asyncio.run(one.caller(token))
    return (found.name, found.role) if found is not None else None


@pytest.mark.parametrize("kid", ["r", "e", "d"])
def test_a_token_of_each_kind_of_key_is_taken(provider: Provider, kid: str) -> None:
    one = issuer(provider)
    assert whose(one, provider.token(kid)) == ("token:ann", "user")
    assert whose(one, provider.token(kid, roles=["none", "ops", "staff"])) == ("token:ann", "operator")
    assert whose(one, provider.token(kid, roles="root", aud=["other", "slmops"])) == ("token:ann", "admin")
    now = int(time.time())
    assert whose(one, provider.token(kid, exp=now - 10, nbf=now + 10, iat=now + 10)) is not None  # clocks differ
    deep = issuer(provider, claim="realm_access.roles")
    assert whose(deep, provider.token(kid, realm_access={"roles": ["root"]})) == ("token:ann", "admin")


def forged(provider: Provider) -> dict[str, str]:
    """Tokens that must let nobody in, by what is wrong with them."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    now, good, stranger = int(time.time()), provider.token(), rsa.generate_private_key(65537, 2048)
    head, claims, signature = good.split(".")
    made = {
        "no role": provider.token(roles=[]),
        "unknown role": provider.token(roles=["boss"]),
        "roles of no list": provider.token(roles={"root": 1}),
        "no claim": provider.token(roles=None),
        "expired": provider.token(exp=now - 60),
        "no exp": provider.token(exp=None),
        "exp of text": provider.token(exp="never"),
        "of later": provider.token(nbf=now + 120),
        "made later": provider.token(iat=now + 120),
        "other issuer": provider.token(iss="https://evil.example"),
        "issuer with a slash": provider.token(iss=provider.url + "/"),
        "no issuer": provider.token(iss=None),
        "other audience": provider.token(aud="others"),
        "no audience": provider.token(aud=None),
        "empty audience": provider.token(aud=[]),
        "no subject": provider.token(sub=None),
        "empty subject": provider.token(sub=""),
        "long subject": provider.token(sub="x" * 500),
        "subject that steers": provider.token(sub="ann\n\x1b[2J"),
        "unknown kid": provider.token(header={"kid": "other"}),
        "kid of another kind": provider.token(header={"kid": "e"}),
        "kid of no text": ".".join((encoded({"alg": "RS256", "kid": 1}), claims, signature)),
        "kid that climbs": provider.token(header={"kid": "../../../dev/null"}),
        "kid that asks": provider.token(header={"kid": "r' OR '1'='1"}),
        "no kid": provider.token(header={"kid": None}),
        "crit": provider.token(header={"crit": ["exp"]}),
        "long": provider.token(more="x" * 9000),
        "other key": provider.token(key=stranger),
        "jku": provider.token(key=stranger, header={"jku": provider.url + "/evil"}),
        "x5u": provider.token(key=stranger, header={"x5u": provider.url + "/evil"}),
        "cut": good[:-3],
        "empty": "..",
        "text": "a.b.c",
        "no signature": f"{head}.{claims}.",
        "two parts": f"{head}.{claims}",
        "encrypted": ".".join(("a",) * 5),
    }
    public = stranger.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": encoded(public.n.to_bytes(256)), "e": "AQAB"}
    made["jwk"] = provider.token(key=stranger, header={"jwk": jwk})
    for name in ("none", "None", "NONE", "nOnE", ""):
        made[f"alg {name}"] = f"{encoded({'alg': name, 'kid': 'r', 'typ': 'JWT'})}.{encoded(provider.claims())}."
    pem = provider.private["r"][1].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for name, secret in (
        ("public key", pem),
        ("stripped", pem.strip()),
        ("jwk", json.dumps(provider.public("r")).encode()),
        ("oct", b"x" * 32),
        ("nothing", b""),
    ):
        for size in (256, 384, 512):
            text = f"{encoded({'alg': f'HS{size}', 'kid': 'o' if name == 'oct' else 'r'})}.{encoded(provider.claims())}"
            made[f"HS{size} {name}"] = (
                f"{text}.{encoded(hmac.new(secret, text.encode(), getattr(hashlib, f'sha{size}')).digest())}"
            )
    for name in ("PS256", "RS384", "RS512", "ES384", "ES512", "ES256K"):
        made[f"alg {name}"] = f"{encoded({'alg': name, 'kid': 'r'})}.{claims}.{signature}"
    made["ES256 of zeros"] = f"{encoded({'alg': 'ES256', 'kid': 'e'})}.{encoded(provider.claims())}.{encoded(bytes(64))}"
    changed = json.loads(base64.urlsafe_b64decode(claims + "=="))
    made["changed claims"] = f"{head}.{encoded({**changed, 'roles': ['root']})}.{signature}"
    doubled = json.dumps(changed)[:-1].encode() + b',"roles":["root"]}'
    made["twice"] = f"{head}.{encoded(doubled)}.{signature}"
    made["deep"] = f"{encoded(b'[' * 3000)}.{claims}.{signature}"
    return made


def test_nothing_that_is_forged_is_taken(provider: Provider) -> None:
    one = issuer(provider)
    assert whose(one, provider.token()) == ("token:ann", "user")
    provider.asked.clear()
    tokens = forged(provider)
    for name, token in tokens.items():
        assert whose(one, token) is None, name
    assert len(tokens) > 55 and not [path for path in provider.asked if "evil" in path]
    assert whose(one, provider.token()) == ("token:ann", "user")


def test_keys_that_change_are_asked_for_but_not_at_strangers_pace(provider: Provider) -> None:
    now = [0.0]
    one = issuer(provider, clock=lambda: now[0])
    provider.asked.clear()
    provider.served = ["r"]
    try:
        assert whose(one, provider.token()) and len(provider.asked) == 2  # the document, and the keys
        for number in range(50):
            assert whose(one, provider.token(header={"kid": f"k{number}"})) is None
        assert whose(one, provider.token("e")) is None and len(provider.asked) == 2
        provider.served = ["e"]
        now[0] += 31
        assert whose(one, provider.token("e")) == ("token:ann", "user") and len(provider.asked) == 4
        assert whose(one, provider.token("r")) is None  # withdrawn
        provider.down = True
        now[0] += 4000
        assert whose(one, provider.token("e")) == ("token:ann", "user")  # a provider that is down for a while
        now[0] += 90_000
        assert whose(one, provider.token("e")) is None  # and for a day
        provider.down, provider.lying = False, "https://evil.example"
        now[0] += 31
        assert whose(one, provider.token("e")) is None
    finally:
        provider.served, provider.down, provider.lying = ["r", "e", "d"], False, ""


def test_a_token_opens_the_routes_of_its_role(provider: Provider, tmp_path: Path) -> None:
    """Beside keys, in the real application."""
    from serve import guarded

    async def all_of() -> None:
        app = guarded.built(guarded.keys_file(tmp_path), tokens=issuer(provider))
        for token, path, status in (
            (provider.token(), "/v1/models", 200),
            (provider.token(), "/slmops/models", 403),
            (guarded.KEYS["user"], "/v1/models", 200),
            (provider.token("d", roles=["ops"]), "/slmops/models", 200),
            (provider.token(exp=1), "/v1/models", 401),
            ("a.b.c", "/v1/models", 401),
        ):
            assert (await guarded.ask(app, "GET", path, {"Authorization": f"Bearer {token}"}))[0] == status, path

    asyncio.run(all_of())


def test_what_is_half_said_is_refused(tmp_path: Path) -> None:
    from slmops.serve.tokens import Issuer

    for issuer in ("http://login.example.org", "login.example.org", "ftp://x", ""):
        with pytest.raises(UsageError):
            Issuer(issuer, "slmops", {})
    whole = ["--oidc-issuer", "https://x", "--oidc-audience", "y"]
    for words in (
        whole,
        whole[:2],
        [*whole, "--oidc-role", "a=boss"],
        [*whole, "--oidc-role", "=user"],
        ["--oidc-role", "a=user"],
    ):
        assert main(["serve", str(tmp_path), *words]) == 2
