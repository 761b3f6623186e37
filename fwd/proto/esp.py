"""ESP with AES-GCM: the packet, the two kinds of SA, and one packet sealed or opened (RFC 4303, RFC 4106).

    packet  SPI(4) sequence(4) | IV(8) | ciphertext of a row | ICV(16)
    row     payload | padding | pad length(1) next header(1)
    nonce   salt(4) IV(8), the IV being the 64-bit sequence number
    AAD     SPI, high half, low half with ESN; SPI, low half without (RFC 4106 §5)

Whole bursts are sealed and opened by burst.py, over the tables that are made here; where there is a compiled core
(core.py), an SA has its cipher context, and no tables. Refused: sending past an SA's last
number (`SaExhausted`), and what RFC 4303 §3.4 has a receiver refuse, counted by DropReason. What lies in a payload is
not looked at here.
"""

from __future__ import annotations

import struct
from collections.abc import MutableSequence
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fwd.proto import core
from fwd.proto.drops import DropReason
from fwd.proto.replay import ReplayWindow
from fwd.proto.sa import ICV_BYTES, SaKeys

HEADER_BYTES: Final = 16  # SPI, sequence number, IV
TRAILER_BYTES: Final = 2  # pad length, next header
OVERHEAD_BYTES: Final = HEADER_BYTES + ICV_BYTES
BATCH_MAX: Final = 256  # packets opened together, at most

NEXT_IPV4, NEXT_IPV6, NEXT_DUMMY, NEXT_AGGFRAG = 4, 41, 59, 144
PADDING: Final = bytes(range(1, 256))  # RFC 4303 §2.4: 1, 2, 3, …

_PACKET_DTYPE: Final = np.dtype([("spi", ">u4"), ("low", ">u4"), ("iv", ">u8")])
_HEADER = struct.Struct(">IIQ")
_AAD_ESN = struct.Struct(">IQ")
_AAD = struct.Struct(">II")
_IV = struct.Struct(">Q")

Rejects = MutableSequence[int]


class SaExhausted(Exception):
    """The SA's last sequence number is used: nothing may be sent on it any more (RFC 4303 §3.3.3)."""


class PacketTable:
    """A buffer of `count` ESP packets, `packet_bytes` apart, with its headers and ciphertexts as views."""

    def __init__(self, buffer: bytearray | memoryview, packet_bytes: int, count: int) -> None:
        self.packet_bytes = packet_bytes
        self.view = memoryview(buffer)
        headers = np.ndarray((count,), _PACKET_DTYPE, buffer, 0, (packet_bytes,))
        self.spi: npt.NDArray[np.uint32] = headers["spi"]
        self.low: npt.NDArray[np.uint32] = headers["low"]
        self.iv: npt.NDArray[np.uint64] = headers["iv"]
        self._count = count

    @cached_property
    def ciphers(self) -> list[memoryview]:
        """The ciphertexts of full packets."""
        size = self.packet_bytes
        return [self.view[i * size + HEADER_BYTES : (i + 1) * size] for i in range(self._count)]

    @cached_property
    def memory(self) -> core.Memory:
        """Where the buffer is, for the compiled core."""
        return core.memory(self.view)


class Rows:
    """`count` rows, `stride` octets apart in `buffer`, of which each holds up to `octets`."""

    def __init__(self, buffer: bytearray | memoryview, stride: int, count: int, octets: int) -> None:
        self.view = memoryview(buffer)
        self.stride = stride
        self.octets = octets
        self.rows = [self.view[i * stride : i * stride + octets] for i in range(count)]

    @cached_property
    def memory(self) -> core.Memory:
        """Where the buffer is, for the compiled core."""
        return core.memory(self.view)

    @cached_property
    def grid(self) -> npt.NDArray[np.uint8]:
        """The octets of all rows, as a matrix."""
        count = len(self.rows)
        return np.frombuffer(self.view[: count * self.stride], np.uint8).reshape(count, self.stride)

    def row(self, index: int, octets: int) -> memoryview:
        """The first octets of a row."""
        start = index * self.stride
        return self.view[start : start + octets]

    def cut(self, first: int, count: int, octets: int) -> list[memoryview]:
        """The first octets of each of `count` rows."""
        rows = self.rows[first : first + count]
        return rows if octets == self.octets else [row[:octets] for row in rows]


def _cut(buffer: bytearray, octets: int) -> list[memoryview]:
    """Views of a buffer's parts, of so many octets each."""
    view = memoryview(buffer)
    return [view[at : at + octets] for at in range(0, len(buffer), octets)]


class BurstTables:
    """Nonces and AADs for a burst of `rows`, as arrays to fill and as views; what pure Python needs of an SA."""

    def __init__(self, keys: SaKeys, rows: int) -> None:
        aad = np.dtype([("spi", ">u4"), ("number", ">u8" if keys.esn else ">u4")])
        nonces, aads = bytearray(12 * rows), bytearray(aad.itemsize * rows)
        nonce_table = np.frombuffer(nonces, np.dtype([("salt", "S4"), ("iv", ">u8")]))
        aad_table = np.frombuffer(aads, aad)
        np.frombuffer(nonces, np.uint8).reshape(rows, 12)[:, :4] = np.frombuffer(keys.salt, np.uint8)
        aad_table["spi"] = keys.spi
        self.nonce_iv: npt.NDArray[np.uint64] = nonce_table["iv"]
        self.aad_number: npt.NDArray[np.uint64] = aad_table["number"]
        self.aad_low = np.ndarray((rows,), ">u4", aads, aad.itemsize - 4, (aad.itemsize,))
        self.index = np.arange(rows, dtype=np.uint64)
        self.nonces = _cut(nonces, 12)
        self.aads = _cut(aads, aad.itemsize)


class _Sa:
    """What sending and receiving share: the keys, and the cipher in one form or the other."""

    def __init__(self, keys: SaKeys, rows: int, *, sends: bool) -> None:
        self.keys = keys
        self.spi = keys.spi
        self.salt = keys.salt
        self.cipher = core.cipher(keys, sends=sends)  # None: all of the following is used instead
        self._rows = rows

    @cached_property
    def aead(self) -> AESGCM:
        """The cipher of pure Python."""
        return AESGCM(self.keys.key)

    @cached_property
    def tables(self) -> BurstTables:
        """Tables of pure Python, made at the first burst: most SAs are spares, and this is most of their memory."""
        return BurstTables(self.keys, self._rows)

    def aad(self, number: int) -> bytes:
        """AAD of the packet with this 64-bit sequence number."""
        if self.keys.esn:
            return _AAD_ESN.pack(self.spi, number)
        return _AAD.pack(self.spi, number)


class OutboundSa(_Sa):
    """One SA to send on. `number` is the last sequence number claimed; 0: never sent on."""

    def __init__(self, keys: SaKeys, rows: int) -> None:
        super().__init__(keys, rows, sends=True)
        self.number = 0
        self.sequence_max = keys.sequence_max

    def claim(self, count: int) -> int:
        """Take `count` numbers, and give the first. Raises SaExhausted, taking none."""
        last = self.number + count
        if last > self.sequence_max:
            raise SaExhausted
        first = self.number + 1
        self.number = last
        return first


class InboundSa(_Sa):
    """One SA to receive on, with its anti-replay window. `floor` and all below it count as seen."""

    def __init__(self, keys: SaKeys, rows: int, window: int, floor: int = 0) -> None:
        super().__init__(keys, rows, sends=False)
        self.window = ReplayWindow(window, esn=keys.esn, floor=floor)
        self.heard = False

    def refused(self, reason: DropReason, number: int) -> None:
        """Called for each packet that is not accepted; who wants to tell of it overrides this."""


def seal_one(sa: OutboundSa, number: int, row: memoryview, out: memoryview, at: int) -> int:
    """Seal one row as the packet at `out[at:]`; return where it ends."""
    if sa.cipher is not None:
        return core.seal_one(sa.cipher, number, row, out, at)
    iv = _IV.pack(number)
    _HEADER.pack_into(out, at, sa.spi, number & 0xFFFFFFFF, number)
    end = at + HEADER_BYTES + len(row) + ICV_BYTES
    sa.aead.encrypt_into(sa.salt + iv, row, sa.aad(number), out[at + HEADER_BYTES : end])
    return end


def open_one(sa: InboundSa, packet: memoryview, row: memoryview, drops: Rejects) -> int:
    """Open one packet into `row` (its ciphertext's length, less the ICV); its number, or 0 when refused."""
    window = sa.window
    number = window.full_number(int.from_bytes(packet[4:8], "big"))
    reason = window.check(number)
    if reason is None:
        if _is_authentic(sa, number, packet, row):
            window.mark(number)
            return number
        reason = DropReason.BAD_ICV
    drops[reason] += 1
    sa.refused(reason, number)
    return 0


def _is_authentic(sa: InboundSa, number: int, packet: memoryview, row: memoryview) -> bool:
    if sa.cipher is not None:
        return core.open_one(sa.cipher, number, packet, row)
    try:
        sa.aead.decrypt_into(sa.salt + packet[8:16], packet[HEADER_BYTES:], sa.aad(number), row)
    except InvalidTag:
        return False
    return True


def padded(payload_bytes: int) -> int:
    """Length of a row with a payload of this many bytes: padding and trailer make it a multiple of 4."""
    return (payload_bytes + TRAILER_BYTES + 3) & ~3


def write_trailer(buffer: memoryview, start: int, payload_bytes: int, next_header: int) -> int:
    """Write padding and trailer behind the payload at `start`; returns the end of the row (RFC 4303 §2.4)."""
    at = start + payload_bytes
    end = start + padded(payload_bytes)
    pad = end - at - TRAILER_BYTES
    buffer[at : at + pad] = PADDING[:pad]
    buffer[end - 2] = pad
    buffer[end - 1] = next_header
    return end


def trailer_bytes(payload_bytes: int, next_header: int) -> bytes:
    """The same as bytes, to be written behind many payloads of one length."""
    pad = padded(payload_bytes) - payload_bytes - TRAILER_BYTES
    return PADDING[:pad] + bytes([pad, next_header])


def payload_length(row: memoryview) -> int:
    """Bytes before the padding of an opened row, or -1 when its padding is not 1, 2, 3, … (RFC 4303 §2.4)."""
    length = len(row) - TRAILER_BYTES
    if length < 0:
        return -1
    pad = row[length]
    if pad == 0:
        return length
    if pad > length or row[length - pad : length] != PADDING[:pad]:
        return -1
    return length - pad
