"""The controller's own keys, in its state directory: made at the first start, read at each later one.

    ca.key                  the CA that issues: its key and its certificate
    other.key               while the CA is replaced (rotate.py): the one that will issue, or did so before
    old.key                 the one that was replaced last; it is not read
    ca.pem                  the certificates of both, to be trusted
    told.pem                those of them that hosts are told of since the controller's last start
    document.key            signs what hosts are to do (link/document.py)
    server.key, server.pem  for TLS; the certificate is made anew at half of its life
    admin.token             the first bearer token, made when the store has no admin's
    client.toml             by which `fwd vpc` and its like find this controller

The directory is for its owner alone (0700), and so is each file (0600); what others could have written is refused.
Several controllers of one fleet have the same ca.key, other.key and document.key: copy them before the first start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fwd.controller import ca
from fwd.files import open_secret, read_copy, sync, why_not_believed
from fwd.proto.errors import UserError

_FILE_BYTES_MAX: Final = 65536
_OTHERS: Final = 0o077
CA_KEY, CA_PEM, OTHER_KEY, OLD_KEY = "ca.key", "ca.pem", "other.key", "old.key"
TOLD_PEM: Final = "told.pem"
_SWAP: Final = "swap.key"  # the CA that has issued, while another one takes its place
DOCUMENT_KEY, SERVER_KEY, SERVER_PEM = "document.key", "server.key", "server.pem"
ADMIN_TOKEN, CLIENT = "admin.token", "client.toml"


@dataclass(frozen=True)
class Keys:
    """What the controller vouches and signs with. `other`: a second CA that hosts trust."""

    authority: ca.Authority
    document: Ed25519PrivateKey
    other: ca.Authority | None = None

    def trusted(self) -> list[x509.Certificate]:
        """The CAs that hosts trust, the one that issues first."""
        return [self.authority.certificate, *([self.other.certificate] if self.other else [])]


def open_state(directory: Path) -> None:
    """Make the directory, or see that it is the owner's alone. Raises UserError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = directory.stat()
    except OSError as error:
        raise UserError(f"{directory}: the controller's state cannot be kept here: {error.strerror}") from None
    if reason := why_not_believed(about):
        raise UserError(f"{directory}: {reason}")
    if about.st_mode & _OTHERS:
        raise UserError(f"{directory}: others may look into the controller's state: chmod 700 it")


def load(directory: Path, now: float) -> Keys:
    """Read the keys, and make those that are not there. Raises UserError."""
    if not (directory / CA_KEY).exists() and not (directory / CA_PEM).exists():
        _make_document_key(directory)
        write_authority(directory / CA_KEY, ca.new_authority("fwd controller", now))
    _mend_swap(directory)
    other = _authority(directory / OTHER_KEY) if (directory / OTHER_KEY).exists() else None
    found = Keys(_authority(directory / CA_KEY), _document_key(directory / DOCUMENT_KEY), other)
    write(directory / CA_PEM, ca.bundle(found.trusted()))
    return found


def note_told(directory: Path, keys: Keys) -> None:
    """Keep which CAs hosts are told to trust from now on. Raises UserError."""
    write(directory / TOLD_PEM, ca.bundle(keys.trusted()))


def is_told(directory: Path, keys: Keys) -> bool:
    """Whether the controller has started since the CAs were changed last. Raises UserError."""
    path = directory / TOLD_PEM
    return path.exists() and read(path) == ca.bundle(keys.trusted())


def swap_authorities(directory: Path, authority: ca.Authority) -> None:
    """Have the other CA issue in place of this one; whenever it ends, both are there. Raises UserError."""
    write_authority(directory / _SWAP, authority)
    try:
        (directory / OTHER_KEY).replace(directory / CA_KEY)
        _mend_swap(directory)
    except OSError as error:
        raise UserError(f"{directory}: the CA cannot be replaced: {error.strerror}") from None


def _mend_swap(directory: Path) -> None:
    """End a swap that was begun: before its first step it was none."""
    swap, other = directory / _SWAP, directory / OTHER_KEY
    if swap.exists() and not other.exists():
        sync(directory)  # the first step is on disk before the second one
        swap.replace(other)
        sync(directory)
    swap.unlink(missing_ok=True)


def write_authority(path: Path, authority: ca.Authority) -> None:
    """Write a CA's key and certificate. Raises UserError."""
    write(path, authority.key_pem() + ca.pem(authority.certificate))


def server_key(directory: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key of the controller's TLS, or make it. Raises UserError."""
    path = directory / SERVER_KEY
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1())
        write(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    key = _read_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UserError(f"{directory / SERVER_KEY}: not an ECDSA key: remove it, and a new one is made")
    return key


def write(path: Path, data: bytes) -> None:
    """Write a file of the state directory, whole or not at all. Raises UserError."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> bytes:
    """Read a file of the state directory. Raises UserError."""
    fd = open_secret(path, path.name, _FILE_BYTES_MAX)
    try:
        return read_copy(fd)
    finally:
        os.close(fd)


def _authority(path: Path) -> ca.Authority:
    data = read(path)
    try:
        return ca.load_authority(data, data)
    except ValueError as error:
        raise UserError(f"{path}: no CA with its certificate: {error}") from None


def _make_document_key(directory: Path) -> None:
    """Make it with the CA and never after: hosts believe the one alone that they were told of when they joined."""
    if not (directory / DOCUMENT_KEY).exists():
        key = Ed25519PrivateKey.generate()
        data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write(directory / DOCUMENT_KEY, data)


def _document_key(path: Path) -> Ed25519PrivateKey:
    if not path.exists():
        raise UserError(f"{path} is missing: put back the one that hosts have been told of")
    key = _read_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: not an Ed25519 key: put back the one that hosts have been told of")
    return key


def _read_key(path: Path) -> object:
    try:
        return load_pem_private_key(read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UserError(f"{path}: no private key in PEM") from None
