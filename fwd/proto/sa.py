"""Security associations as parameters, and the messages about them between keyd and a member.

A *boot record* and a live update are the same message, `SaSet`: every inbound SA to accept, and perhaps an
outbound SA to send on. It states the whole, so it may be repeated. Keys travel in these messages alone, over
a socket pair of the member's own. Decoding refuses anything that is not exactly one message.

**An SA may be narrower** than the configuration: then the member holds records to its own ranges of addresses.
SAs share them: a message has a table of the different ones, of which there are few, so that it stays under 64 KiB.

**Every SA may have a deadline**, in milliseconds of CLOCK_BOOTTIME, which no setting of the wall clock moves and which
counts through a suspend. The member keeps it, so that an SA ends on time though keyd is dead (rule 7).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

KEY_BYTES = 32  # AES-256; 16 for AES-128
_KEY_SIZES = (16, KEY_BYTES)
SALT_BYTES = 4  # RFC 4106 §4
ICV_BYTES = 16
SEQUENCE_MAX_ESN = 2**64 - 1
SEQUENCE_MAX = 2**32 - 1
SLOTS = 64  # inbound SAs that a member can hold at once

RANGES_MAX = 255  # of addresses, on one side of an SA: as many as a TS payload holds
SET_BYTES_MAX = 1 << 18  # of an SaSet, whatever a peer agrees to
NARROWED_MAX = 8  # different traffic selectors among the inbound SAs of a member; that it sends on may have others

DEADLINE_MAX_MS = 2**64 - 1

# Kind, incarnation, inbound SAs, outbound SAs, end of the SA it sends on, table, when it was written.
_HEAD = struct.Struct(">BQBBQBQ")
# SPI, ESN, slot, octets of the key, deadline, place in the table (0: as configured), key, salt
_SA = struct.Struct(f">IBBBQB{KEY_BYTES}s{SALT_BYTES}s")
_ENTRY = struct.Struct(">BB")  # local ranges, remote ranges
_ADDRESS_BYTES = (4, 16)
_EVENT = struct.Struct(">BQI")  # kind, incarnation, SPI
EVENT_BYTES = _EVENT.size
_SA_SET, _SA_SET_STOP = 1, 2


class MessageError(ValueError):
    """Bytes that are not one message of this file."""


@dataclass(frozen=True, slots=True)
class Life:
    """What an SA may carry at most, each way; 0: no limit but its sequence numbers."""

    packets: int
    octets: int


UNLIMITED = Life(0, 0)


Range = tuple[bytes, bytes]  # first and last address, as they stand in a header


@dataclass(frozen=True, slots=True)
class Narrowed:
    """Traffic selectors of an SA that allow less than the configuration: the addresses on this side, and on the far."""

    local: tuple[Range, ...]
    remote: tuple[Range, ...]

    def encode(self) -> bytes:
        ranges = (*self.local, *self.remote)
        return _ENTRY.pack(len(self.local), len(self.remote)) + b"".join(
            bytes([len(first)]) + first + last for first, last in ranges
        )


@dataclass(frozen=True, slots=True)
class SaKeys:
    """One SA: AES-GCM with a 16-octet ICV (RFC 4106). `slot` is where an inbound SA publishes its highest number.

    `deadline_ms`: from when on nothing is sent or accepted on it, in CLOCK_BOOTTIME; 0: none.
    """

    spi: int
    esn: bool
    key: bytes = field(repr=False)
    salt: bytes = field(repr=False)
    slot: int = 0
    deadline_ms: int = 0
    narrowed: Narrowed | None = None  # None: for all that is configured

    @property
    def sequence_max(self) -> int:
        """The last sequence number that may be sent (rule 1)."""
        return SEQUENCE_MAX_ESN if self.esn else SEQUENCE_MAX


@dataclass(frozen=True, slots=True)
class SaSet:
    """What a member holds from now on. `incarnation` 0: a boot record, for whichever incarnation takes it.

    Without `outbound` it goes on sending on what it has, unless `stop`: then on nothing; by `until_ms` that ends at the
    latest, as by a deadline (0: by its own). What is installed already takes its deadline from here, too.

    `written_ns`: when, on a clock that only goes forward. Boot records and updates come by two ways; what was written
    before the boot record that an incarnation has taken says nothing about what that has.
    """

    incarnation: int
    inbound: tuple[SaKeys, ...]
    outbound: SaKeys | None = None
    stop: bool = False
    until_ms: int = 0
    written_ns: int = 0

    def encode(self) -> bytes:
        sas = (*self.inbound, *((self.outbound,) if self.outbound else ()))
        kind, n_in = _SA_SET_STOP if self.stop else _SA_SET, len(self.inbound)
        table = list(dict.fromkeys(sa.narrowed for sa in sas if sa.narrowed is not None))
        head = _HEAD.pack(kind, self.incarnation, n_in, len(sas) - n_in, self.until_ms, len(table), self.written_ns)
        places: dict[Narrowed | None, int] = {None: 0, **{one: place for place, one in enumerate(table, 1)}}
        parts = [_pack(sa, places[sa.narrowed]) for sa in sas]
        return head + b"".join(parts) + b"".join(one.encode() for one in table)

    @classmethod
    def decode(cls, data: bytes) -> SaSet:
        """Raises MessageError for anything but one whole SaSet."""
        if len(data) < _HEAD.size:
            raise MessageError("shorter than its head")
        kind, incarnation, n_in, n_out, until_ms, n_table, written_ns = _HEAD.unpack_from(data)
        stop = kind == _SA_SET_STOP
        if not (stop or kind == _SA_SET) or n_in > SLOTS or n_out > (0 if stop else 1):
            raise MessageError("not an SA set")
        end = _HEAD.size + (n_in + n_out) * _SA.size
        if len(data) < end or n_table > NARROWED_MAX + 1:
            raise MessageError("length and number of SAs differ")
        table = [None, *_decode_table(data[end:], n_table)]
        sas = []
        for spi, esn, slot, octets, deadline_ms, place, key, salt in _SA.iter_unpack(data[_HEAD.size : end]):
            if spi < 256 or slot >= SLOTS or octets not in _KEY_SIZES or place >= len(table):
                raise MessageError("SPI, slot, key or selectors out of range")
            sas.append(SaKeys(spi, bool(esn), key[:octets], salt, slot, deadline_ms, table[place]))
        return cls(incarnation, tuple(sas[:n_in]), sas[n_in] if n_out else None, stop, until_ms, written_ns)


def _pack(sa: SaKeys, place: int) -> bytes:
    return _SA.pack(sa.spi, sa.esn, sa.slot, len(sa.key), sa.deadline_ms, place, sa.key, sa.salt)


def _decode_table(data: bytes, count: int) -> list[Narrowed]:
    """The traffic selectors that fill `data`. Raises MessageError."""
    found = []
    for _ in range(count):
        if len(data) < _ENTRY.size:
            raise MessageError("selectors cut short")
        n_local, n_remote = _ENTRY.unpack_from(data)
        if not (0 < n_local <= RANGES_MAX and 0 < n_remote <= RANGES_MAX):
            raise MessageError("number of ranges")
        data, ranges = data[_ENTRY.size :], []
        for _ in range(n_local + n_remote):
            octets = data[0] if data else 0
            if octets not in _ADDRESS_BYTES or len(data) < 1 + 2 * octets:
                raise MessageError("range cut short")
            ranges.append((data[1 : 1 + octets], data[1 + octets : 1 + 2 * octets]))
            data = data[1 + 2 * octets :]
        found.append(Narrowed(tuple(ranges[:n_local]), tuple(ranges[n_local:])))
    if data:
        raise MessageError("octets behind the selectors")
    return found


class EventKind(IntEnum):
    """What a member tells keyd."""

    STARTED = 1  # this incarnation sends on SPI
    HEARD = 2  # the first authenticated packet on inbound SPI
    SOFT_LIMIT = 3  # outbound SPI nears its end: send another
    UNKNOWN = 4  # a packet for an SPI that is not installed
    ELSEWHERE = 5  # the peer, on inbound SPI, at another address than keyd has told


@dataclass(frozen=True, slots=True)
class SaEvent:
    kind: EventKind
    incarnation: int
    spi: int

    def encode(self) -> bytes:
        return _EVENT.pack(self.kind, self.incarnation, self.spi)

    @classmethod
    def decode(cls, data: bytes) -> SaEvent:
        """Raises MessageError for anything but one whole event."""
        if len(data) != _EVENT.size:
            raise MessageError("not an event")
        kind, incarnation, spi = _EVENT.unpack(data)
        if kind not in EventKind._value2member_map_:
            raise MessageError("unknown event")
        return cls(EventKind(kind), incarnation, spi)
