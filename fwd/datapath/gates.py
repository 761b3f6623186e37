"""Steering by the kernel, the demux's side: buckets in the kernel's table, and a gate before each member's queue.

Each member reads a queue of the TUN device of its own, to which a program (proto/steering.py) gives the packets of its
buckets; the demux moves buckets, and sees no packet but those without an owner. What waits in a queue when its buckets
go to others stays there, so the demux has a word for each member, its gate:

    shut   what comes out of the queue is dropped: the member is not live, and others send what comes after it
    held   nothing is read: buckets come from members that have not sent all that is before
    open   what is read is sent

A member that was shut gets no bucket until it has said that its queue is empty. A bucket that a living member gives up
goes to one whose gate is held until that one has sent what was before it, and SPACING_NS more; if it does not within
WAIT_MAX_NS it is shut itself (rule 3). For one that had only idle buckets to give nobody waits: what was not used until
LOOK_NS after the kernel steers elsewhere is not in its queue, as what may still wait there is not idle. So under load
nobody is shut for that its queue is never empty.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fwd.datapath.counters import COUNTS_END
from fwd.datapath.owners import IDLE_BUCKET_S, TICK_NS, Owners
from fwd.datapath.parking import SPACING_NS
from fwd.datapath.ring import EMPTY_NS, GATE, GATE_SEEN, Ring
from fwd.datapath.shared import LinkWord, PeeringShared
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKETS, NOBODY, TICK_MASK, owners, receivers, settle
from fwd.proto.steering import USED_AT, bucket_of, tick_of

QUEUE_RECORDS: Final = 1000  # that wait in a queue at most: the TUN device's length
WAIT_MAX_NS: Final = 250_000_000
LOOK_NS: Final = 1_000_000  # from a new table on, until every use by the old one is noted
AT_ONCE: Final = 8  # records that a member reads, after which it looks whether a segment is full
READS_MAX: Final = 64  # and before it sends what it has read
_NEVER: Final = 0xFFFFFFFF  # as idle as no bucket is
_PASSED: Final = QUEUE_RECORDS + 2 * (READS_MAX + AT_ONCE)  # records read since: what was before them is sent
STATES: Final = 4
_AHEAD_TICKS: Final = 100  # by which a use may seem to be to come
_IDLE_TICKS: Final = int(IDLE_BUCKET_S * 1e9) // TICK_NS
_ANSWER_NS: Final = 1_000_000_000  # within which a member that is asked says something
_MARKS: Final = 32
_MARK_NS: Final = 100_000_000  # between two of them at least
_SETTLE_TICKS: Final = 100  # between two moves of what has become idle, each of which holds members for a moment


class GateState(IntEnum):
    """What a gate says; in the word it stands below how often it was set."""

    SHUT = 0
    HELD = 1
    OPEN = 2


def members_in(mask: int) -> list[int]:
    """Return the members whose bits are set."""
    return [member for member in range(mask.bit_length()) if mask >> member & 1]


def found_in(owners: npt.NDArray[np.uint16]) -> set[int]:
    """Return the different ones."""
    return set(np.flatnonzero(np.bincount(owners)).tolist())


def state_of(word: int) -> GateState:
    """Return the state that a gate's word tells; whatever else it may be, it is shut."""
    state = word % STATES
    return GateState(state) if state <= GateState.OPEN else GateState.SHUT


class Given(NamedTuple):
    """Buckets that living members gave up: which, whose they were, when they were used, and if they were busy then."""

    buckets: npt.NDArray[np.intp]
    givers: npt.NDArray[np.uint16]
    used: npt.NDArray[np.uint32]
    busy: npt.NDArray[np.bool_]


class Table:
    """The kernel's table, in memory that it shares: of each bucket its owner and its last use."""

    def __init__(self, view: memoryview) -> None:
        self.owners: npt.NDArray[np.uint16] = np.frombuffer(view, np.uint16, BUCKETS)
        self.used: npt.NDArray[np.uint32] = np.frombuffer(view, np.uint32, BUCKETS, USED_AT)


class Steered(Owners):
    """The bucket table, as the kernel goes by it. Nothing is laid into the lanes: `nobody` has all that is read."""

    def __init__(
        self, rings: list[Ring], shared: PeeringShared, scores: npt.NDArray[np.uint64], channel: socket.socket | None,
        table: Table, *, esp: bool,
    ) -> None:  # fmt: skip
        super().__init__(rings, shared, scores, channel, esp=esp)
        self._table = table
        self.nobody = memoryview(NOBODY.to_bytes(2, "little") * BUCKETS).cast("H")
        self._asked: set[int] = set()  # members that live, and are to say that their queue is empty
        self._held: set[int] = set()
        self._before: dict[int, int] = {}  # members that may have more to send: what they had read by then
        self._marks: dict[int, deque[tuple[int, int]]] = {}  # of members: at which time they had read how much
        self._given: Given | None = None  # while nobody has looked whether that was used meanwhile
        self._since_ns = self._sent_ns = self._asked_ns = 0
        self._take_over()

    def _take_over(self) -> None:
        """Begin with what the kernel goes by, which outlives a demux.

        A gate that was held waits for all that may be before.
        """
        self._shared.owners[:] = self._table.owners
        self._asked, self._given = set(), None
        everybody = set(range(len(self.lanes)))
        held = {index for index in everybody if self._state(index) is GateState.HELD}
        self._hold(held, everybody - held)

    def forget(self) -> None:
        """Go on as a successor would: what went wrong may have come between a gate and its buckets."""
        super().forget()
        self._masks_seen = b""
        self._take_over()

    @property
    def is_moving(self) -> bool:
        """Whether some gate is to be opened soon. Who is asked and does not say anything is looked at now and then."""
        is_asking = bool(self._asked) and time.monotonic_ns() - self._asked_ns < _ANSWER_NS
        return bool(self._held) or is_asking

    def go_on(self, now_ns: int) -> None:
        """Open the gates that are held, once they may be; look again at members that were to say something."""
        if self._held:
            if self._given is not None and now_ns - self._since_ns >= LOOK_NS:
                self._look_at_given(self._given)
            if not self._sent_ns and all(self._has_sent(index) for index in self._before):
                self._sent_ns = now_ns
            if self._sent_ns and now_ns - self._sent_ns >= SPACING_NS:
                self._release()
            elif now_ns - self._since_ns >= WAIT_MAX_NS:
                self._give_up()
        if any(self._has_left(index) for index in self._asked):
            self._masks_seen = b""

    def why_nobody(self, packet: memoryview) -> DropReason:
        """Say why a packet came to the demux: its bucket has no owner, or it ends before its flow is known."""
        return DropReason.RECORD_MALFORMED if bucket_of(packet) is None else DropReason.NO_LIVE_MEMBER

    # -- gates --------------------------------------------------------------------------------------------------------

    def _word(self, index: int) -> int:
        word: int = self.lanes[index].ring.demux_words[GATE]
        return word

    def _state(self, index: int) -> GateState:
        return state_of(self._word(index))

    def _put(self, index: int, state: GateState) -> None:
        """Set a gate, and wake its member."""
        ring = self.lanes[index].ring
        ring.demux_words[GATE] = (self._word(index) // STATES + 1) % 2**60 * STATES + state
        ring.ring_bell()

    def _has_left(self, index: int) -> bool:
        """Whether a member that is shut has left what was in its queue."""
        return index < len(self.lanes) and bool(self.lanes[index].ring.member_words[GATE_SEEN] == self._word(index))

    def _open_gates(self, live: int) -> int:
        """Shut the gates of members that are not in `live`; returns those that may have buckets.

        One that comes back is asked first whether its queue is empty, by a word that it has not seen.
        """
        found = 0
        self._asked &= set(range(len(self.lanes)))  # others have left
        for index in range(len(self.lanes)):
            is_shut = self._state(index) is GateState.SHUT
            if not live >> index & 1:
                self._asked.discard(index)
                if not is_shut:
                    self._put(index, GateState.SHUT)
            elif not is_shut:
                found |= 1 << index
            elif index not in self._asked:
                self._asked.add(index)
                self._asked_ns = time.monotonic_ns()
                self._put(index, GateState.SHUT)
            elif self._has_left(index):
                self._asked.discard(index)
                self._put(index, GateState.OPEN)
                found |= 1 << index
        return found

    # -- buckets follow the masks -------------------------------------------------------------------------------------

    def follow(self, tick: int) -> None:
        """Let the bucket table follow the masks, if they have changed or some buckets are not where they belong."""
        seen = self._masks.tobytes()
        settled = not self.unsettled or (tick - self._settled_at) & TICK_MASK < _SETTLE_TICKS
        if seen != self._masks_seen or not settled or self.has_notices:
            self._masks_seen = seen
            self._follow_masks(tick)

    def _follow_masks(self, tick: int) -> None:
        """Take the masks as they are now, and move buckets to where they belong, as far as they may move yet."""
        live, draining, over, notices = self._masks.tolist()
        if notices != self._notices and not self.hear_of_a_ring():
            self._notices = notices

        # A member without a ring here gets nothing, nor does one whose queue may hold what is old.
        live = self._open_gates(live & (1 << len(self.lanes)) - 1)
        getting = receivers(live, draining)
        if (live, getting) != (self._live, self._receivers):
            self._target = owners(self._scores, getting)

        # Buckets of the dead move at once; others when their members' time is over or, if that is nobody's, when they
        # are idle; and one move is done before the next begins.
        wanted, tick = self._shared.owners.copy(), self._look_at_use()
        leaving = [] if self._held else members_in(over & live & ~getting)
        over_now = np.isin(wanted, leaving)
        idle = _NEVER if self._held or over_now.any() else _IDLE_TICKS
        self.unsettled = settle(wanted, self._target, self._shared.last_used, live, tick, idle) + len(self._asked)
        wanted[over_now] = self._target[over_now]
        self._settled_at, self._live, self._receivers = tick, live, getting
        self._move(wanted, live)

    def _look_at_use(self) -> int:
        """Take over when buckets were used; returns the tick it is by now. The kernel's clock may be a little ahead."""
        used, now_ns = self._shared.last_used, time.monotonic_ns()
        used[:] = self._table.used
        tick = tick_of(now_ns)
        used[used - np.uint32(tick) < _AHEAD_TICKS] = tick

        # What may still wait in a queue is not idle, however long ago it came.
        for index in range(len(self.lanes)):
            behind = min((now_ns - self._sent_until(index, now_ns)) // TICK_NS + 1, TICK_MASK)
            if behind >= _IDLE_TICKS:
                used[(self._shared.owners == index) & (np.uint32(tick) - used <= np.uint32(behind))] = tick
        return tick

    def _sent_until(self, index: int, now_ns: int) -> int:
        """Return a time before which all that came for a member is sent, as far as its words tell."""
        marks = self._marks.setdefault(index, deque(maxlen=_MARKS))
        read = self._shared.members[index].link[LinkWord.QUEUE_READ]
        passed = [at_ns for at_ns, before in marks if _PASSED <= read - before < COUNTS_END]
        if not marks or now_ns - marks[-1][0] >= _MARK_NS:
            marks.append((now_ns, read))
        empty_ns: int = self.lanes[index].ring.member_words[EMPTY_NS]
        return max(*passed, 0, min(empty_ns, now_ns))

    def _move(self, wanted: npt.NDArray[np.uint16], live: int) -> None:
        """Give buckets to the owners in `wanted`. Gates are held before the kernel may steer by that."""
        before = self._shared.owners
        given = (before != wanted) & np.isin(before, members_in(live))
        givers = found_in(before[given])

        # Who is held cannot send what it gives: what such a one is to get waits for its turn.
        later = given & np.isin(wanted, list(givers))
        if givers and not (given & ~later).any():  # what they have of each other goes one after the other
            later = given & (before != min(givers))
        wanted[later] = before[later]
        self.unsettled += int(np.count_nonzero(later))
        given &= ~later
        givers = found_in(before[given])
        if givers:
            self._hold(self._there(wanted[given]), givers)
            buckets, used = np.flatnonzero(given), self._shared.last_used[given]
            busy = np.uint32(self._settled_at) - used < _IDLE_TICKS
            self._given = Given(buckets, before[given], used, busy)

        # Of one that is held, and lives no more, they go to others behind what is before it.
        elif self._held:
            more = self._there(wanted[(before != wanted) & np.isin(before, list(self._held))])
            for index in more - self._held - self._before.keys():
                self._held.add(index)
                self._put(index, GateState.HELD)
        self._shared.owners[:] = wanted
        self._table.owners[:] = wanted

        # Only what they find from now on tells that nothing more comes.
        if givers:
            self._since_ns = time.monotonic_ns()
        for index in givers:
            self.lanes[index].ring.ring_bell()

    def _hold(self, takers: set[int], givers: set[int]) -> None:
        """Hold the takers' gates until the givers have sent what they have now."""
        self._held = takers
        for index in takers:
            self._put(index, GateState.HELD)
        self._before = {index: self._shared.members[index].link[LinkWord.QUEUE_READ] for index in givers}
        self._since_ns, self._sent_ns = time.monotonic_ns(), 0

    def _there(self, owners: npt.NDArray[np.uint16]) -> set[int]:
        """Return the members among these owners."""
        return {index for index in found_in(owners) if index < len(self.lanes)}

    def _look_at_given(self, given: Given) -> None:
        """Wait for those alone in whose queues something of what they gave may be: it was busy, or used since."""
        used = given.busy | (self._table.used[given.buckets] != given.used)
        waited_for = found_in(given.givers[used])
        self._before = {index: read for index, read in self._before.items() if index in waited_for}
        self._given = None

    def _has_sent(self, index: int) -> bool:
        """Whether a giver has sent all that it had, or will send none of it."""
        if index >= len(self.lanes) or self._state(index) is GateState.SHUT:
            return True
        read = self._shared.members[index].link[LinkWord.QUEUE_READ] - self._before[index]
        empty_ns = self.lanes[index].ring.member_words[EMPTY_NS]
        return bool(self._since_ns < empty_ns or _PASSED <= read < COUNTS_END)

    def _release(self) -> None:
        """Open the gates that are held."""
        for index in self._held:
            if index < len(self.lanes) and self._state(index) is GateState.HELD:
                self._put(index, GateState.OPEN)
        self._held, self._before, self._given = set(), {}, None
        self._masks_seen = b""

    def _give_up(self) -> None:
        """Shut those that have not sent what they had, and go on."""
        for index in self._before:
            if not self._has_sent(index):
                self._put(index, GateState.SHUT)
        self._release()
