"""IKEv2 messages: header, SK and SKF (RFC 7296 §3.1 and §3.14, RFC 7383 §2.5, RFC 5282 §5).

`Header.decode` and `decode_clear` read what everybody may read; `open_message` what only the peer could write. A
message that is longer than a path takes goes out as fragments, each sealed by itself. Refused, as ProtocolError:
another major version, a length that is not the datagram's, a message without SK, padding longer than its payload.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from fwd.proto.ike.crypto import ICV_BYTES, IV_BYTES, Sealer
from fwd.proto.ike.limits import (
    FRAGMENT_BYTES,
    FRAGMENTS_S,
    FRAGMENTS_STRANGER_S,
    MESSAGE_BYTES,
    MESSAGE_BYTES_STRANGER,
)
from fwd.proto.ike.numbers import SPI_BYTES, VERSION, Flag, Notify, Payload, ProtocolError, syntax
from fwd.proto.ike.payloads import AnyPayload, decode_chain, encode_chain, split_chain
from fwd.proto.ike.rate import Budget

HEADER_BYTES: Final = 28
FRAGMENTS_MAX: Final = 32
_BEFORE_SK_MAX: Final = 3  # nothing has a reason to be there (RFC 7296 §3.14), and anybody can put it there
_HEADER = struct.Struct(">8s8sBBBBII")
_PAYLOAD = struct.Struct(">BBH")
_FRAGMENT = struct.Struct(">HH")


@dataclass(frozen=True)
class Header:
    """Of every message. `spi_r` is zero in the first one."""

    spi_i: bytes
    spi_r: bytes
    exchange: int
    flags: int
    message_id: int
    first_payload: int = 0
    length: int = 0

    @property
    def is_response(self) -> bool:
        return bool(self.flags & Flag.RESPONSE)

    @property
    def by_initiator(self) -> bool:
        """Whether the sender is the IKE SA's original initiator."""
        return bool(self.flags & Flag.INITIATOR)

    def encode(self) -> bytes:
        return _HEADER.pack(
            self.spi_i, self.spi_r, self.first_payload, VERSION, self.exchange, self.flags, self.message_id, self.length
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Raises ProtocolError; then at least the SPIs can be read by `peek`."""
        if len(data) < HEADER_BYTES:
            raise syntax(f"message of {len(data)} octets")
        spi_i, spi_r, first, version, exchange, flags, message_id, length = _HEADER.unpack_from(data)
        if version >> 4 != VERSION >> 4:
            raise ProtocolError(Notify.INVALID_MAJOR_VERSION, f"version {version >> 4}.{version & 15}")
        if length != len(data):
            raise syntax(f"length {length} in a datagram of {len(data)}")
        if spi_i == bytes(SPI_BYTES):
            raise syntax("the initiator's SPI is zero")
        return cls(spi_i, spi_r, exchange, flags, message_id, first, length)


def encode_clear(header: Header, payloads: Sequence[AnyPayload]) -> bytes:
    """A message that is not encrypted: IKE_SA_INIT, and answers to strangers."""
    first, body = encode_chain(payloads)
    return replace(header, first_payload=first, length=HEADER_BYTES + len(body)).encode() + body


def decode_clear(header: Header, data: bytes) -> list[AnyPayload]:
    """The payloads of a message that is not encrypted. Raises ProtocolError."""
    return decode_chain(header.first_payload, data[HEADER_BYTES:])


# -- encrypted ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fragment:
    """The decrypted part of a message: number `number` of `total`, from 1 on; of a whole message 1 of 1."""

    first_payload: int
    number: int
    total: int
    plain: bytes


def seal_message(
    header: Header, payloads: Sequence[AnyPayload], sealer: Sealer, iv: int, fragment_bytes: int = 0
) -> list[bytes]:
    """The datagrams of a message, and nothing twice: each takes one IV, from `iv` on.

    `fragment_bytes`: the longest datagram; 0: whatever it takes. Raises ValueError for a message that would need more
    than FRAGMENTS_MAX.
    """
    first, plain = encode_chain(payloads)
    if not fragment_bytes or _sealed_bytes(len(plain), _PAYLOAD.size) <= fragment_bytes:
        return [_seal(header, Payload.SK, first, b"", plain, sealer, iv)]
    room = fragment_bytes - _sealed_bytes(0, _PAYLOAD.size + _FRAGMENT.size)
    parts = [plain[at : at + room] for at in range(0, len(plain), room)]
    if len(parts) > FRAGMENTS_MAX:
        raise ValueError(f"a message of {len(plain)} octets needs {len(parts)} fragments")
    return [
        _seal(
            header, Payload.SKF, first if number == 1 else Payload.NONE, _FRAGMENT.pack(number, len(parts)), part,
            sealer, iv + number - 1,
        )
        for number, part in enumerate(parts, 1)
    ]  # fmt: skip


def _sealed_bytes(plain: int, heads: int) -> int:
    return HEADER_BYTES + heads + IV_BYTES + plain + 1 + ICV_BYTES


def _seal(header: Header, kind: Payload, first: int, extra: bytes, plain: bytes, sealer: Sealer, iv: int) -> bytes:
    """One datagram. RFC 5282 §5.1: authenticated is all before the IV. The pad length octet ends the plaintext."""
    heads = _PAYLOAD.size + len(extra)
    length = _sealed_bytes(len(plain), heads)
    whole = replace(header, first_payload=kind, length=length).encode()
    aad = whole + _PAYLOAD.pack(first, 0, length - HEADER_BYTES) + extra
    return aad + sealer.seal(iv, plain + b"\0", aad)


def open_message(header: Header, data: bytes, sealer: Sealer) -> Fragment | None:
    """What is in a message's SK or SKF payload; None: it does not authenticate, and says nothing about anybody.

    Raises ProtocolError for what the peer itself has broken.
    """
    kind, body_at = _find_sealed(header, data)
    extra = _FRAGMENT.size if kind == Payload.SKF else 0
    if len(data) < body_at + extra + IV_BYTES + 1 + ICV_BYTES:
        raise syntax("SK: too short")
    number, total = _FRAGMENT.unpack_from(data, body_at) if extra else (1, 1)
    iv_at = body_at + extra
    plain = sealer.unseal(data[iv_at:], data[:iv_at])
    if plain is None:
        return None
    if not 1 <= number <= total <= FRAGMENTS_MAX:
        raise syntax(f"SKF: number {number} of {total}")
    padding = plain[-1] + 1
    if padding > len(plain):
        raise syntax("SK: padding")
    return Fragment(data[body_at - _PAYLOAD.size], number, total, plain[: len(plain) - padding])


def open_authentic(header: Header, data: bytes, sealer: Sealer) -> Fragment | None:
    """The same, but None as well for what is broken, which anybody may have written."""
    try:
        return open_message(header, data, sealer)
    except ProtocolError:
        return None


def _find_sealed(header: Header, data: bytes) -> tuple[int, int]:
    """Which of SK and SKF ends the message, and where its body starts; what stands before it is not looked at."""
    chain = split_chain(header.first_payload, data[HEADER_BYTES:], _BEFORE_SK_MAX + 1)
    if not chain or chain[-1][0] not in (Payload.SK, Payload.SKF):
        raise syntax("an encrypted payload is missing")
    kind, _, body = chain[-1]
    return kind, len(data) - len(body)


class Assembly:
    """The fragments of one message, until they are all there (RFC 7383 §2.6).

    Bounded by FRAGMENTS_MAX, by `octets_max` of all together, and by what `budget` has left. `until`: when it is given
    up.
    """

    def __init__(
        self, octets_max: int = MESSAGE_BYTES, budget: Budget | None = None, until: float = float("inf")
    ) -> None:
        self.until = until
        self._octets_max = octets_max
        self._budget = budget or Budget(octets_max + FRAGMENTS_MAX * FRAGMENT_BYTES)
        self._parts: dict[int, Fragment] = {}
        self._octets = 0
        self._held = 0  # of the budget
        self._total = 0

    def add(self, fragment: Fragment) -> tuple[int, bytes] | None:
        """Take one; returns the first payload's type and the whole plaintext when it was the last one.

        One that says another total: a larger one starts anew, a smaller one is passed over (RFC 7383 §2.6). One for
        which there is no room is passed over.
        """
        if fragment.total < self._total:
            return None
        if fragment.total > self._total:
            self.clear()
            self._total = fragment.total
        octets = len(fragment.plain)
        if fragment.number in self._parts or self._octets + octets > self._octets_max:
            return None
        if not self._budget.take(octets + FRAGMENT_BYTES, self):
            return None
        self._held += octets + FRAGMENT_BYTES
        self._octets += octets
        self._parts[fragment.number] = fragment
        if len(self._parts) < self._total:
            return None
        ordered = [self._parts[number] for number in range(1, self._total + 1)]
        self.clear()
        return ordered[0].first_payload, b"".join(part.plain for part in ordered)

    def clear(self) -> None:
        """Forget all fragments, and give back what they took."""
        self._budget.give(self._held, self)
        self._held = self._octets = 0
        self._parts.clear()


class Assemblies:
    """The messages of one IKE SA that come in fragments: a request and an answer at a time.

    Those of a stranger may have fewer octets, out of a budget of all strangers, and wait for a shorter time.
    """

    def __init__(self, strangers: Budget, peers: Budget) -> None:
        self._strangers, self._peers = strangers, peers
        self._assemblies: dict[bool, tuple[int, Assembly]] = {}  # by whether it is an answer; with the message id

    def __len__(self) -> int:
        return len(self._assemblies)

    def add(self, header: Header, fragment: Fragment, now: float, *, strange: bool) -> tuple[int, bytes] | None:
        """Take one; returns the first payload's type and the whole plaintext when it was the last one."""
        if fragment.total == 1:
            return fragment.first_payload, fragment.plain
        self.expire(now)
        number, assembly = self._assemblies.get(header.is_response, (-1, None))
        if assembly is None or number != header.message_id:
            if assembly is not None:
                assembly.clear()
            if strange:
                assembly = Assembly(MESSAGE_BYTES_STRANGER, self._strangers, now + FRAGMENTS_STRANGER_S)
            else:
                assembly = Assembly(MESSAGE_BYTES, self._peers, now + FRAGMENTS_S)
            self._assemblies[header.is_response] = header.message_id, assembly
        whole = assembly.add(fragment)
        if whole is not None:
            del self._assemblies[header.is_response]
        return whole

    def expire(self, now: float) -> None:
        """Give up those that have waited too long."""
        for kind, (_, assembly) in list(self._assemblies.items()):
            if now >= assembly.until:
                assembly.clear()
                del self._assemblies[kind]

    def timeouts(self) -> list[float]:
        """When `expire` is due."""
        return [assembly.until for _, assembly in self._assemblies.values()]

    def clear(self) -> None:
        """Give them all up."""
        for _, assembly in self._assemblies.values():
            assembly.clear()
        self._assemblies.clear()
