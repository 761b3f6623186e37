"""What a peering's SAs were authenticated by, in a form by which keyd's successor can tell whether that has changed.

SIGHUP may have brought another secret, CA or identity: then what the old one authenticated ends after a while
(`grace`).
A certificate that was renewed by the same CA for the same identity, ours or the peer's, changes nothing; one that a CRL
names ends at once what it authenticated. The note is kept in keyd's own socket pair (mailbox.py) and nowhere else: a
digest under a random key, so that two notes of one secret are not alike, and the peer's certificates, which are public.
"""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fwd.proto.ike import trust
from fwd.proto.ike.auth import Certificates, Credentials, Psk
from fwd.proto.ike.events import Connection, Standing
from fwd.proto.ike.payloads import Identity

_KEY_BYTES = _DIGEST_BYTES = 32
_LENGTH = struct.Struct(">I")
CHANGED: Final = "the secret, CAs or identities have changed"
Chain = Sequence[x509.Certificate]


@dataclass(frozen=True)
class Note:
    """See the module. `chains`: DER of the peer's certificates, of each proof that an SA rests on."""

    key: bytes
    digest: bytes
    chains: tuple[tuple[bytes, ...], ...]

    def encode(self) -> bytes:
        return self.key + self.digest + b"".join(_block(b"".join(map(_block, chain))) for chain in self.chains)

    @classmethod
    def decode(cls, data: bytes) -> Note | None:
        """None: there is none."""
        if len(data) < _KEY_BYTES + _DIGEST_BYTES:
            return None
        chains = tuple(tuple(_blocks(one)) for one in _blocks(data[_KEY_BYTES + _DIGEST_BYTES :]))
        return cls(data[:_KEY_BYTES], data[_KEY_BYTES : _KEY_BYTES + _DIGEST_BYTES], chains)


class Proof:
    """What both sides authenticate by now."""

    def __init__(self, credentials: Credentials, local_id: Identity, remote_id: Identity) -> None:
        self._credentials = credentials
        self._octets = b"".join(map(_block, (*_of_credentials(credentials), local_id.encode(), remote_id.encode())))
        self._key = os.urandom(_KEY_BYTES)

    @classmethod
    def of(cls, connection: Connection) -> Proof:
        """Return that of a connection."""
        return cls(connection.credentials, connection.local_id, connection.remote_id)

    def note(self, chains: Iterable[Chain], before: Note | None = None) -> Note:
        """For keyd's successor; `chains`: of the peer's certificates; `before`: of a predecessor that still matters."""
        found = {tuple(one.public_bytes(Encoding.DER) for one in chain) for chain in chains if chain}
        found |= set(before.chains) if before is not None else set()
        return Note(self._key, hmac.digest(self._key, self._octets, "sha256"), tuple(sorted(found)))

    def is_that_by(self, before: Proof) -> bool:
        """Whether what they authenticated by before is the same."""
        return hmac.compare_digest(self._octets, before._octets)

    def why_chain_revoked(self, chain: Chain) -> str:
        """Say which of a peer's certificates a CRL names; empty: none."""
        return trust.why_revoked(chain, self._credentials.rules) if isinstance(self._credentials, Certificates) else ""

    def is_that_of(self, note: Note) -> bool:
        """Whether the note's SAs were authenticated by the same secret or CAs, and between the same identities."""
        return hmac.compare_digest(note.digest, hmac.digest(note.key, self._octets, "sha256"))

    def why_revoked(self, note: Note) -> str:
        """Say which of the peer's certificates a CRL names; empty: none."""
        for chain in note.chains:
            if reason := self.why_chain_revoked([x509.load_der_x509_certificate(data) for data in chain]):
                return reason
        return ""


@dataclass(frozen=True)
class Doubt:
    """Whether what was proved before still holds, now that both are to prove themselves by `proof`."""

    proof: Proof
    before: Proof
    grace_s: float
    now: float

    @property
    def changed(self) -> bool:
        """Whether secret, CAs or identities are others."""
        return not self.proof.is_that_by(self.before)

    def ends(self, standing: Standing) -> float:
        """Return when what rests on this ends at the latest, on keyd's clock."""
        if self.proof.why_chain_revoked(standing.chain):
            return self.now
        return self.now + self.grace_s if self.changed else float("inf")

    def reason(self, chains: Iterable[Chain]) -> str:
        """Say why something ends; empty: nothing does. `chains`: of the peer's certificates."""
        revoked = {self.proof.why_chain_revoked(chain) for chain in chains} - {""}
        return ", ".join(sorted(revoked)) or (CHANGED if self.changed else "")


def _of_credentials(credentials: Credentials) -> list[bytes]:
    """What must stay as it is. Of our own certificate that is who has issued it, of a pinned one its key."""
    if isinstance(credentials, Psk):
        return [b"psk", credentials.secret]
    pinned = credentials.rules.pinned
    key = pinned.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) if pinned else b""
    authorities = sorted(one.public_bytes(Encoding.DER) for one in credentials.authorities)
    return [b"cert", credentials.chain[0].issuer.public_bytes(), key, *authorities]


def _block(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _blocks(data: bytes) -> Iterable[bytes]:
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        yield data[at : at + length]
        at += length
