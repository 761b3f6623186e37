"""What is whole and plain in opened rows, written to the TUN device from where it lies, by the compiled core.

One call takes a run of rows, whatever is in them: it finds records or packets, looks at their headers, joins those that
a super-packet can stand for, and writes each. It stops at what is not plain; that is for the payload to judge, in
Python, which then calls again. So nothing is accepted here that Python would refuse. Pairs of addresses are looked up
in a table of those that the selectors allow; of others Python is asked once.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final

from fwd.datapath.counters import MemberCounter
from fwd.proto import core
from fwd.proto.core import CoreError, ffi, lib
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX, Rows
from fwd.proto.ip import Selectors

# Why a call has ended, as in stages.h.
ALL: Final = 0
OTHER: Final = 1
UNSOUND: Final = 3
_UNKNOWN: Final = 2
# Plain integers: reading a member of an enum costs as much as the addition.
_IN_BYTES = MemberCounter.IN_BYTES.value
_IN_RECORDS = MemberCounter.IN_RECORDS.value
_IN_RECORDS_OK = MemberCounter.IN_RECORDS_OK.value
_TUN_REFUSED = DropReason.TUN_REFUSED.value


class Direct:
    """Writes to the TUN device `fd`, whose offloads in force are `accepted`; counts in `counters`."""

    def __init__(self, fd: int, accepted: int, counters: array[int]) -> None:
        self._counters = counters
        self._way = way = ffi.new("fwd_way *")
        self._plan = ffi.gc(lib.fwd_plan_new(), lib.fwd_plan_free)
        if self._plan == ffi.NULL:
            raise MemoryError
        way.plan, way.fd, way.accepted = self._plan, fd, accepted
        self._shorter = ffi.new("int32_t[]", 2 * BATCH_MAX)
        self._rows: Rows | None = None
        self._selectors: Selectors | None = None

    @classmethod
    def of(cls, fd: int, accepted: int, counters: array[int]) -> Direct | None:
        """Make one, if there is a compiled core."""
        return cls(fd, accepted, counters) if core.in_use else None

    def hold_to(self, selectors: Selectors) -> None:
        """Write only what these selectors allow."""
        if selectors is not self._selectors:
            self._selectors = selectors
            self._way.pairs4, self._way.pairs6 = (core.memory(memoryview(table)) for table in selectors.tables)

    def aim(self, rows: Rows, chunk: int) -> core.Memory:
        """Return what C writes these rows by."""
        if rows is not self._rows:
            self._use(rows, chunk)
        return self._way

    def _use(self, rows: Rows, chunk: int) -> None:
        way = self._way
        self._rows, way.rows, way.rows_octets = rows, rows.memory, len(rows.view)
        way.stride, way.chunk = rows.stride, chunk

    def records(self, rows: Rows, chunk: int, first: int, at: int, have: int) -> tuple[int, int, int]:
        """Write records of payload superpacket: what burst.give_records gives. Returns why it ended, where, and length.

        OTHER: at a record of `length` that is not plain. UNSOUND: at one whose length makes no sense.
        """
        way = self._way
        if rows is not self._rows:
            self._use(rows, chunk)
        while True:
            why: int = lib.fwd_write_records(way, first, at, have)
            if why < 0:
                raise CoreError(f"{have} octets do not fit the rows from {first} on ({why})")
            if way.taken:
                self._count()
            if why != _UNKNOWN:
                return why, way.at, way.length
            at = way.at
            if not self._allow():
                return OTHER, at, way.length

    def packets(
        self, rows: Rows, first: int, count: int, at: int, short: Sequence[tuple[int, int]], tos: int
    ) -> tuple[int, int]:
        """Write packets of payload esp, from index `at` of `count` rows on; `short` is as in burst.py.

        Returns how many it took, and the index of a row that is not plain, or `count`.
        """
        way, shorter, n_short, taken = self._way, self._shorter, len(short), 0
        if rows is not self._rows:
            self._use(rows, 0)
        if n_short:
            shorter[0 : 2 * n_short] = [number for one in short for number in one]
        while True:
            why: int = lib.fwd_write_packets(way, first, count, at, rows.octets, shorter, n_short, tos)
            if why < 0:
                raise CoreError(f"{count} rows from {first} on are not where they should be ({why})")
            if way.taken:
                taken += way.taken
                self._count()
            at = way.at
            if why != _UNKNOWN or not self._allow():
                return taken, at

    def _count(self) -> None:
        """Count what the last call has taken."""
        way, counters = self._way, self._counters
        counters[_IN_RECORDS] += way.taken
        counters[_IN_RECORDS_OK] += way.written
        counters[_IN_BYTES] += way.octets
        if way.refused:
            counters[_TUN_REFUSED] += way.refused

    def _allow(self) -> bool:
        """Let the core know of the pair at which it stopped; False: the selectors do not allow that."""
        way, selectors = self._way, self._selectors
        pair = ffi.buffer(way.pair)[: way.pair_octets]
        if selectors is None or not any(pair) or not selectors.allow(pair):
            return False
        table = way.pairs4 if len(pair) == 8 else way.pairs6
        return bool(lib.fwd_allow(table, len(selectors.tables[0]), pair, len(pair)) == 0)
