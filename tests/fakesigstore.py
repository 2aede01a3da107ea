"""A Sigstore of the tests' own, without a network: its authority (Fulcio), log of certificates, transparency log (Rekor).

What it makes is verified by the real client. Formats: RFC 6962 (timestamps of certificates, the log's tree), C2SP's signed
notes (checkpoints), https://github.com/sigstore/protobuf-specs (bundle, trusted root, client trust configuration), and
https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def identity_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(spki(key)).digest()


def signed(key: ec.EllipticCurvePrivateKey, content: bytes) -> bytes:
    return key.sign(content, ec.ECDSA(hashes.SHA256()))


class Sigstore:
    """Keys of an authority and its two logs."""

    def __init__(self) -> None:
        self.authority, self.certificates, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of the tests")])
        self.root = (
            x509.CertificateBuilder(name, name, self.authority.public_key(), x509.random_serial_number())
            .not_valid_before(self.now - datetime.timedelta(days=1))
            .not_valid_after(self.now + datetime.timedelta(days=365))
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key()), False)
            .sign(self.authority, hashes.SHA256())
        )

    def config(self, path: Path) -> Path:
        """What a client needs to know of it, written to a file: a ClientTrustConfig."""

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {"rawBytes": b64(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256"}
            valid = {"start": _time(self.now - datetime.timedelta(days=1))}
            return {
                "baseUrl": "https://log.invalid",
                "hashAlgorithm": "SHA2_256",
                "publicKey": {**public, "validFor": valid},
                "logId": {"keyId": b64(identity_of(key))},
            }

        authority = {
            "subject": {"organization": "tests", "commonName": "authority of the tests"},
            "uri": "https://authority.invalid",
            "certChain": {"certificates": [{"rawBytes": b64(self.root.public_bytes(serialization.Encoding.DER))}]},
            "validFor": {"start": _time(self.now - datetime.timedelta(days=1))},
        }
        trusted = {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log)],
            "certificateAuthorities": [authority],
            "ctlogs": [log(self.certificates)],
        }
        services = {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"}
        media = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        path.write_text(json.dumps({"mediaType": media, "trustedRoot": trusted, "signingConfig": services}))
        return path

    def sign(self, statement: bytes, who: str, issuer: str) -> dict[str, Any]:
        """The bundle of an in-toto statement, signed by who is known to an issuer; its certificate holds ten minutes."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(key, who, issuer)
        kind = "application/vnd.in-toto+json"
        content = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(statement), statement)
        signature = b64(signed(key, content))
        envelope = {"payload": b64(statement), "payloadType": kind, "signatures": [{"sig": signature}]}
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        entry = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(json.dumps(envelope).encode()).hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(statement).hexdigest()},
                "signatures": [{"signature": signature, "verifier": b64(pem)}],
            },
        }
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(certificate.public_bytes(serialization.Encoding.DER))},
                "tlogEntries": [self._logged(json.dumps(entry, separators=(",", ":"), sort_keys=True).encode())],
            },
            "dsseEnvelope": envelope,
        }

    def _certificate(self, key: ec.EllipticCurvePrivateKey, who: str, issuer: str) -> x509.Certificate:
        names = x509.SubjectAlternativeName([x509.RFC822Name(who)])
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key.public_key(), x509.random_serial_number())
            .not_valid_before(self.now - datetime.timedelta(minutes=5))
            .not_valid_after(self.now + datetime.timedelta(minutes=5))
            .add_extension(names, True)
            .add_extension(_usage(digital_signature=True), True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key()), False)
            .add_extension(x509.UnrecognizedExtension(ISSUER, issuer.encode()), False)
        )
        # The log's promise is about the certificate without it (RFC 6962, 3.2).
        body = builder.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        moment = int(self.now.timestamp() * 1000)
        promised = struct.pack("!BBQH", 0, 0, moment, 1) + identity_of(self.authority)
        promised += struct.pack("!I", len(body))[1:] + body + b"\0\0"
        signature = signed(self.certificates, promised)
        promise = b"\0" + identity_of(self.certificates) + struct.pack("!QHBBH", moment, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(promise) + 2, len(promise)) + promise
        value = b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else bytes([0x81, len(listed)])) + listed
        return builder.add_extension(x509.UnrecognizedExtension(SCTS, value), False).sign(self.authority, hashes.SHA256())

    def _logged(self, body: bytes) -> dict[str, Any]:
        """The entry of a log that has nothing else: its tree is a leaf."""
        moment, mark = int(self.now.timestamp()), identity_of(self.log)
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.invalid\n1\n{b64(root)}\n"
        checkpoint = f"{note}\n\u2014 log.invalid {b64(mark[:4] + signed(self.log, note.encode()))}\n"
        promised = {"body": b64(body), "integratedTime": moment, "logID": mark.hex(), "logIndex": 0}
        canonical = json.dumps(promised, separators=(",", ":"), sort_keys=True).encode()
        return {
            "logIndex": "0",
            "logId": {"keyId": b64(mark)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(moment),
            "inclusionPromise": {"signedEntryTimestamp": b64(signed(self.log, canonical))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": b64(body),
        }


def _usage(**given: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    every = (*names, "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: given.get(name, False) for name in every})


def _time(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
