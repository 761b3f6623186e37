"""Steering by the kernel, a member's side: its own queue of the TUN device, read and laid into a ring of its own.

What looks at records is a demux, as the peering's own is, of one member: selectors, shapes, rows. So few are read at
once that the ring has room for them; the rest waits in the device. A gate (gates.py) says whether what comes out of
the queue may be sent. It is looked at after records were read and before they are sent: what the kernel has put there
by a newer table than the gate's was put there later.

How many were read is told before they are looked at, and they are counted once they are dropped or sent: what lies
between died with its member. Raises nothing for a device that is gone: the supervisor replaces all who have it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from fwd.datapath.counters import COUNTS_END, CounterBlock, DemuxCounter, MemberCounter
from fwd.datapath.demux import Demux
from fwd.datapath.gates import AT_ONCE, QUEUE_RECORDS, READS_MAX, STATES, GateState, state_of
from fwd.datapath.memory import anonymous
from fwd.datapath.ring import EMPTY_NS, GATE, GATE_SEEN, Ring, RingMaps, sizes
from fwd.datapath.shared import RING_WORDS, LinkWord, MemberShared, PeeringShared
from fwd.datapath.tun import DeviceError, is_drained
from fwd.model.config import Peering
from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.ip import RECORD_MAX
from fwd.proto.logged import event

_NOBODYS_BELL: Final = -1

# Plain integers: reading a member of an enum costs as much as the addition.
_READ_WORD = LinkWord.QUEUE_READ.value
_TOLD = ((DemuxCounter.BYTES, MemberCounter.READ_BYTES), (DemuxCounter.ICMP_ERRORS, MemberCounter.READ_ICMP_ERRORS))

log = logging.getLogger(__name__)


class _OwnRing(Ring):
    """A ring between a member and itself: in its own memory, and without a bell."""

    def __init__(self, stride: int, rows: int) -> None:
        told, data = sizes(stride, rows)
        maps = anonymous({"told": told, "member": RING_WORDS * 8, "rows": data})
        super().__init__(stride, rows, RingMaps(maps["told"], maps["member"].cast("Q"), maps["rows"], _NOBODYS_BELL))

    def ring_bell(self) -> None:
        """Wake nobody."""


class Queue:
    """One member's queue. `ring` is what the way out seals from."""

    def __init__(self, peering: Peering, fd: int, ring: Ring, shared: MemberShared, counters: CounterBlock) -> None:
        """`ring` is that between demux and member, of which the gate's word and the geometry are used."""
        self._fd = fd
        self._told, self._words = ring.demux_words, ring.member_words
        self._link = shared.link
        self._block = counters
        self._counters = counters.values
        self.ring = _OwnRing(ring.stride, ring.rows)

        # A demux with one member, who has all buckets.
        own = PeeringShared(1)
        own.members[0], own.tuning = shared, shared.tuning
        self._demux = Demux(peering, fd, [self.ring], own, np.zeros((0, 1), np.uint64))
        self._demux.readv = self._read_one
        self._looked = own.demux_counters.values
        self._before = self._looked[:]

        # What of the gate was seen, and what that means.
        self._word = self._told[GATE]
        self._state = GateState.SHUT
        self._leaves_for = DropReason.BUCKETS_MOVED
        self._left = 0  # the gate's word by which it has left what was in the queue
        self.to_tell = False  # the far member, that this one's buckets have gone to others
        self._more = self._is_gone = False
        self._scratch = [bytearray(RECORD_MAX)]

    def recover(self, *, skip: bool) -> None:
        """Take over from a predecessor: what it had read is lost, and with `skip` what waits is left."""
        read, counted = self._link[_READ_WORD], self._counters[MemberCounter.READ_RECORDS]
        if counted <= read < COUNTS_END:
            self._counters[DropReason.DIED_WITH_MEMBER] += read - counted
            self._counters[MemberCounter.READ_RECORDS] = read
        else:  # one of the two was written by who had been taken over
            self._link[_READ_WORD] = counted
        if skip:
            self._leaves_for = DropReason.FAILED_SKIPPED
            with contextlib.suppress(DeviceError):
                self._leave()
        self._leaves_for = DropReason.BUCKETS_MOVED
        self._block.publish()
        self._look()

    @property
    def is_stirred(self) -> bool:
        """Whether the gate has changed since it was looked at."""
        return bool(self._told[GATE] != self._word)

    def is_shut(self) -> bool:
        """Whether nothing that was read may be sent any more; asked right before it is."""
        return not 0 < self._told[GATE] % STATES <= GateState.OPEN

    def turn(self, work: Callable[[], bool]) -> bool:
        """Read, and have `work` send a segment; False: there is nothing to do now."""
        try:
            self._fill()
        except DeviceError as error:
            if not self._is_gone:  # it is looked at in every turn, until somebody replaces this process
                log.error("the TUN device is gone, or gives no records: %s", error, extra=event("member.device_gone"))
            self._more, self._is_gone = False, True

        # Held since: what was read before may be of buckets that came with that.
        if self.is_stirred:
            self._look()
        if self._state is GateState.HELD:
            return False
        return work() or self._more

    def told(self) -> None:
        """The far member knows that this one's buckets have gone to others; so nothing is left of what it was."""
        self.to_tell = False
        self._words[GATE_SEEN] = self._left

    def tick(self) -> None:
        """Do what need not be done on every turn."""
        self._demux.tick()

    def _look(self) -> None:
        """Take the gate as it is now."""
        self._word = self._told[GATE]
        self._state = state_of(self._word)

    def _fill(self) -> None:
        if self._told[GATE] != self._word:
            self._look()
        self._more = False
        if self._state is GateState.OPEN:
            self._read()
        elif self._state is GateState.SHUT:
            self._leave()

    def _read(self) -> None:
        """Read until a segment is full or nothing is left, if all before is sent."""
        ring = self.ring
        if ring.taken != ring.head:
            self._more = True
            return

        now_ns, before, drained = time.monotonic_ns(), self._link[_READ_WORD], False
        if not self._demux.waits():
            while not drained and ring.head == ring.taken and self._link[_READ_WORD] - before < READS_MAX:
                drained = self._demux.lay(AT_ONCE)
        self._more = self._demux.give() or not drained
        self._count()
        if drained and self._link[_READ_WORD] == before and not self._more and ring.head == ring.taken:
            self._words[EMPTY_NS] = now_ns  # what was held back in an open segment may just have gone into the ring

    def _read_one(self, fd: int, buffers: list[memoryview]) -> int:
        length = os.readv(fd, buffers)
        self._link[_READ_WORD] += 1
        return length

    def _count(self) -> None:
        """Take over what was counted when records were looked at: those that are sent count when they are."""
        looked, before, counters = self._looked, self._before, self._counters
        if looked == before:
            return
        for of, to in _TOLD:
            counters[to] += looked[of] - before[of]
        if looked[:N_REASONS] != before[:N_REASONS]:
            for reason in range(N_REASONS):
                grown = looked[reason] - before[reason]
                counters[reason] += grown
                counters[MemberCounter.READ_RECORDS] += grown
            self._block.publish()
        before[:] = looked

    def _leave(self) -> None:
        """Drop what is in the queue; once it is empty, and what was read is dropped, the far member is to know."""
        left, drained = 0, False
        while not drained and left < 2 * QUEUE_RECORDS:
            try:
                self._read_one(self._fd, self._scratch)  # type: ignore[arg-type]
                left += 1
            except OSError as error:
                drained = is_drained(error)
        left += self._demux.leave()
        if left:
            self._counters[self._leaves_for] += left
            self._counters[MemberCounter.READ_RECORDS] += left
            self._block.publish()

        # What is in the ring is dropped where it would be sent.
        self._more = not drained or self.ring.taken != self.ring.head
        if not self._more and self._words[GATE_SEEN] != self._word:
            self.to_tell, self._left = True, self._word
