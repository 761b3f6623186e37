"""ESP with AES-256-GCM, sealed and opened a burst at a time: RFC 4303, RFC 4106.

    packet  SPI(4) sequence(4) | IV(8) | ciphertext of a row | ICV(16)
    row     payload | padding | pad length(1) next header(1)
    nonce   salt(4) IV(8), the IV being the 64-bit sequence number
    AAD     SPI, high half, low half with ESN; SPI, low half without (RFC 4106 §5)

`seal_burst` and `open_burst` take plain buffers and give plain buffers, so another implementation may stand beside
them. Each call's cost in Python is fixed: headers, nonces and AADs of a whole burst are filled by NumPy and all rows
go through one `map`. A burst of up to SCALAR_MAX packets takes a plain path, since NumPy's fixed cost would exceed
the work. Refused: sending past an SA's last number (`SaExhausted`), and what RFC 4303 §3.4 has a receiver refuse,
counted by DropReason. What lies in a payload is not looked at here.
"""

from __future__ import annotations

import operator
import struct
from collections import deque
from collections.abc import MutableSequence, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fwd.proto.drops import DropReason
from fwd.proto.replay import ReplayWindow
from fwd.proto.sa import ICV_BYTES, SaKeys

HEADER_BYTES: Final = 16  # SPI, sequence number, IV
TRAILER_BYTES: Final = 2  # pad length, next header
OVERHEAD_BYTES: Final = HEADER_BYTES + ICV_BYTES
SCALAR_MAX: Final = 2
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
        self.ciphers = [self.view[i * packet_bytes + HEADER_BYTES : (i + 1) * packet_bytes] for i in range(count)]


class _Sa:
    """What sending and receiving share: the cipher, and tables of nonces and AADs for a burst of `rows`."""

    def __init__(self, keys: SaKeys, rows: int) -> None:
        self.keys = keys
        self.spi = keys.spi
        self.salt = keys.salt
        self.aead = AESGCM(keys.key)
        aad = np.dtype([("spi", ">u4"), ("number", ">u8" if keys.esn else ">u4")])
        nonces, aads = bytearray(12 * rows), bytearray(aad.itemsize * rows)
        nonce_table = np.frombuffer(nonces, np.dtype([("salt", "S4"), ("iv", ">u8")]))
        aad_table = np.frombuffer(aads, aad)
        np.frombuffer(nonces, np.uint8).reshape(rows, 12)[:, :4] = np.frombuffer(keys.salt, np.uint8)
        aad_table["spi"] = keys.spi
        self.nonce_iv: npt.NDArray[np.uint64] = nonce_table["iv"]
        self.aad_number: npt.NDArray[np.uint64] = aad_table["number"]
        self.aad_low = np.ndarray((rows,), ">u4", aads, aad.itemsize - 4, (aad.itemsize,))
        self.nonces = [memoryview(nonces)[i * 12 : i * 12 + 12] for i in range(rows)]
        self.aads = [memoryview(aads)[i * aad.itemsize : (i + 1) * aad.itemsize] for i in range(rows)]
        self.index = np.arange(rows, dtype=np.uint64)

    def aad(self, number: int) -> bytes:
        """AAD of the packet with this 64-bit sequence number."""
        if self.keys.esn:
            return _AAD_ESN.pack(self.spi, number)
        return _AAD.pack(self.spi, number)


class OutboundSa(_Sa):
    """One SA to send on. `number` is the last sequence number claimed; 0: never sent on."""

    def __init__(self, keys: SaKeys, rows: int) -> None:
        super().__init__(keys, rows)
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
        super().__init__(keys, rows)
        self.window = ReplayWindow(window, esn=keys.esn, floor=floor)
        self.heard = False

    def refused(self, reason: DropReason, number: int) -> None:
        """Called for each packet that is not accepted; who wants to tell of it overrides this."""


def seal_burst(
    sa: OutboundSa, first: int, rows: Sequence[memoryview], full: int, tail: memoryview | None, out: PacketTable
) -> int:
    """Seal `full` rows of the table's size and a shorter `tail` behind them; returns the bytes of `out` filled.

    1. Fill headers, nonces and AADs with the numbers from `first` on (see OutboundSa.claim)
    2. Encrypt every full row to its place
    3. Encrypt the tail to the place after them
    """
    if full + (tail is not None) <= SCALAR_MAX:
        end = 0
        for row in rows[:full]:
            end = seal_one(sa, first, row, out.view, end)
            first += 1
        return end if tail is None else seal_one(sa, first, tail, out.view, end)
    numbers = sa.index[:full] + np.uint64(first)
    sa.nonce_iv[:full] = numbers
    sa.aad_number[:full] = numbers
    out.spi[:full] = sa.spi
    out.low[:full] = numbers
    out.iv[:full] = numbers
    deque(map(sa.aead.encrypt_into, sa.nonces[:full], rows, sa.aads, out.ciphers), maxlen=0)
    end = full * out.packet_bytes
    return end if tail is None else seal_one(sa, first + full, tail, out.view, end)


def seal_one(sa: OutboundSa, number: int, row: memoryview, out: memoryview, at: int) -> int:
    """Seal one row as the packet at `out[at:]`; returns where it ends."""
    iv = _IV.pack(number)
    _HEADER.pack_into(out, at, sa.spi, number & 0xFFFFFFFF, number)
    end = at + HEADER_BYTES + len(row) + ICV_BYTES
    sa.aead.encrypt_into(sa.salt + iv, row, sa.aad(number), out[at + HEADER_BYTES : end])
    return end


def open_burst(
    sa: InboundSa,
    packets: PacketTable,
    start: int,
    ciphers: Sequence[memoryview],
    rows: Sequence[memoryview],
    drops: Rejects,
) -> Sequence[int]:
    """Open the packets from index `start` of the table on, all of this SA; `ciphers[i]` into `rows[i]`.

    `ciphers` are the table's, but for packets shorter than its size. Returns the sequence number of each, 0 for one
    that was refused and counted in `drops`; a `range` when all were accepted and follow each other, which is the
    common case.

    1. Numbers that only rise, above the window and within its reach: nothing to check; else one packet after another
    2. Fill nonces and AADs, decrypt row by row through one map; go on behind a row that fails
    3. Move the window over what authenticated, in order
    """

    # 1. Numbers.
    window, count = sa.window, len(ciphers)
    low = packets.low[start : start + count]
    first = window.full_number(int(low[0]))
    last = first + count - 1
    if first <= window.top or last > window.furthest():
        return _open_each(sa, packets, start, ciphers, rows, drops)
    sa.aad_number[:count] = sa.index[:count] + np.uint64(first)
    consecutive = low.tobytes() == sa.aad_low[:count].tobytes()
    if not consecutive:
        rise = low - low[0]  # wraps like the numbers themselves
        last = first + int(rise[-1])
        if not _rising(rise) or last > window.furthest():
            return _open_each(sa, packets, start, ciphers, rows, drops)
        sa.aad_number[:count] = rise + np.uint64(first)

    # 2. Decrypt.
    sa.nonce_iv[:count] = packets.iv[start : start + count]
    failed = _decrypt(sa, ciphers, rows)

    # 3. Move the window.
    if consecutive and not failed:
        window.commit_run(first, count)
        return range(first, first + count)
    numbers: list[int] = sa.aad_number[:count].tolist()
    for i in failed:
        drops[DropReason.BAD_ICV] += 1
        sa.refused(DropReason.BAD_ICV, numbers[i])
        numbers[i] = 0
    for number in numbers:
        if number:
            window.commit(number)
    return numbers


def _open_each(
    sa: InboundSa,
    packets: PacketTable,
    start: int,
    ciphers: Sequence[memoryview],
    rows: Sequence[memoryview],
    drops: Rejects,
) -> list[int]:
    """The same, one packet after another."""
    size, view = packets.packet_bytes, packets.view
    return [
        open_one(sa, view[at * size : at * size + HEADER_BYTES + len(cipher)], row, drops)
        for at, (cipher, row) in enumerate(zip(ciphers, rows, strict=True), start)
    ]


def _rising(rise: npt.NDArray[np.uint32]) -> bool:
    return int(rise[-1]) < 2**31 and bool((rise[1:] > rise[:-1]).all())


def _decrypt(sa: InboundSa, ciphers: Sequence[memoryview], rows: Sequence[memoryview]) -> list[int]:
    """Decrypt every cipher to its row; returns the indices of those that did not authenticate."""
    failed: list[int] = []
    source = iter(ciphers)  # its length hint tells which packet the map stopped at
    work = map(sa.aead.decrypt_into, sa.nonces, source, sa.aads, rows)
    while True:
        try:
            deque(work, maxlen=0)
            return failed
        except InvalidTag:
            failed.append(len(ciphers) - operator.length_hint(source) - 1)


def open_one(sa: InboundSa, packet: memoryview, row: memoryview, drops: Rejects) -> int:
    """Open one packet into `row` (its ciphertext's length, less the ICV); its number, or 0 when refused."""
    window = sa.window
    number = window.full_number(int.from_bytes(packet[4:8], "big"))
    reason = window.check(number)
    if reason is None:
        try:
            sa.aead.decrypt_into(sa.salt + packet[8:16], packet[HEADER_BYTES:], sa.aad(number), row)
            window.mark(number)
            return number
        except InvalidTag:
            reason = DropReason.BAD_ICV
    drops[reason] += 1
    sa.refused(reason, number)
    return 0


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
