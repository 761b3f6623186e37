"""Keys to try IKEv2 with: pre-shared keys, and a small certificate authority with a certificate for each gateway.

ECDSA with P-256, PKCS #8 and X.509 in PEM. Files with secrets have mode 0600, and nothing is overwritten: refused, as
UserError, is a file that is there. For a real PKI use your own.
"""

from __future__ import annotations

import datetime
import os
import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fwd.proto.errors import UserError

AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 365
_PSK_BYTES = 32
_Key = ec.EllipticCurvePrivateKey
_BEFORE = datetime.timedelta(hours=1)  # clocks differ
_NO_USAGE: Final = dict.fromkeys(
    ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
     "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """A private key and its certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def authority(name: str = "fwd CA", days: int = AUTHORITY_DAYS) -> Pair:
    """A CA that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(name)
    builder = _builder(subject, subject, key, key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    usage = x509.KeyUsage(**{**_NO_USAGE, "key_cert_sign": True, "crl_sign": True})
    return Pair(key, builder.add_extension(usage, critical=True).sign(key, hashes.SHA256()))


def issue(ca: Pair, name: str, days: int = CERTIFICATE_DAYS) -> Pair:
    """A gateway's certificate; `name` is its identity, an address or a host name. `days` below 0: ended so long ago."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name(name), ca.certificate.subject, key, ca.key, days)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name)]), critical=False)
    usage = x509.KeyUsage(**{**_NO_USAGE, "digital_signature": True})
    return Pair(key, builder.add_extension(usage, critical=True).sign(ca.key, hashes.SHA256()))


def write_psk(path: Path) -> None:
    """Write a file with a fresh pre-shared key, in letters that nobody takes for another form of it.

    Text in base64 would begin with 0x or 0s, which say what follows, once in two thousand times.
    """
    _write(path, secrets.token_hex(_PSK_BYTES).encode() + b"\n", 0o600)


def write_authority(directory: Path, names: list[str]) -> list[Path]:
    """ca.pem, ca.key, and NAME.pem and NAME.key for each name; with a CA that is there already, only the latter."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "ca.key").exists():
        ca = _read_authority(directory)
        written = []
    else:
        ca = authority()
        written = _write_pair(directory, "ca", ca)
    for name in names:
        if "/" in name or not name:
            raise UserError(f"{name!r}: not a name for a certificate")
        written += _write_pair(directory, name, issue(ca, name))
    return written


def _read_authority(directory: Path) -> Pair:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key((directory / "ca.key").read_bytes(), None)
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{directory}: its ca.key and ca.pem cannot be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{directory}/ca.key: not an ECDSA key")
    return Pair(key, certificate)


def _write_pair(directory: Path, name: str, pair: Pair) -> list[Path]:
    paths = [directory / f"{name}.key", directory / f"{name}.pem"]
    _write(paths[0], pair.key_pem(), 0o600)
    _write(paths[1], pair.certificate_pem(), 0o644)
    return paths


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise UserError(f"{path} is there already: nothing is overwritten") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    start, end = now - _BEFORE, now + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(start, end - _BEFORE))
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)
