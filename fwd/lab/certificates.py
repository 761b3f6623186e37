"""A small certificate authority for the lab: a CA, and a certificate for each of two gateways, in a directory.

    x509ca/ca.pem, x509/gw2.pem, private/gw2.key     where swanctl looks for them
    gw1.pem, gw1.key                                 fwd's

`fault` makes fwd's certificate wrong: "expired", or "foreign" (of a CA that nobody knows).
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey


def make(directory: Path, fault: str = "") -> None:
    """Write them all."""
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca = _certificate("fwd lab CA", ca_key, "fwd lab CA", ca_key)
    foreign = ec.generate_private_key(ec.SECP256R1())
    for name in ("x509ca", "x509", "private"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "x509ca/ca.pem").write_bytes(ca.public_bytes(Encoding.PEM))
    for host in ("gw1", "gw2"):
        key = ec.generate_private_key(ec.SECP256R1())
        signer = foreign if (host, fault) == ("gw1", "foreign") else ca_key
        ended = _DAY if (host, fault) == ("gw1", "expired") else -_DAY
        leaf = _certificate(f"{host}.example", key, "fwd lab CA", signer, ended)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        where = (directory / "gw1.pem", directory / "gw1.key")
        if host == "gw2":
            where = (directory / "x509/gw2.pem", directory / "private/gw2.key")
        where[0].write_bytes(leaf.public_bytes(Encoding.PEM))
        where[1].touch(mode=0o600)
        where[1].write_bytes(pem)


def _certificate(name: str, key: Key, issuer: str, signer: Key, ended: datetime.timedelta = -_DAY) -> x509.Certificate:
    """`ended`: how long ago its time ran out."""
    now = datetime.datetime.now(datetime.UTC)
    is_ca = name == issuer
    builder = (
        x509.CertificateBuilder().subject_name(_name(name)).issuer_name(_name(issuer)).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - 3 * _DAY).not_valid_after(now - ended)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip
    if is_ca:
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
            key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
