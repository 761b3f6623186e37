"""What the ESP tests share: SAs of fixed keys, single packets sealed by hand, and bursts opened as a receiver does."""

from __future__ import annotations

from dataclasses import dataclass

from fwd.proto.burst import open_burst
from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.esp import OVERHEAD_BYTES, InboundSa, OutboundSa, PacketTable, Rows, seal_one
from fwd.proto.sa import SaKeys

ROWS = 64
WINDOW = 1024
KEY = bytes(range(100, 132))
SALT = b"\x01\x02\x03\x04"
SPI = 0xC0FFEE01

REASONS = list(DropReason)


def keys(*, esn: bool = True, spi: int = SPI) -> SaKeys:
    return SaKeys(spi, esn, KEY, SALT)


def sender(*, esn: bool = True) -> OutboundSa:
    return OutboundSa(keys(esn=esn), ROWS)


def receiver(*, esn: bool = True, floor: int = 0, window: int = WINDOW) -> InboundSa:
    return InboundSa(keys(esn=esn), ROWS, window, floor)


def row_of(number: int, size: int = 64) -> bytes:
    """A row whose content tells its number."""
    return number.to_bytes(8, "big").ljust(size, b"\xa5")


def packet(number: int, *, esn: bool = True, size: int = 64) -> bytes:
    """The ESP packet with this sequence number and the row that tells it."""
    out = bytearray(size + OVERHEAD_BYTES)
    seal_one(sender(esn=esn), number, memoryview(row_of(number, size)), memoryview(out), 0)
    return bytes(out)


def forged(number: int, *, esn: bool = True) -> bytes:
    """The same packet with one bit of its ICV flipped."""
    data = bytearray(packet(number, esn=esn))
    data[-1] ^= 1
    return bytes(data)


def rows_of(octets: int, count: int, content: bytes = b"") -> Rows:
    """So many rows, one behind the other, with this in them."""
    return Rows(bytearray(content.ljust(octets * count, b"\0")), octets, count, octets)


@dataclass
class Opened:
    """What open_burst made of a batch."""

    numbers: list[int]
    rows: list[bytes]
    drops: dict[DropReason, int]
    is_range: bool


def open_all(sa: InboundSa, packets: list[bytes]) -> Opened:
    """Open packets of one size as one batch."""
    size = len(packets[0])
    buffer = bytearray(b"".join(packets))
    rows, drops = rows_of(size - OVERHEAD_BYTES, len(packets)), [0] * N_REASONS
    numbers = open_burst(sa, PacketTable(buffer, size, len(packets)), 0, len(packets), (), rows, 0, drops)
    counted = {REASONS[i]: n for i, n in enumerate(drops) if n}
    return Opened(list(numbers), [bytes(row) for row in rows.rows], counted, isinstance(numbers, range))
