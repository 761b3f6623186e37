"""Files with secrets: opened by the supervisor, which does not read them, and read by keyd from the descriptors.

Refused, as SecretError of one line: what is no regular file, what others than its owner can read, what belongs to
somebody else, what is too short or cannot be understood. The lab's secret is unlinked once it is open.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fwd.config import CertificateKeys, Keys, LabKeys, PskKeys
from fwd.proto.errors import UserError
from fwd.proto.ike.auth import Certificates, Credentials, Psk

SECRET_BYTES_MIN: Final = 32  # of the lab's
PSK_BYTES_MIN: Final = 16
_FILE_BYTES_MAX = 1 << 20


class SecretError(UserError):
    """A secret that cannot be used."""


def open_all(keys: Keys) -> dict[str, int]:
    """Descriptors of the files that a peering's keys name, by the configuration's word. Raises SecretError."""
    if isinstance(keys, LabKeys):
        return {"secret": open_secret(keys.secret)}
    if isinstance(keys, PskKeys):
        return {"secret": open_secret(keys.secret, octets_min=PSK_BYTES_MIN, unlink=False)}
    opened: dict[str, int] = {}
    try:
        opened["key"] = open_secret(keys.key, octets_min=1, unlink=False)
        for name, path in (("certificate", keys.certificate), ("authorities", keys.authorities)):
            opened[name] = _open(path, "certificate")
    except SecretError:
        for fd in opened.values():
            os.close(fd)
        raise
    return opened


def open_secret(path: Path, *, octets_min: int = SECRET_BYTES_MIN, unlink: bool = True) -> int:
    """Open a secret file without reading it; returns the descriptor. Raises SecretError."""
    fd = _open(path, "secret")
    about = os.fstat(fd)
    reason = None
    if not stat.S_ISREG(about.st_mode):
        reason = "is not a regular file"
    elif about.st_mode & 0o077:
        reason = f"can be read by others (mode {stat.S_IMODE(about.st_mode):04o}): chmod 600 it, and draw a new one"
    elif about.st_uid != os.geteuid():
        reason = f"belongs to user {about.st_uid}, not to the user who runs fwd"
    elif about.st_size < octets_min:
        reason = f"holds {about.st_size} bytes, needs {octets_min} or more"
    if reason:
        os.close(fd)
        raise SecretError(f"{path}: secret {reason}")
    try:
        if unlink:
            path.unlink()
    except OSError as error:
        os.close(fd)
        raise SecretError(f"{path}: secret cannot be unlinked: {error.strerror}") from None
    return fd


def _open(path: Path, what: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SecretError(f"{path}: {what} cannot be opened: {error.strerror}") from None


def credentials(keys: Keys, fds: dict[str, int]) -> Credentials:
    """What is in the files. Raises SecretError."""
    read = {name: os.pread(fd, _FILE_BYTES_MAX, 0) for name, fd in fds.items()}
    if isinstance(keys, PskKeys):
        return _psk(read["secret"].rstrip(b"\r\n"), keys.secret)
    assert isinstance(keys, CertificateKeys)
    try:
        key = load_pem_private_key(read["key"], None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SecretError(f"{keys.key}: no private key in PEM that can be used: {error}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise SecretError(f"{keys.key}: a private key of this kind cannot sign for IKEv2: use ECDSA, Ed25519 or RSA")
    chain = _certificates(read["certificate"], keys.certificate)
    if chain[0].public_key() != key.public_key():
        raise SecretError(f"{keys.certificate}: the first certificate is not for {keys.key}")
    return Certificates(key, chain, _certificates(read["authorities"], keys.authorities))


def _psk(secret: bytes, path: Path) -> Psk:
    """Octets as they are, or behind 0x as hex (RFC 7296 §2.15)."""
    if not secret.startswith(b"0x"):
        return Psk(secret)
    try:
        octets = bytes.fromhex(secret[2:].decode("ascii"))
    except ValueError:
        raise SecretError(f"{path}: secret begins with 0x, and what follows is no hex") from None
    if len(octets) < PSK_BYTES_MIN:
        raise SecretError(f"{path}: secret holds {len(octets)} bytes, needs {PSK_BYTES_MIN} or more")
    return Psk(octets)


def _certificates(data: bytes, path: Path) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError as error:
        raise SecretError(f"{path}: no certificate in PEM: {error}") from None
