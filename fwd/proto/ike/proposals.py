"""Proposals: what may protect an SA, in swanctl's words and on the wire (RFC 7296 §2.7 and §3.3, RFC 5282, RFC 4106).

    aes256gcm16-prfsha384-x25519     IKE: cipher, PRF, group
    aes256gcm16-esn-noesn            ESP: cipher, extended sequence numbers first, without them as well
    aes128gcm16-ecp256-noesn         ESP with a Diffie-Hellman exchange of its own when it is rekeyed
    aes128gcm16-ecp256-none-noesn    ESP with such an exchange if the peer wants it, too

Several words of one kind are alternatives. Only AES-GCM with a 16-octet ICV, HMAC-SHA-2 PRFs and elliptic curves are
known: anything older is neither offered nor accepted. `choose` takes the first of ours that the peer offers. Further
key exchanges (RFC 9370) are passed over where the peer's offer says that they may be, by NONE.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from fwd.proto.ike.numbers import ESP_SPI_BYTES, SPI_BYTES, Protocol, TransformType, syntax

PROPOSALS_MAX: Final = 32
TRANSFORMS_MAX: Final = 64
AES_GCM_16: Final = 20
PRF_SHA256, PRF_SHA384 = 5, 6
ECP256, ECP384, X25519 = 19, 20, 31
NO_ESN, ESN = 0, 1
NONE: Final = 0  # no integrity algorithm, no key exchange, no further one
_FURTHER_KE: Final = range(6, 13)  # transform types of RFC 9370
_KEY_LENGTH: Final = 0x8000 | 14  # a fixed-length attribute
_PROPOSAL = struct.Struct(">BBHBBBB")
_TRANSFORM = struct.Struct(">BBHBBH")


@dataclass(frozen=True, order=True)
class Transform:
    """One algorithm. `key_bits` is 0 where it has one size only, -1 with attributes that fwd does not know."""

    type: int
    id: int
    key_bits: int = 0


WORDS: Final = {
    "aes256gcm16": Transform(TransformType.ENCR, AES_GCM_16, 256),
    "aes128gcm16": Transform(TransformType.ENCR, AES_GCM_16, 128),
    "prfsha384": Transform(TransformType.PRF, PRF_SHA384),
    "prfsha256": Transform(TransformType.PRF, PRF_SHA256),
    "x25519": Transform(TransformType.KE, X25519),
    "ecp256": Transform(TransformType.KE, ECP256),
    "ecp384": Transform(TransformType.KE, ECP384),
    "none": Transform(TransformType.KE, NONE),
    "esn": Transform(TransformType.ESN, ESN),
    "noesn": Transform(TransformType.ESN, NO_ESN),
}
_ALIASES: Final = {"curve25519": "x25519"}
_NAMES: Final = {transform: word for word, transform in WORDS.items()}
_NEEDED: Final = {
    Protocol.IKE: {TransformType.ENCR, TransformType.PRF, TransformType.KE},
    Protocol.ESP: {TransformType.ENCR, TransformType.ESN},
}
_ALLOWED: Final = {
    Protocol.IKE: _NEEDED[Protocol.IKE],
    Protocol.ESP: _NEEDED[Protocol.ESP] | {TransformType.KE},
}


@dataclass(frozen=True)
class Proposal:
    """Algorithms, alternatives of one type in order of preference; `spi` is the sender's (empty in IKE_SA_INIT)."""

    protocol: int
    transforms: tuple[Transform, ...]
    number: int = 1
    spi: bytes = b""

    def of(self, kind: TransformType) -> list[Transform]:
        """The alternatives of one type."""
        return [transform for transform in self.transforms if transform.type == kind]

    def one(self, kind: TransformType) -> Transform | None:
        """The only one of this type, in a proposal that was chosen; None: there is none."""
        found = self.of(kind)
        return found[0] if found else None

    @property
    def groups(self) -> list[int]:
        """The groups of its key exchange, without NONE."""
        return [transform.id for transform in self.of(TransformType.KE) if transform.id != NONE]

    def __str__(self) -> str:
        return "-".join(
            _NAMES.get(transform, f"{transform.type}:{transform.id}")
            for transform in self.transforms
            if transform.id != NONE or transform.type not in _FURTHER_KE
        )


def parse(text: str, protocol: Protocol) -> Proposal:
    """A proposal in swanctl's words. Raises ValueError, saying which word is wrong or missing."""
    transforms = []
    for word in text.lower().split("-"):
        transform = WORDS.get(_ALIASES.get(word, word))
        if transform is None:
            raise ValueError(f"proposal {text!r}: {word!r} is not known: use {', '.join(WORDS)}")
        if transform.type not in _ALLOWED[protocol] or (protocol is Protocol.IKE and word == "none"):
            raise ValueError(f"proposal {text!r}: {word!r} is not for {protocol.name}")
        transforms.append(transform)
    if protocol is Protocol.ESP and not any(t.type == TransformType.ESN for t in transforms):
        transforms += [WORDS["noesn"]]  # as swanctl has it
    missing = _NEEDED[protocol] - {transform.type for transform in transforms}
    if missing:
        names = ", ".join(sorted(TransformType(kind).name for kind in missing))
        raise ValueError(f"proposal {text!r}: {names} is missing")
    return Proposal(protocol, tuple(transforms))


def choose(ours: Sequence[Proposal], offered: Sequence[Proposal]) -> Proposal | None:
    """The first of ours that the peer offers, with one transform of each type and the peer's number and SPI.

    RFC 7296 §3.3.6: a proposal with a type of transform that we do not know is passed over as a whole; transforms that
    we do not know are passed over alone.
    """
    for mine in ours:
        for theirs in offered:
            if theirs.protocol == mine.protocol and (chosen := _common(mine, theirs)) is not None:
                return Proposal(mine.protocol, chosen, theirs.number, theirs.spi)
    return None


def _common(mine: Proposal, theirs: Proposal) -> tuple[Transform, ...] | None:
    """One transform of each type that `theirs` has, the first of ours; None: there is a type without a common one."""
    wanted, offered = _by_type(mine), _by_type(theirs)
    chosen = []
    for kind in sorted({*wanted, *offered}):
        # A type that may be left out stands for NONE where it is (RFC 7296 §3.3.2, RFC 9370 §2.2.1).
        left_out = [Transform(kind, NONE)] if _may_be_left_out(mine.protocol, kind) else []
        possible = offered.get(kind, left_out)
        match = next((transform for transform in wanted.get(kind, left_out) if transform in possible), None)
        if match is None:
            return None
        if kind in offered and kind != TransformType.INTEG:  # AEAD ciphers are answered without one (RFC 5282 §8)
            chosen.append(match)
    return tuple(chosen)


def _by_type(proposal: Proposal) -> dict[int, list[Transform]]:
    found: dict[int, list[Transform]] = {}
    for transform in proposal.transforms:
        found.setdefault(transform.type, []).append(transform)
    return found


def _may_be_left_out(protocol: int, kind: int) -> bool:
    return kind == TransformType.INTEG or kind in _FURTHER_KE or (kind == TransformType.KE and protocol == Protocol.ESP)


def is_choice_of(chosen: Proposal, offers: Sequence[Proposal]) -> bool:
    """Whether the peer's answer is one of our offers, with exactly one transform of each type (RFC 7296 §2.7)."""
    kinds = [transform.type for transform in chosen.transforms if transform.type != TransformType.INTEG]
    if len(kinds) != len(set(kinds)):
        return False
    for offer in offers:
        if offer.number == chosen.number and offer.protocol == chosen.protocol:
            return _common(offer, chosen) is not None
    return False


# -- on the wire --------------------------------------------------------------------------------------------------


def encode_proposals(proposals: Sequence[Proposal]) -> bytes:
    """Body of an SA payload."""
    parts = []
    for place, proposal in enumerate(proposals, 1):
        transforms = _encode_transforms(proposal.transforms)
        length = _PROPOSAL.size + len(proposal.spi) + len(transforms)
        more = 2 if place < len(proposals) else 0
        head = _PROPOSAL.pack(
            more, 0, length, proposal.number, proposal.protocol, len(proposal.spi), len(proposal.transforms)
        )
        parts.append(head + proposal.spi + transforms)
    return b"".join(parts)


def _encode_transforms(transforms: Sequence[Transform]) -> bytes:
    parts = []
    for place, transform in enumerate(transforms, 1):
        attributes = struct.pack(">HH", _KEY_LENGTH, transform.key_bits) if transform.key_bits else b""
        more = 3 if place < len(transforms) else 0
        parts.append(_TRANSFORM.pack(more, 0, _TRANSFORM.size + len(attributes), transform.type, 0, transform.id))
        parts.append(attributes)
    return b"".join(parts)


def decode_proposals(body: memoryview) -> tuple[Proposal, ...]:
    """The proposals of an SA payload. Raises ProtocolError."""
    found: list[Proposal] = []
    more = 2
    while more:
        if len(found) == PROPOSALS_MAX:
            raise syntax(f"SA: more than {PROPOSALS_MAX} proposals")
        if len(body) < _PROPOSAL.size:
            raise syntax("SA: proposal cut short")
        more, _, length, number, protocol, spi_bytes, count = _PROPOSAL.unpack_from(body)
        if more not in (0, 2) or not _PROPOSAL.size + spi_bytes <= length <= len(body):
            raise syntax("SA: length of a proposal")
        if spi_bytes not in {Protocol.IKE: (0, SPI_BYTES), Protocol.ESP: (ESP_SPI_BYTES,)}.get(protocol, range(256)):
            raise syntax(f"SA: SPI of {spi_bytes} octets")
        at = _PROPOSAL.size + spi_bytes
        spi = bytes(body[_PROPOSAL.size : at])
        found.append(Proposal(protocol, _decode_transforms(body[at:length], count), number, spi))
        body = body[length:]
    if len(body):
        raise syntax("SA: octets behind the last proposal")
    return tuple(found)


def _decode_transforms(body: memoryview, count: int) -> tuple[Transform, ...]:
    if count > TRANSFORMS_MAX:
        raise syntax(f"SA: more than {TRANSFORMS_MAX} transforms")
    found = []
    for place in range(count):
        if len(body) < _TRANSFORM.size:
            raise syntax("SA: transform cut short")
        more, _, length, kind, _, number = _TRANSFORM.unpack_from(body)
        if more != (3 if place < count - 1 else 0) or not _TRANSFORM.size <= length <= len(body):
            raise syntax("SA: length of a transform")
        found.append(Transform(kind, number, _key_bits(body[_TRANSFORM.size : length])))
        body = body[length:]
    if len(body):
        raise syntax("SA: octets behind the last transform")
    return tuple(found)


def _key_bits(attributes: memoryview) -> int:
    """The key length among the attributes; 0: none; -1: something else is there, and the transform is not for us."""
    bits = 0
    while len(attributes):
        if len(attributes) < 4:
            raise syntax("SA: attribute cut short")
        kind, value = struct.unpack_from(">HH", attributes)
        octets = 4 if kind & 0x8000 else 4 + value
        if octets > len(attributes):
            raise syntax("SA: attribute cut short")
        bits = value if kind == _KEY_LENGTH and bits == 0 else -1
        attributes = attributes[octets:]
    return bits
