"""Signatures through Sigstore, verified offline: here with an instance of Sigstore that the test makes.

It has a certificate authority, a log of certificates and a log of signatures, each a key; its root of trust names them.
The formats are those of RFC 6962 (certificate and signature logs), DSSE, and Sigstore's bundle 0.3.
"""

import base64
import hashlib
import json
import struct
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pargate.files import SIGNATURE
from pargate.models import signing
from tests.unit.test_signing import files

pytest.importorskip("model_signing", reason="NOT TESTED: signing; pip install 'pargate[sign]'")

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec

NOW = datetime.now(UTC).replace(microsecond=0)
IDENTITY, ISSUER = "us@example.org", "https://issuer.example"
ECDSA = ec.ECDSA(hashes.SHA256())
PAYLOAD_TYPE = "application/vnd.in-toto+json"
SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
ISSUED_BY = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def der(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(form.Encoding.DER, form.PublicFormat.SubjectPublicKeyInfo)


class Instance:
    """An instance of Sigstore."""

    def __init__(self) -> None:
        self.authority, self.certificates, self.log = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
        self.name = name
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        self.root = (
            self.certificate(name, self.authority, days=365)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self.authority, hashes.SHA256())
        )

    def certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        half = timedelta(days=days / 2)
        subject_key = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key())
        return (
            x509.CertificateBuilder(self.name, subject, key.public_key(), 7, NOW - half, NOW + half)
            .add_extension(subject_key, critical=False)
            .add_extension(issuer_key, critical=False)
        )

    def trust_root(self) -> bytes:
        def logged(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = {
                "rawBytes": b64(der(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": {"start": "2020-01-01T00:00:00Z"},
            }  # fmt: skip
            return {
                "baseUrl": "https://log.example", "hashAlgorithm": "SHA2_256", "publicKey": public,
                "logId": {"keyId": b64(hashlib.sha256(der(key)).digest())},
            }  # fmt: skip

        chain = {"certificates": [{"rawBytes": b64(self.root.public_bytes(form.Encoding.DER))}]}
        authority = {
            "subject": {"organization": "x", "commonName": "authority"}, "uri": "https://authority.example",
            "certChain": chain, "validFor": {"start": "2020-01-01T00:00:00Z"},
        }  # fmt: skip
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [logged(self.log)], "ctlogs": [logged(self.certificates)],
                "certificateAuthorities": [authority],
            }
        ).encode()  # fmt: skip

    def sign(self, payload: bytes) -> dict[str, Any]:
        """Return the bundle of a signed payload."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.leaf(key)
        signed = b"DSSEv1 %d %b %d %b" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
        signature = b64(key.sign(signed, ECDSA))
        envelope = {"payload": b64(payload), "payloadType": PAYLOAD_TYPE, "signatures": [{"sig": signature}]}
        entry = self.entry(payload, signature, leaf)
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(leaf.public_bytes(form.Encoding.DER))}, "tlogEntries": [entry],
            },
            "dsseEnvelope": envelope,
        }  # fmt: skip

    def leaf(self, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
        """Return a short-lived certificate of the identity, with the timestamp of the log of certificates."""
        usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
        builder = (
            self.certificate(x509.Name([]), key, days=0.01)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(IDENTITY)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUED_BY, ISSUER.encode()), critical=False)
        )
        body = builder.sign(self.authority, hashes.SHA256()).tbs_certificate_bytes
        head = struct.pack(">BBQH", 0, 0, int(NOW.timestamp() * 1000), 1)
        content = head + hashlib.sha256(der(self.authority)).digest() + len(body).to_bytes(3, "big") + body + b"\0\0"
        signature = self.certificates.sign(content, ECDSA)
        log = hashlib.sha256(der(self.certificates)).digest()
        sct = struct.pack(">B32sQHBBH", 0, log, int(NOW.timestamp() * 1000), 0, 4, 3, len(signature)) + signature
        listed = struct.pack(">HH", len(sct) + 2, len(sct)) + sct
        octets = bytes([4, *([len(listed)] if len(listed) < 128 else [0x81, len(listed)])]) + listed
        return builder.add_extension(x509.UnrecognizedExtension(SCTS, octets), critical=False).sign(
            self.authority, hashes.SHA256()
        )

    def entry(self, payload: bytes, signature: str, leaf: x509.Certificate) -> dict[str, Any]:
        """Return the entry of the log of signatures, the only one of its tree."""
        pem = leaf.public_bytes(form.Encoding.PEM)
        body = json.dumps(
            {
                "apiVersion": "0.0.1", "kind": "dsse",
                "spec": {
                    "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"").hexdigest()},
                    "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
                    "signatures": [{"signature": signature, "verifier": b64(pem)}],
                },
            }, separators=(",", ":"),
        ).encode()  # fmt: skip
        log = hashlib.sha256(der(self.log)).digest()
        tree = b64(hashlib.sha256(b"\0" + body).digest())
        note = f"log.example\n1\n{tree}\n"
        signed = b64(log[:4] + self.log.sign(note.encode(), ECDSA))
        promise = {"body": b64(body), "integratedTime": int(NOW.timestamp()), "logID": log.hex(), "logIndex": 0}
        canonical = json.dumps(promise, sort_keys=True, separators=(",", ":")).encode()
        return {
            "logIndex": "0", "logId": {"keyId": b64(log)}, "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(promise["integratedTime"]),
            "inclusionPromise": {"signedEntryTimestamp": b64(self.log.sign(canonical, ECDSA))},
            "inclusionProof": {
                "logIndex": "0", "rootHash": tree, "treeSize": "1", "hashes": [],
                "checkpoint": {"envelope": f"{note}\n— log.example {signed}\n"},
            },
            "canonicalizedBody": b64(body),
        }  # fmt: skip


def statement(folder: Path) -> bytes:
    """The statement about a folder, as model signing makes it."""
    from model_signing import hashing
    from model_signing._signing.signing import Payload

    config = hashing.Config().set_ignored_paths(paths=[folder / SIGNATURE], ignore_git_paths=False)
    from google.protobuf import json_format

    return json_format.MessageToJson(Payload(config.hash(folder)).statement.pb).encode()


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Path, Instance]:
    folder, instance = files(tmp_path), Instance()
    (folder / SIGNATURE).write_text(json.dumps(instance.sign(statement(folder))))
    return folder, instance


def us(instance: Instance, **other: Any) -> signing.SigstoreSigner:
    return signing.SigstoreSigner(
        **{"name": "us", "identity": IDENTITY, "issuer": ISSUER, "trust_root": instance.trust_root(), **other}
    )


def test_an_identity_signs_through_sigstore(signed: tuple[Path, Instance]) -> None:
    folder, instance = signed
    listed = signing.verify(folder, SIGNATURE, us(instance))
    assert listed["model/weights"] == hashlib.sha256(b"weights").hexdigest()
    (folder / "model" / "weights").write_bytes(b"weighty")
    with pytest.raises(signing.Broken, match="Hash mismatch for 'model/weights'"):
        signing.verify(folder, SIGNATURE, us(instance))


def test_another_identity_issuer_or_root_does_not(signed: tuple[Path, Instance]) -> None:
    folder, instance = signed
    others = (
        us(instance, identity="them@example.org"), us(instance, issuer="https://other.example"), us(Instance()),
        us(instance, trust_root=None),
    )  # fmt: skip
    for other in others:
        with pytest.raises(signing.Broken, match="does not hold under us"):
            signing.verify(folder, SIGNATURE, other)


def test_a_bundle_without_its_proofs_does_not_hold(signed: tuple[Path, Instance]) -> None:
    folder, instance = signed
    place = folder / SIGNATURE
    whole = json.loads(place.read_text())
    whole["verificationMaterial"]["tlogEntries"] = []
    place.write_text(json.dumps(whole))
    with pytest.raises(signing.Broken, match="does not hold under us"):
        signing.verify(folder, SIGNATURE, us(instance))
