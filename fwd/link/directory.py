"""What `fwd join` has put on a host, in a directory for root alone.

    controller.json               where the controller is, and who this host is there
    ca.pem, document.key          whom it believes: CAs, and the key that signs documents (base64)
    link.key, link.pem, link.csr  link's own: key, certificate, and the request by which that is renewed
    ike.key, ike.pem, ike.csr     keyd's, of a gateway
    crl.pem                       what the CAs have revoked, once a document has brought it
    probe.key                     of the VPC's routers and gateways, once a document has brought it
    document, held, seen          documents (kept.py)

Refused, as UserError of one line: a directory that is not there, or that others may write to, and what cannot be read.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fwd.files import open_public, read_copy, sync, why_not_believed
from fwd.model.keys import CertificateKeys
from fwd.model.words import DAY_S
from fwd.proto.errors import UserError

ABOUT: Final = "controller.json"
CA, CRL, DOCUMENT_KEY = "ca.pem", "crl.pem", "document.key"
LINK, IKE = "link", "ike"  # .key, .pem, .csr
GRACE_S: Final = 7 * DAY_S  # for which certificates are taken that have ended while the controller is away
_OCTETS_MAX: Final = 1 << 20
_OWNER_ONLY: Final = 0o600


@dataclass(frozen=True)
class About:
    """Where the controller is, and who this host is there."""

    url: str
    cluster_id: str
    name: str
    identity: str  # by which IKE knows this gateway


class Directory:
    """See the module."""

    def __init__(self, path: Path) -> None:
        """Look at it. Raises UserError."""
        self.path = path
        try:
            about = path.stat()
        except OSError as error:
            raise UserError(
                f"{path} (controller.directory): {error.strerror}; `fwd join URL --token-file FILE` makes it"
            ) from None
        if why := why_not_believed(about):
            raise UserError(f"{path}: {why}")

    def about(self) -> About:
        """Read where the controller is. Raises UserError."""
        try:
            fields = json.loads(self.octets(ABOUT))
            found = About(**{name: fields[name] for name in About.__dataclass_fields__})
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{self.path / ABOUT}: damaged: `fwd join --again`") from None
        if not all(isinstance(value, str) for value in asdict(found).values()):
            raise UserError(f"{self.path / ABOUT}: damaged: `fwd join --again`")
        return found

    def document_key(self) -> Ed25519PublicKey:
        """Read the key by which documents are signed. Raises UserError."""
        try:
            return Ed25519PublicKey.from_public_bytes(
                base64.b64decode(self.octets(DOCUMENT_KEY).strip(), validate=True)
            )
        except ValueError:
            raise UserError(f"{self.path / DOCUMENT_KEY}: no key of 32 octets in base64: `fwd join --again`") from None

    def octets(self, name: str) -> bytes:
        """Read a file. Raises UserError."""
        fd = open_public(self.path / name, name, _OCTETS_MAX)
        try:
            return read_copy(fd)
        finally:
            os.close(fd)

    def keys(self, *, with_crl: bool) -> CertificateKeys:
        """Return how peerings of the controller's authenticate."""
        return CertificateKeys(
            source="cert",
            certificate=self.path / "ike.pem",
            key=self.path / "ike.key",
            authorities=self.path / CA,
            crls=[self.path / CRL] if with_crl else [],
            cert_grace=GRACE_S,
        )

    @property
    def has_crl(self) -> bool:
        """Whether there is a CRL."""
        return (self.path / CRL).exists()

    def put(self, name: str, data: bytes) -> None:
        """Have this in a file's place, on the disk. Raises OSError; then that of before stays."""
        put(self.path, name, data)


def put(directory: Path, name: str, data: bytes) -> None:
    """Have this in the file's place, on the disk. Raises OSError."""
    new = directory / f".{name}.new"
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)
    new.rename(directory / name)
    sync(directory)
