"""The `superpacket` payload: records aggregated and fragmented over ESP packets with AGGFRAG framing (RFC 9347 §2.2).

    row     sub-type(1) zero(1) BlockOffset(2) | data (a chunk of the record stream) | padding and ESP trailer
    record  virtio_net_hdr(10, little-endian) | IP packet; its length is 10 + the IP length; no pad blocks

BlockOffset counts the data octets to the start of the next record, and may point past its own payload. A burst
starts and ends on a record boundary; all its chunks but the last are full. The sub-types are outside RFC 9347's
assigned 0 and 1 and are sent to peers that agreed to them only.

`Framer` writes the sender's framing over `FramedRows`, `RowBuffer` is what a receiver opens packets to; reassembly.py
makes records of it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from fwd.proto import core
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX, NEXT_AGGFRAG, NEXT_DUMMY, TRAILER_BYTES, Rows, payload_length
from fwd.proto.ip import RECORD_MAX

FRAMING_BYTES: Final = 4
SUBTYPE_RECORDS: Final = 0xD0
SUBTYPE_ECHO: Final = 0xD1
SUBTYPE_ECHO_REPLY: Final = 0xD2
BLOCK_OFFSET_MAX: Final = 0xFFFF
# A column of rows against these bytes is one comparison, at a tenth of NumPy's cost for so few.
_ALL_RECORDS: Final = bytes([SUBTYPE_RECORDS]) * BATCH_MAX
_ALL_AGGFRAG: Final = bytes([NEXT_AGGFRAG]) * BATCH_MAX
_ALL_ZERO: Final = bytes(BATCH_MAX)


def row_bytes(chunk: int) -> int:
    """Length of a full row with `chunk` data octets."""
    return FRAMING_BYTES + chunk + TRAILER_BYTES


def chunk_bytes(packet_bytes: int) -> int:
    """Data octets that fit an ESP packet of at most `packet_bytes` (header, IV and ICV included)."""
    return (packet_bytes - 32) // 4 * 4 - FRAMING_BYTES - TRAILER_BYTES


def records_octets(row: memoryview) -> int:
    """Data octets of an opened row that carries a chunk of records; 0 when it carries none, or anything else."""
    length = payload_length(row) - FRAMING_BYTES
    if length > 0 and row[0] == SUBTYPE_RECORDS and not row[1] and row[-1] == NEXT_AGGFRAG:
        return length
    return 0


def row_fault(row: memoryview, length: int) -> DropReason | None:
    """Return why an opened row, with `length` octets before its padding, carries neither records nor an echo."""
    if length < 0:
        return DropReason.BAD_PADDING
    if row[-1] == NEXT_DUMMY:
        return DropReason.DUMMY
    if row[-1] != NEXT_AGGFRAG:
        return DropReason.BAD_NEXT_HEADER
    if length < FRAMING_BYTES or row[1]:
        return DropReason.BAD_FRAMING
    if row[0] == SUBTYPE_RECORDS or (row[0] in (SUBTYPE_ECHO, SUBTYPE_ECHO_REPLY) and length >= FRAMING_BYTES + 4):
        return None
    return DropReason.BAD_FRAMING


class Framer:
    """Writes the framing of one segment: `rows` rows, `stride` apart in `buffer`, `chunk` data octets in each."""

    def __init__(self, buffer: memoryview, stride: int, rows: int, chunk: int) -> None:
        """Everything that does not change from burst to burst is written here, once."""
        octets = np.frombuffer(buffer, np.uint8)[: stride * rows].reshape(rows, stride)
        octets[:, 0] = SUBTYPE_RECORDS
        octets[:, 1] = 0
        octets[:, FRAMING_BYTES + chunk] = 0
        octets[:, FRAMING_BYTES + chunk + 1] = NEXT_AGGFRAG
        self._offsets = np.ndarray((rows,), ">u2", buffer, 2, (stride,))
        self._offsets[:] = 0
        self._starts = np.arange(rows, dtype=np.uint32) * np.uint32(chunk)

    def write_offsets(self, ends: npt.NDArray[np.uint32], rows: int) -> None:
        """BlockOffset of rows 1 to `rows` - 1, from where each record of the burst ends; row 0 starts one."""
        starts = self._starts[1:rows]
        if len(ends) == 1:
            self._offsets[1:rows] = ends - starts
            return
        self._offsets[1:rows] = ends[np.searchsorted(ends, starts)] - starts


class FramedRows(Rows):
    """The rows of one segment for one chunk size, and where its records end."""

    def __init__(self, buffer: memoryview, stride: int, count: int, chunk: int, ends: memoryview) -> None:
        """`ends`: 32-bit words, one for each record, as octets of the data."""
        super().__init__(buffer, stride, count, row_bytes(chunk))
        self.chunk = chunk
        self._count = count
        self._ends = ends
        self.ends = np.frombuffer(ends, np.uint32)

    @cached_property
    def framer(self) -> Framer:
        """The framing of these rows in pure Python, of which most is written now."""
        return Framer(self.view, self.stride, self._count, self.chunk)

    @cached_property
    def ends_memory(self) -> core.Memory:
        """Where the ends are, for the compiled core."""
        return core.words(self._ends)


class RowsOwner(Protocol):
    """Whoever has an unfinished record in a RowBuffer."""

    def spill(self, buffer: RowBuffer) -> None:
        """Take the unfinished record out of the rows, which others then may use."""

    def to_front(self, buffer: RowBuffer) -> None:
        """Move the unfinished record to the first rows, so that there is room behind it."""


class RowBuffer(Rows):
    """Where packets are opened to: rows of `stride` octets, and their data as views for one chunk size.

    `owner` is whoever has an unfinished record in it, if any, and `used` the rows up to that record's end.
    """

    def __init__(self, stride: int) -> None:
        self.chunk = stride - FRAMING_BYTES - TRAILER_BYTES
        self.capacity = RECORD_MAX // self.chunk + 2 + BATCH_MAX
        self.buffer = bytearray(stride * self.capacity)
        super().__init__(self.buffer, stride, self.capacity, stride)
        self.data = [row[FRAMING_BYTES : FRAMING_BYTES + self.chunk] for row in self.rows]
        self.owner: RowsOwner | None = None
        self.used = 0

    def all_records(self, first: int, count: int) -> bool:
        """Whether these full rows all carry unpadded chunks of records."""
        octets, stride = self.buffer, self.stride
        start, end = first * stride, (first + count) * stride
        return (
            octets[start:end:stride] == _ALL_RECORDS[:count]
            and octets[start + 1 : end : stride] == _ALL_ZERO[:count]
            and octets[start + stride - 2 : end : stride] == _ALL_ZERO[:count]
            and octets[start + stride - 1 : end : stride] == _ALL_AGGFRAG[:count]
        )

    def block_offset(self, row: int) -> int:
        """BlockOffset of the packet in this row."""
        at = row * self.stride + 2
        return self.buffer[at] << 8 | self.buffer[at + 1]

    def pieces(self, start: int, end: int) -> list[memoryview]:
        """Return what lies from octet `start` to `end` of all rows' data, a piece of each row."""
        (row, offset), (last, stop) = divmod(start, self.chunk), divmod(end, self.chunk)
        if row == last:
            return [self.data[row][offset:stop]]
        pieces = self.data[row:last]
        if offset:
            pieces[0] = pieces[0][offset:]
        if stop:
            pieces.append(self.data[last][:stop])
        return pieces

    def write(self, at: int, octets: bytes) -> None:
        """Write octets from octet `at` of all rows' data on."""
        for piece in self.pieces(at, at + len(octets)):
            piece[:], octets = octets[: len(piece)], octets[len(piece) :]
