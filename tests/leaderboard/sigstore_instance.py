"""A Sigstore of our own, whole but small: an authority, a certificate log, a transparency log of one entry.

What it signs the real `sigstore` program verifies when it is told to trust this instance. Formats: RFC 6962
(timestamp of the certificate log, leaf and root of a tree of one), RFC 8785 and Rekor's hashedrekord 0.0.1
(the entry and its promise), the signed note of a checkpoint, and the bundle of Sigstore's protobuf-specs 0.3.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import struct
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_ISSUER, _SCT_LIST = "1.3.6.1.4.1.57264.1.1", "1.3.6.1.4.1.11129.2.4.2"
_DER, _SPKI = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
_SHA256 = ec.ECDSA(hashes.SHA256())


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _der(kind: int, data: bytes) -> bytes:
    assert len(data) < 256
    return bytes([kind, len(data)] if len(data) < 128 else [kind, 0x81, len(data)]) + data


class Instance:
    """Keys of an authority and two logs."""

    def __init__(self) -> None:
        self.ca, self.ct, self.rekor = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
        self.now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of a test")])
        self.root = (
            self._certificate(self.name, self.ca, dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.ca.public_key()), critical=False)
            .sign(self.ca, hashes.SHA256())
        )

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, around: dt.timedelta
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - around)
            .not_valid_after(self.now + around)
        )

    def trust(self) -> str:
        """What `sigstore --trust-config` reads."""
        always = {"start": (self.now - dt.timedelta(days=2)).strftime("%Y-%m-%dT%H:%M:%SZ")}

        def log(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            public = key.public_key().public_bytes(_DER, _SPKI)
            details = {"rawBytes": _b64(public), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": always}
            return {
                "baseUrl": "https://log.invalid",
                "hashAlgorithm": "SHA2_256",
                "publicKey": details,
                "logId": {"keyId": _b64(hashlib.sha256(public).digest())},
            }

        chain = {"certificates": [{"rawBytes": _b64(self.root.public_bytes(_DER))}]}
        subject = {"organization": "test", "commonName": "an authority of a test"}
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": {
                    "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                    "tlogs": [log(self.rekor)],
                    "ctlogs": [log(self.ct)],
                    "certificateAuthorities": [{"subject": subject, "certChain": chain, "validFor": always}],
                },
                "signingConfig": {"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json"},
            }
        )

    def sign(self, data: bytes, identity: str, issuer: str) -> str:
        """The bundle of a signature by who logged in as `identity` with `issuer`, as JSON."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = (
            self._certificate(x509.Name([]), key, dt.timedelta(minutes=10))
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName([x509.RFC822Name(identity)]), critical=True)
            .add_extension(_unknown(_ISSUER, issuer.encode()), critical=False)
        )
        listed = self._timestamp(leaf.sign(self.ca, hashes.SHA256()).tbs_certificate_bytes)
        leaf = leaf.add_extension(_unknown(_SCT_LIST, _der(0x04, listed)), critical=False)
        certificate = leaf.sign(self.ca, hashes.SHA256())
        digest = hashlib.sha256(data).digest()
        signature = key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        entry = self._entry(certificate.public_bytes(serialization.Encoding.PEM), signature, digest.hex())
        bundle = {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": _b64(certificate.public_bytes(_DER))},
                "tlogEntries": [entry],
            },
            "messageSignature": {
                "messageDigest": {"algorithm": "SHA2_256", "digest": _b64(digest)},
                "signature": _b64(signature),
            },
        }
        return json.dumps(bundle)

    def _timestamp(self, tbs: bytes) -> bytes:
        """List of one timestamp of the certificate log (RFC 6962, 3.2 and 3.3)."""
        issuer, log = (hashlib.sha256(k.public_key().public_bytes(_DER, _SPKI)) for k in (self.ca, self.ct))
        time_ms = int(self.now.timestamp() * 1000)
        entry = issuer.digest() + len(tbs).to_bytes(3, "big") + tbs
        signature = self.ct.sign(struct.pack("!BBQH", 0, 0, time_ms, 1) + entry + b"\0\0", _SHA256)
        head = b"\0" + log.digest() + struct.pack("!QH", time_ms, 0)
        sct = head + struct.pack("!BBH", 4, 3, len(signature)) + signature  # sha256, ecdsa
        one = struct.pack("!H", len(sct)) + sct
        return struct.pack("!H", len(one)) + one

    def _entry(self, certificate: bytes, signature: bytes, digest: str) -> dict[str, Any]:
        """The entry of the transparency log: the only one of its tree."""
        body = rfc8785.dumps(
            {
                "apiVersion": "0.0.1",
                "kind": "hashedrekord",
                "spec": {
                    "data": {"hash": {"algorithm": "sha256", "value": digest}},
                    "signature": {
                        "content": _b64(signature),
                        "publicKey": {"content": _b64(certificate)},
                    },
                },
            }
        )
        log = hashlib.sha256(self.rekor.public_key().public_bytes(_DER, _SPKI)).digest()
        time_s = int(self.now.timestamp())
        promised = {"body": _b64(body), "integratedTime": time_s, "logID": log.hex(), "logIndex": 0}
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.invalid\n1\n{_b64(root)}\n"
        signed = _b64(log[:4] + self.rekor.sign(note.encode(), _SHA256))
        return {
            "logIndex": "0",
            "logId": {"keyId": _b64(log)},
            "kindVersion": {"kind": "hashedrekord", "version": "0.0.1"},
            "integratedTime": str(time_s),
            "inclusionPromise": {
                "signedEntryTimestamp": _b64(self.rekor.sign(rfc8785.dumps(promised), _SHA256))
            },
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": f"{note}\n\u2014 log.invalid {signed}\n"},
            },
            "canonicalizedBody": _b64(body),
        }


def _usage(*, sign: bool) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    none = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
    return x509.KeyUsage(digital_signature=sign, key_cert_sign=not sign, crl_sign=not sign, **none)


def _unknown(oid: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
