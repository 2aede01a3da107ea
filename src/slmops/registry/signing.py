"""Signatures by OpenSSF model-signing: a Sigstore bundle (DSSE over an in-toto statement) of an artifact's files.

The statement names each file with its sha256, which a manifest holds too: so nothing is hashed again, neither to sign nor to
verify. The bundle is what `model_signing sign` would have made of the folder, and `model_signing verify` accepts it.
https://github.com/sigstore/model-transparency, predicate https://model_signing/signature/v1.0
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmops.core import receipt, store
from slmops.core.errors import CorruptInput, EngineMissing, OutputExists, SlmopsError, SourceNotFound, VerificationFailed
from slmops.registry import placing
from slmops.registry.manifest import STANDARD, Manifest
from slmops.registry.policy import Identity, Signers

if TYPE_CHECKING:
    from slmops.registry.registry import Registry

KIND = "signature"
MEDIA = STANDARD[KIND]
MOST_BUNDLE = 8 << 20
"""Bytes: a manifest of 10,000 files in base64, and more."""
MOST_KEY = 1 << 20


PASSWORD = "SLMOPS_KEY_PASSWORD"
"""The environment's variable with the password of a key: an option would be seen by every process of the machine."""


def password() -> str | None:
    """Of the private key, from the environment."""
    return os.environ.get(PASSWORD) or None


@dataclass(frozen=True)
class Signer:
    """What is signed with: a key; a key and its certificate, followed by those that it leads over; else Sigstore."""

    key: Path | None = None
    certificate: Path | None = None
    password: str | None = None


def sign(registry: Registry, digest: str, by: Signer) -> tuple[str, str]:
    """Sign an artifact's files and attach the bundle; its digest, and who signed. Whoever signed before signs once.

    Sigstore takes the identity of the environment (as CI has it), or asks in a browser; it goes to the network.
    Raises CorruptInput for what is no key of an elliptic curve, EngineMissing, VerificationFailed (Sigstore's refusal).
    """
    signing, _ = _library()
    found = registry.manifest(digest)
    for blob in found.blobs:
        placing.check(registry, blob)
    try:
        config = signing.Config().set_hashing_config(_Listed(found))
        if by.certificate is not None:
            _content(by.key), _content(by.certificate)
            if by.password is not None:
                raise CorruptInput("a key with a certificate must not be encrypted", "model-signing takes no password there")
            # The signer's own is the first of the file; an empty chain would be refused.
            config.use_certificate_signer(
                private_key=by.key, signing_certificate=by.certificate, certificate_chain=[by.certificate]
            )
        elif by.key is not None:
            _content(by.key)
            password = by.password.encode() if by.password is not None else None
            config.use_elliptic_key_signer(private_key=by.key, password=password)
        else:
            config.use_sigstore_signer(use_ambient_credentials=True)
        with registry.scratch() as scratch, contextlib.redirect_stdout(sys.stderr):
            config.sign(scratch, scratch / KIND)
            bundle = json.loads((scratch / KIND).read_bytes())
    except SlmopsError:
        raise
    except Exception as error:  # the library raises what its own libraries raise
        if by.key is None:
            cure = "sign with --key where there is no network"
            raise VerificationFailed(f"Sigstore did not sign: {_said(error)}", cure) from error
        cure = f"a PEM file of a key on P-256, P-384 or P-521; its password is in {PASSWORD}: slmops models key"
        raise CorruptInput(f"{by.key} cannot sign: {_said(error)}", cure) from error
    for attached, earlier in bundles(registry, digest):
        if earlier.get("verificationMaterial") == bundle.get("verificationMaterial") and _covers(found, earlier):
            return attached, who(bundle)
    return registry.attach(digest, KIND, bundle), who(bundle)


def file(registry: Registry, digest: str, path: Path) -> tuple[str, str]:
    """Attach a bundle that was made elsewhere (another machine, a hardware key); its digest, and who it says signed.

    Raises SourceNotFound, CorruptInput for what is none of exactly these files. Whether it holds, `check` says.
    """
    if not path.is_file():
        raise SourceNotFound(f"there is no signature {path}", "model_signing sign writes one")
    if path.stat().st_size > MOST_BUNDLE:
        raise CorruptInput(f"{path} is too large for a signature", f"at most {MOST_BUNDLE:,} bytes")
    bundle = receipt.parse(path)
    if not isinstance(bundle, dict) or not _covers(registry.manifest(digest), bundle):
        cure = "sign the folder as it is in the registry, file by file with sha256: model_signing sign"
        raise CorruptInput(f"{path} is no signature of exactly the files of {digest[:19]}", cure)
    return registry.attach(digest, KIND, bundle), who(bundle)


def bundles(registry: Registry, digest: str) -> list[tuple[str, dict[str, Any]]]:
    """(attachment, bundle) of an artifact's signatures, oldest first; nothing of them is believed yet."""
    return [(one, registry.content(one)) for one, kind in registry.catalog.attachments(digest) if kind == KIND]


def check(found: Manifest, bundle: Mapping[str, Any], signers: Signers) -> str:
    """Which of the signers signed exactly these files, in words. Raises VerificationFailed, saying why none did.

    A certificate counts as of the first moment it was valid (bundles of a key have no time), and is not asked of for
    revocation: that is model-signing's rule.
    """
    _, verifying = _library()
    refusals: list[str] = []
    with store.scratch("verify") as scratch:
        path = scratch / KIND
        path.write_text(json.dumps(bundle), encoding="utf-8")
        for said, use in _ways(signers):
            try:
                with contextlib.redirect_stdout(sys.stderr):  # it prints warnings, which would stand in a JSON document
                    config = use(verifying.Config())
                    config.set_hashing_config(_Listed(found)).verify(scratch, path)
                return f"{who(bundle)} ({said})"
            except SlmopsError:
                raise
            except Exception as error:  # bundles are strangers': whatever they make the library raise, they do not hold
                refusals.append(f"{said}: {_said(error)}")
    raise VerificationFailed(f"a signature does not hold: {'; '.join(refusals)}", "it must be of all files as they are now")


def identity_of(signers: Signers) -> str:
    """A digest of who counts, by content: files of keys may change under their names."""
    parts = [hashlib.sha256(_content(path)).hexdigest() for path in (*signers.keys, *signers.authorities)]
    for one in signers.identities:
        believed = hashlib.sha256(_content(one.trust)).hexdigest() if one.trust is not None else ""
        parts.append(f"{one.identity} {one.issuer} {believed}".rstrip())
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def who(bundle: Mapping[str, Any]) -> str:
    """Who a bundle says has signed it: unproven, until `check` has passed."""
    material = bundle.get("verificationMaterial")
    held = material if isinstance(material, dict) else {}
    key, chain = held.get("publicKey"), held.get("x509CertificateChain")
    if isinstance(key, dict):
        return f"key {str(key.get('hint'))[:16]}"
    with contextlib.suppress(Exception):
        import base64

        from cryptography import x509

        first = chain["certificates"][0] if isinstance(chain, dict) else held["certificate"]
        made = x509.load_der_x509_certificate(base64.b64decode(first["rawBytes"]))
        names = made.subject.rfc4514_string()
        if not names:  # Sigstore names the subject elsewhere
            names = str(made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return f"certificate {names[:200]}"
    return "nobody that can be told"


def make_key(path: Path, password: str | None = None) -> Path:
    """A new key on P-256 at `path` (PEM), for its owner's eyes only; the path of the public one. Raises OutputExists."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = path.with_suffix(".pub")
    key = ec.generate_private_key(ec.SECP256R1())
    locked: Any = serialization.NoEncryption()
    if password is not None:
        locked = serialization.BestAvailableEncryption(password.encode())
    pem, spki = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    contents = {
        public: (0o644, key.public_key().public_bytes(pem, spki)),
        path: (0o600, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, locked)),
    }
    for one in (path, public):
        if one.exists() or one.is_symlink():
            raise OutputExists(f"{one} is already there", "keys are not replaced: choose another name")
    for one, (mode, content) in contents.items():
        with os.fdopen(os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
    store.sync_folder(path.absolute().parent)
    return public


class _Listed:
    """A hashing configuration of model-signing that hashes nothing: the manifest knows the digests."""

    def __init__(self, found: Manifest) -> None:
        self._found = found

    def hash(self, model_path: Path, files_to_hash: Any = None) -> Any:
        from model_signing import manifest
        from model_signing._hashing.hashing import Digest  # what FileManifestItem takes; it has no public name

        digests = [(layer.path, bytes.fromhex(layer.blob.digest.removeprefix("sha256:"))) for layer in self._found.layers]
        items = [manifest.FileManifestItem(path=Path(path), digest=Digest("sha256", one)) for path, one in digests]
        method = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
        name = self._found.ours("name") or "model"
        return manifest.Manifest(name, items, manifest.SerializationType.from_args(method))

    def add_ignored_paths(self, *, model_path: Path, paths: Iterable[str]) -> None:
        """What a signer left out is not let in: every file of the manifest counts."""


def _ways(signers: Signers) -> list[tuple[str, Callable[[Any], Any]]]:
    """(name, how model-signing verifies by it) of each signer."""
    for path in (*signers.keys, *signers.authorities, *(one.trust for one in signers.identities if one.trust is not None)):
        _content(path)

    def key(path: Path) -> Callable[[Any], Any]:
        return lambda config: config.use_elliptic_key_verifier(public_key=path)

    def authority(path: Path) -> Callable[[Any], Any]:
        return lambda config: config.use_certificate_verifier(certificate_chain=[path])

    def identity(one: Identity) -> Callable[[Any], Any]:
        return lambda config: config.use_sigstore_verifier(
            identity=one.identity, oidc_issuer=one.issuer, trust_config=one.trust
        )

    return [
        *((path.name, key(path)) for path in signers.keys),
        *((path.name, authority(path)) for path in signers.authorities),
        *((one.identity, identity(one)) for one in signers.identities),
    ]


def _covers(found: Manifest, bundle: Mapping[str, Any]) -> bool:
    """Whether a bundle's statement lists these files; its signature is not looked at."""
    import base64

    with contextlib.suppress(Exception):
        statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
        listed = {one["name"]: f"{one['algorithm']}:{one['digest']}" for one in statement["predicate"]["resources"]}
        return listed == {layer.path: layer.blob.digest for layer in found.layers}
    return False


def _content(path: Path | None) -> bytes:
    """A key's, a certificate's or a trust configuration's file. Raises SourceNotFound, CorruptInput."""
    if path is None or not path.is_file():
        raise SourceNotFound(f"there is no key, certificate or trust configuration {path}", "slmops models key makes keys")
    if path.stat().st_size > MOST_KEY:
        raise CorruptInput(f"{path} is too large for what says who is trusted", f"at most {MOST_KEY:,} bytes")
    return path.read_bytes()


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300] or type(error).__name__


def _library() -> tuple[Any, Any]:
    """model_signing.signing and .verifying. Raises EngineMissing."""
    try:
        from model_signing import signing, verifying
    except ImportError as error:
        raise EngineMissing(f"model-signing is not installed ({error})", "pip install 'slmops[sign]'") from error
    return signing, verifying
