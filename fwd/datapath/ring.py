"""The ring between the demux and one member: segments of rows in shared memory.

Five words, each with one writer: `head` (demux: segments filled), `left` (demux: those before it are not to be sent any
more, as the member's buckets have gone to others), `taken` and `done` (member: segments begun and finished with) and
`told` (member: the `left` that its far member knows of). The demux fills while head - done < segments. The member
stores `taken` before it seals and `done` after it has sent, so a segment that kills its reader kills one reader: a
successor starts at `taken`, and what lies between is lost and counted. The eventfd is the bell and nothing more.

A segment is one burst: `fill` octets in `records` records of one TOS octet, cut into rows for `chunk` data octets,
with the end of each record. Payload `esp` puts one packet into each row; `fill` counts rows, and `ends` holds for each
the packet's length and, in its upper half, a mark (segments.packet_mark).

A ring lies in three memories (memory.ACCESS): `head`, `left` and the descriptors are the demux's, the other words the
member's. Rows and ends of records are of both, since the member completes them in place; nobody else has them.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fwd.datapath.memory import anonymous
from fwd.datapath.shared import RING_WORDS

SEGMENTS: Final = 12
RECORDS_MAX: Final = 1024  # in one segment
HEAD, LEFT, GATE = 0, 1, 2  # indices of the demux's words; GATE as gates.py has it
TAKEN, DONE = 0, 8  # indices of the member's words: 64-byte lines apart
TOLD = 1  # another of the member's words, which changes seldom
# Of a member's own queue of the TUN device (queue.py): the gate's word by which it has left what was there, and
# time.monotonic_ns when it was found empty, with all before sent.
GATE_SEEN, EMPTY_NS = 2, 3
_HEAD_BYTES = 64
_DESCRIPTOR_BYTES = 16
_ENDS_BYTES = 4 * RECORDS_MAX
FILL, RECORDS, TOS, CHUNK = 0, 1, 2, 3  # 32-bit fields of a descriptor


class RingMaps(NamedTuple):
    """A ring's memory in one process, and its bell."""

    told: memoryview  # head, left and descriptors
    member: memoryview  # the member's words
    rows: memoryview
    bell: int


class Segment:
    """Views of one segment: its descriptor, the ends of its records, and its rows."""

    def __init__(self, fields: memoryview, data: memoryview) -> None:
        self.fields = fields
        self.ends = data[:_ENDS_BYTES].cast("I")
        self.ends_array: npt.NDArray[np.uint32] = np.frombuffer(self.ends, np.uint32)
        self.rows = data[_ENDS_BYTES:]


class RingWords:
    """What there is to know of a ring without its rows."""

    def __init__(self, told: memoryview, member: memoryview) -> None:
        self.demux_words = told[:_HEAD_BYTES].cast("Q")
        self.member_words = member
        descriptors = told[_HEAD_BYTES:]
        self._fields = [descriptors[i * _DESCRIPTOR_BYTES :][:_DESCRIPTOR_BYTES].cast("I") for i in range(SEGMENTS)]

    @property
    def head(self) -> int:
        """Segments that the demux has filled."""
        return self.demux_words[HEAD]

    @head.setter
    def head(self, value: int) -> None:
        self.demux_words[HEAD] = value

    @property
    def left(self) -> int:
        """Segments that the demux had filled when the member's buckets went to others last."""
        return self.demux_words[LEFT]

    @left.setter
    def left(self, value: int) -> None:
        self.demux_words[LEFT] = value

    @property
    def taken(self) -> int:
        """Segments that members have begun with."""
        return self.member_words[TAKEN]

    @taken.setter
    def taken(self, value: int) -> None:
        self.member_words[TAKEN] = value

    @property
    def done(self) -> int:
        """Segments that members have finished with."""
        return self.member_words[DONE]

    @done.setter
    def done(self, value: int) -> None:
        self.member_words[DONE] = value

    def records(self, number: int) -> int:
        """Records in the `number`th filling."""
        return self._fields[number % SEGMENTS][RECORDS]


class Ring(RingWords):
    """The ring with its rows, for its demux and its member; without `maps`, in memory of this process."""

    def __init__(self, stride: int, rows: int, maps: RingMaps | None = None) -> None:
        maps = _in_memory(stride, rows) if maps is None else maps
        super().__init__(maps.told, maps.member)
        self.stride = stride
        self.rows = rows
        self.bell = maps.bell
        octets, between = _ENDS_BYTES + stride * rows, _segment_bytes(stride, rows)
        self.segments = [
            Segment(fields, maps.rows[i * between : i * between + octets]) for i, fields in enumerate(self._fields)
        ]

    def segment(self, number: int) -> Segment:
        """The segment that the `number`th filling uses."""
        return self.segments[number % SEGMENTS]

    def ring_bell(self) -> None:
        """Wake the member. A bell that the member itself has filled up need not be rung."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        """Close the bell; the memory goes with the last process that has it."""
        os.close(self.bell)


def sizes(stride: int, rows: int) -> tuple[int, int]:
    """Octets of a ring's two memories: what the demux tells, and the rows."""
    return _HEAD_BYTES + SEGMENTS * _DESCRIPTOR_BYTES, SEGMENTS * _segment_bytes(stride, rows)


def open_bell() -> int:
    """Make a ring's eventfd."""
    return os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)


def _segment_bytes(stride: int, rows: int) -> int:
    return _ENDS_BYTES - (-stride * rows // 64) * 64


def _in_memory(stride: int, rows: int) -> RingMaps:
    told, data = sizes(stride, rows)
    maps = anonymous({"told": told, "member": RING_WORDS * 8, "rows": data})
    return RingMaps(maps["told"], maps["member"].cast("Q"), maps["rows"], open_bell())
