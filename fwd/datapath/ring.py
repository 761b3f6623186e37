"""The ring between the demux and one member: segments of rows in anonymous shared memory.

Three words, each with one writer: `head` (demux: segments filled), `taken` and `done` (member: segments begun and
finished with). The demux fills while head - done < segments. The member stores `taken` before it seals and `done`
after it has sent, so a segment that kills its reader kills one reader: a successor starts at `taken`, and what lies
between is lost and counted. The eventfd is the bell and nothing more.

A segment is one burst: `fill` octets in `records` records of one TOS octet, cut into rows for `chunk` data octets,
with the end of each record. Payload `esp` puts one packet into each row; `fill` counts rows, and `ends` holds for each
the packet's length and, in its upper half, a mark (segments.packet_mark).
"""

from __future__ import annotations

import mmap
import os
from typing import Final

import numpy as np
import numpy.typing as npt

SEGMENTS: Final = 12
RECORDS_MAX: Final = 1024  # in one segment
HEAD, TAKEN, DONE = 0, 8, 16  # indices of the words: 64-byte lines apart
_WORDS_BYTES = 4096
_DESCRIPTOR_BYTES = 16 + 4 * RECORDS_MAX
FILL, RECORDS, TOS, CHUNK = 0, 1, 2, 3  # 32-bit fields of a descriptor


class Segment:
    """Views of one segment: its descriptor, the ends of its records, and its rows."""

    def __init__(self, descriptor: memoryview, rows: memoryview) -> None:
        self.fields = descriptor[:16].cast("I")
        self.ends = descriptor[16:].cast("I")
        self.ends_array: npt.NDArray[np.uint32] = np.frombuffer(self.ends, np.uint32)
        self.rows = rows


class Ring:
    """Made by the supervisor and inherited by the demux and the member."""

    def __init__(self, stride: int, rows: int) -> None:
        self.stride = stride
        self.rows = rows
        segment_bytes = -(-stride * rows // 64) * 64
        self._map = mmap.mmap(-1, _WORDS_BYTES + SEGMENTS * (_DESCRIPTOR_BYTES + segment_bytes))
        view = memoryview(self._map)
        self.words = view[:_WORDS_BYTES].cast("Q")
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        at = _WORDS_BYTES
        self.segments: list[Segment] = []
        for _ in range(SEGMENTS):
            data = at + _DESCRIPTOR_BYTES
            self.segments.append(Segment(view[at:data], view[data : data + stride * rows]))
            at = data + segment_bytes

    @property
    def head(self) -> int:
        """Segments that the demux has filled."""
        return self.words[HEAD]

    @head.setter
    def head(self, value: int) -> None:
        self.words[HEAD] = value

    @property
    def taken(self) -> int:
        """Segments that members have begun with."""
        return self.words[TAKEN]

    @taken.setter
    def taken(self, value: int) -> None:
        self.words[TAKEN] = value

    @property
    def done(self) -> int:
        """Segments that members have finished with."""
        return self.words[DONE]

    @done.setter
    def done(self, value: int) -> None:
        self.words[DONE] = value

    def segment(self, number: int) -> Segment:
        """The segment that the `number`th filling uses."""
        return self.segments[number % SEGMENTS]

    def ring_bell(self) -> None:
        """Wake the member."""
        os.eventfd_write(self.bell, 1)

    def close(self) -> None:
        """Close the bell; the memory goes with the last process that has it."""
        os.close(self.bell)
