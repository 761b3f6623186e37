"""Certificates of every kind of key, made for a test, and wrong in whatever way it wants."""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from ikekit import WALL

from fwd.proto.ike import auth
from fwd.proto.ike.auth import Certificates

NOW = auth.time_of(WALL)
DAY = datetime.timedelta(days=1)
IS_CA = x509.BasicConstraints(ca=True, path_length=None)
# Primes that are there at once: to look for others takes seconds.
MERSENNE = {bits: (1 << bits) - 1 for bits in (607, 1279, 2203, 2281)}
RSA = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: RSA,
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


def hash_of(key: Any) -> Any:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def rsa_key(p: int, q: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """The RSA key of two primes and an exponent, or the next one that they can have."""
    order = (p - 1) * (q - 1)
    while math.gcd(exponent, order) != 1:
        exponent += 2
    d = pow(exponent, -1, order)
    public = rsa.RSAPublicNumbers(exponent, p * q)
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


@functools.cache
def costly_key(exponent_bits: int = 3000) -> rsa.RSAPrivateKey:
    """An RSA key whose owner signs cheaply, and whose signatures others check dearly."""
    return rsa_key(MERSENNE[1279], MERSENNE[2203], (1 << (exponent_bits - 1)) | 1)


class Ca:
    """A certificate authority made for a test that takes place at `now`.

    `extensions`: (extension, whether it is critical), instead of basicConstraints and keyUsage, both critical.
    """

    def __init__(
        self,
        name: str = "fwd test CA",
        key: Any = None,
        parent: Ca | None = None,
        now: Any = NOW,
        extensions: Any = None,
    ) -> None:
        self.key, self.now = key or KEYS["P-256"](), now
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        signer = parent or self
        usual = ((IS_CA, True), (key_usage(key_cert_sign=True, crl_sign=True), True))
        builder = _builder(self.name, signer.name, self.key, now - 10 * DAY, now + 10 * DAY)
        for extension, critical in usual if extensions is None else extensions:
            builder = builder.add_extension(extension, critical=critical)
        self.certificate = (
            builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False)
            .sign(signer.key, hash_of(signer.key))
        )

    def issue(self, name: str, key: Any, **changes: Any) -> x509.Certificate:
        subject = changes.get("subject", x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        names = changes.get("names", [x509.DNSName(name)])
        start, end = changes.get("start", self.now - DAY), changes.get("end", self.now + DAY)
        builder = _builder(subject, self.name, key, start, end)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage := changes.get("usage"):
            builder = builder.add_extension(usage, critical=True)
        if purposes := changes.get("purposes"):
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        for extension, critical in changes.get("extensions", ()):
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hash_of(self.key))

    def crl(self, *revoked: x509.Certificate, end: Any = None, extensions: Any = ()) -> x509.CertificateRevocationList:
        """What it says of certificates that are revoked, until `end`, by default tomorrow."""
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(self.now - 2 * DAY)
        builder = builder.next_update(end or self.now + DAY)
        for certificate in revoked:
            one = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number)
            builder = builder.add_revoked_certificate(one.revocation_date(self.now - DAY).build())
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(self.key, hash_of(self.key))


def _builder(subject: x509.Name, issuer: x509.Name, key: Any, start: Any, end: Any) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
    )  # fmt: skip


def key_usage(**on: bool) -> x509.KeyUsage:
    fields = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: on.get(name, False) for name in fields})


def credentials(ca: Ca, name: str, kind: str = "P-256", trusts: Ca | None = None, **changes: Any) -> Certificates:
    key = KEYS[kind]()
    return Certificates(key, (ca.issue(name, key, **changes),), ((trusts or ca).certificate,))


def signed(ca: Ca, tbs: bytes) -> bytes:
    """Whatever octets as a certificate of a CA that signs with P-256."""
    signature = ca.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    return _der(0x30, tbs, _der(0x30, bytes.fromhex("06082a8648ce3d040302")), _der(0x03, b"\0", signature))


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    length = bytes([len(body)]) if len(body) < 128 else b"\x82" + len(body).to_bytes(2, "big")
    return bytes([tag]) + length + body
