"""Steering by the kernel, the demux's side: which bucket goes where, and whose gate says what meanwhile (rule 3)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import pytest
from rig import _scores as scores_of_all
from rig import packet
from test_internal_errors import Injected, raises_at

from fwd.datapath.gates import LOOK_NS, WAIT_MAX_NS, GateState, Steered, Table, state_of
from fwd.datapath.parking import SPACING_NS
from fwd.datapath.ring import EMPTY_NS, GATE, GATE_SEEN, Ring
from fwd.datapath.shared import LinkWord, MaskWord, PeeringShared
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKETS, NOBODY, owners
from fwd.proto.steering import TABLE_BYTES, USED_AT, tick_of

SHUT, HELD, OPEN = GateState.SHUT, GateState.HELD, GateState.OPEN
FILES = ("fwd/datapath/gates.py",)
MEMBERS = 3
BUSY = 100  # buckets of each member that are in use


class Site:
    """A demux's table and gates, and members that do as they are told."""

    def __init__(self, patch: pytest.MonkeyPatch | None = None) -> None:
        self.patch = patch or pytest.MonkeyPatch()
        self.shared = PeeringShared(MEMBERS)
        self.rings = [Ring(1500, 10) for _ in range(MEMBERS)]
        self.kernel = memoryview(bytearray(TABLE_BYTES))
        self.table = Table(self.kernel)
        self.table.owners[:] = NOBODY
        self.begin()

    def begin(self) -> None:
        """A demux, or its successor."""
        self.shared.demux_counters.attach()
        self.gates = Steered(self.rings, self.shared, scores_of_all(MEMBERS), None, self.table, esp=False)

    def masks(self, live: int, draining: int = 0, over: int = 0) -> None:
        self.shared.live[MaskWord.DRAINING], self.shared.live[MaskWord.OVER] = draining, over
        self.shared.live[MaskWord.LIVE] = live

    def turn_guarded(self) -> None:
        """One in which exceptions go no further, as in the demux's loop."""
        try:
            self.gates.follow(tick_of(time.monotonic_ns()))
        except Injected:
            self.gates.forget()
        with contextlib.suppress(Injected):
            self.gates.go_on(time.monotonic_ns())

    def settle(self) -> None:
        """Turns in which members do as they are told, until nothing is on its way."""
        for _ in range(10):
            self.leave(*range(MEMBERS))
            self.find_empty(*range(MEMBERS))
            self.turn()
            self.turn(SPACING_NS * 2)

    def set_clock(self, ahead_ns: list[int]) -> None:
        """It is ahead of what it was by so much as `ahead_ns` says."""
        now_ns = time.monotonic_ns
        self.patch.setattr(time, "monotonic_ns", lambda: now_ns() + ahead_ns[0])

    def turn(self, later_ns: int = 0) -> None:
        now_ns = time.monotonic_ns() + later_ns
        self.gates.go_on(now_ns)
        self.gates.follow(tick_of(now_ns))

    def states(self) -> list[GateState]:
        return [state_of(ring.demux_words[GATE]) for ring in self.rings]

    def leave(self, *members: int) -> None:
        """They say that they have left what was in their queues."""
        for index in members:
            self.rings[index].member_words[GATE_SEEN] = self.rings[index].demux_words[GATE]

    def find_empty(self, *members: int) -> None:
        """They say that their queues are empty."""
        for index in members:
            self.rings[index].member_words[EMPTY_NS] = time.monotonic_ns()

    def wait_open(self) -> None:
        """All live, and have the buckets that the hash gives them."""
        self.masks(0b111)
        self.turn()
        self.leave(0, 1, 2)
        self.turn()
        self.find_empty(0, 1, 2)

    def use_all(self) -> None:
        """Every bucket is busy."""
        self.table.used[:] = tick_of(time.monotonic_ns())

    def shares(self) -> list[int]:
        return [int(np.count_nonzero(self.table.owners == member)) for member in range(MEMBERS)]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    found = Site(monkeypatch)
    yield found
    for ring in found.rings:
        ring.close()


def test_a_member_gets_buckets_once_it_has_left_what_was_in_its_queue(site: Site) -> None:
    site.masks(0b111)
    site.turn()
    assert (site.states(), site.shares()) == ([SHUT] * 3, [0, 0, 0])
    site.leave(0, 2)
    site.turn()
    assert site.states() == [OPEN, SHUT, OPEN]
    assert [share > 0 for share in site.shares()] == [True, False, True]


def test_who_is_asked_and_says_nothing_is_looked_at_now_and_then(site: Site) -> None:
    """It may have been taken over, or its socket takes nothing: the demux does not run round for it."""
    site.masks(0b111)
    site.turn()
    site.leave(0, 1)
    site.turn()
    assert site.gates.is_moving
    site.set_clock([2_000_000_000])
    assert not site.gates.is_moving
    site.masks(0b111)
    site.turn()
    assert site.gates.unsettled, "so the demux does not rest"
    site.leave(2)
    site.turn()
    assert site.states() == [OPEN] * 3


def test_an_old_word_that_a_queue_is_empty_does_not_count(site: Site) -> None:
    """It was said before buckets went to others, and more may have come since."""
    site.leave(0, 1, 2)
    site.masks(0b111)
    site.turn()
    assert site.states() == [SHUT] * 3


def test_a_dead_members_gate_is_shut_and_its_buckets_move_at_once(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b101)
    site.turn()
    assert site.states() == [OPEN, SHUT, OPEN], "nobody waits for the dead"
    assert site.table.owners.tolist() == owners(scores_of_all(MEMBERS), 0b101).tolist()
    assert site.shared.owners.tolist() == site.table.owners.tolist(), "the status tells what the kernel goes by"


def test_a_gate_is_shut_before_the_kernel_steers_elsewhere(site: Site) -> None:
    site.wait_open()
    seen = []

    class Watched(np.ndarray):
        def __setitem__(self, *of: object) -> None:
            seen.append(site.states())

    site.table.owners = site.table.owners.view(Watched)
    site.masks(0b101)
    site.turn()
    assert seen == [[OPEN, SHUT, OPEN]]


def test_a_bucket_of_a_living_member_moves_to_one_that_is_held_until_all_before_is_sent(site: Site) -> None:
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    site.turn()  # member 1 is back, and what is idle goes to it
    site.use_all()  # at that moment, and who knows by which table
    assert site.states() == [OPEN, HELD, OPEN]
    site.turn(SPACING_NS * 2)
    assert site.states()[1] is HELD, "nobody has said that all is sent"
    site.find_empty(0)
    site.turn(SPACING_NS * 2)
    assert site.states()[1] is HELD, "one of two"
    site.find_empty(2)
    site.turn()
    assert site.states()[1] is HELD, "what was sent is under way"
    site.turn(SPACING_NS * 2)
    assert site.states() == [OPEN] * 3


def test_a_gate_is_held_before_the_kernel_steers_to_it(site: Site) -> None:
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    seen = []

    class Watched(np.ndarray):
        def __setitem__(self, *of: object) -> None:
            seen.append(site.states())

    site.table.owners = site.table.owners.view(Watched)
    site.turn()
    assert seen == [[OPEN, HELD, OPEN]]


def test_what_was_found_empty_before_the_kernel_steers_elsewhere_says_nothing(site: Site) -> None:
    site.wait_open()
    site.use_all()

    class Watched(np.ndarray):
        def __setitem__(self, *of: object) -> None:
            site.find_empty(2)

    site.table.owners = site.table.owners.view(Watched)
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    site.turn()
    site.turn(SPACING_NS * 2)
    assert site.states() == [HELD, HELD, OPEN]


def test_what_a_queue_can_hold_and_more_was_read_is_as_good_as_empty(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    assert site.states() == [HELD, HELD, OPEN]
    site.shared.members[2].link[LinkWord.QUEUE_READ] += 1000 + 2 * 72 - 1  # so many wait in it and were read at most
    site.turn()
    site.turn(SPACING_NS * 2)
    assert site.states() == [HELD, HELD, OPEN]
    site.shared.members[2].link[LinkWord.QUEUE_READ] += 1
    site.turn()
    site.turn(SPACING_NS * 2)
    assert site.states() == [OPEN] * 3
    assert site.shares()[2] == 0


def test_who_does_not_send_what_it_has_is_shut(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    site.turn(WAIT_MAX_NS + SPACING_NS)
    assert site.states() == [OPEN, OPEN, SHUT]


def test_busy_buckets_of_a_member_that_leaves_stay_until_its_time_is_over(site: Site) -> None:
    site.wait_open()
    site.use_all()
    before = site.shares()
    site.masks(0b111, draining=0b100)
    site.turn()
    assert (site.shares(), site.states()) == (before, [OPEN] * 3)
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    assert site.shares()[2] == 0


def test_one_move_is_done_before_the_next_but_for_the_dead(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    held = site.shares()
    site.table.used[:] = 0
    site.masks(0b111)
    site.turn()
    assert site.shares() == held, "idle as they are: they wait"
    site.masks(0b101)
    site.turn()
    assert site.shares()[1] == 0


def test_who_gives_is_not_held_at_the_same_time(site: Site) -> None:
    """Member 1 comes back, and gets of member 0, while member 2 must give all of its own, some to member 0."""
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    site.table.used[:] = 0
    site.leave(1)
    site.turn()
    for _ in range(20):
        givers = set(site.gates._before)
        assert not givers & {index for index, state in enumerate(site.states()) if state is HELD}
        site.find_empty(0, 1, 2)
        site.turn()
        site.turn(SPACING_NS * 2)
        site.gates._masks_seen = b""
    assert site.states() == [OPEN] * 3
    assert site.table.owners.tolist() == owners(scores_of_all(MEMBERS), 0b011).tolist()


def test_for_what_was_idle_and_is_not_used_nobody_waits(site: Site) -> None:
    """Under load a queue is never empty: who has one would be shut, and lose what is busy, again and again."""
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.use_all()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    site.table.used[: BUCKETS // 2] = 0
    site.turn()
    assert site.states() == [OPEN, HELD, OPEN]
    site.turn()
    assert site.states() == [OPEN, HELD, OPEN], "a use by the old table may not be noted yet"
    site.turn(LOOK_NS * 2)
    site.turn(LOOK_NS * 2 + SPACING_NS)
    assert site.states() == [OPEN] * 3
    assert site.shares()[1] > BUCKETS // 8


@pytest.mark.parametrize("said", ["nothing", "empty", "read"])
def test_what_may_still_wait_in_a_queue_is_not_idle(site: Site, said: str) -> None:
    """A queue of a thousand super-packets may be seconds long, and never empty."""
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.find_empty(0, 2)
    before = site.shares()
    site.table.used[:] = tick_of(time.monotonic_ns() + 50_000_000)
    ahead_ns = [3_000_000_000]
    site.set_clock(ahead_ns)
    site.masks(0b111)
    site.turn()
    site.leave(1)
    site.turn()
    assert site.shares() == before, "it came three seconds ago, and nobody has said that it was sent"

    ahead_ns[0] += 1_000_000_000
    for index in (0, 2):
        if said == "empty":
            site.rings[index].member_words[EMPTY_NS] = time.monotonic_ns()
        elif said == "read":
            site.shared.members[index].link[LinkWord.QUEUE_READ] += 1144
    site.turn()
    assert (site.shares()[1] > 0) == (said != "nothing")


def test_only_those_are_waited_for_of_whom_something_used_has_moved(site: Site) -> None:
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    before = site.table.owners.copy()
    site.turn()
    moved = (before == 2) & (site.table.owners == 1)
    site.table.used[np.flatnonzero(moved)[:1]] = tick_of(time.monotonic_ns())
    site.turn(LOOK_NS * 2)
    site.turn(LOOK_NS * 2 + SPACING_NS)
    assert site.states() == [OPEN, HELD, OPEN]
    site.find_empty(2)
    site.turn(LOOK_NS * 2)
    site.turn(LOOK_NS * 2 + SPACING_NS)
    assert site.states() == [OPEN] * 3


def test_masks_that_change_again_and_again_hold_nobody_up(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    since_ns = site.gates._since_ns
    site.masks(0b110, draining=0b100, over=0b100)
    site.turn()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    assert site.gates._since_ns == since_ns


def test_what_goes_on_from_one_that_is_held_and_dies_waits_as_well(site: Site) -> None:
    site.wait_open()
    site.masks(0b001)
    site.turn()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    site.turn()
    assert site.states() == [OPEN, HELD, SHUT]
    site.leave(2)
    site.masks(0b101)
    site.turn()
    assert site.states() == [OPEN, SHUT, HELD], "member 0 may have more of what went to 1, and goes to 2 now"
    site.settle()
    assert site.states() == [OPEN, SHUT, OPEN]


def test_a_member_that_leaves_while_it_is_asked_is_asked_no_more(site: Site) -> None:
    site.masks(0b111)
    site.turn()
    site.shared.members.pop()
    site.gates.lanes.pop()
    site.masks(0b011)
    site.turn()
    site.leave(0, 1)
    site.turn()
    assert site.states()[:2] == [OPEN, OPEN]
    assert not site.gates.is_moving


@pytest.mark.parametrize("leaves", [False, True])
def test_an_exception_at_any_call_leaves_no_gate_shut_and_no_bucket_with_the_dead(leaves: bool) -> None:
    """One member dies, or gives to others what is busy, and an exception comes at one call after the other."""
    nth, raised = 0, True
    while raised:
        site, nth = Site(), nth + 1
        site.wait_open()
        site.use_all()
        site.masks(*((0b111, 0b100, 0b100) if leaves else (0b011,)))
        raised = raises_at(nth, 1, site.turn_guarded, FILES)
        site.settle()
        assert site.table.owners.tolist() == owners(scores_of_all(MEMBERS), 0b011).tolist(), nth
        assert site.states() == [OPEN, OPEN, OPEN if leaves else SHUT], nth
        assert not site.gates.is_moving
        for ring in site.rings:
            ring.close()
    assert nth > 20


def test_what_two_members_have_of_each_other_goes_back_one_after_the_other(site: Site) -> None:
    site.wait_open()
    named = site.table.owners.copy()
    site.table.owners[named == 0], site.table.owners[named == 2] = 2, 0  # of one that was to leave, and stays
    site.begin()
    site.turn()
    site.settle()
    assert site.table.owners.tolist() == named.tolist()


def test_whose_time_is_over_gives_its_buckets_before_others_give_what_is_idle(site: Site) -> None:
    site.wait_open()
    site.masks(0b101)
    site.turn()
    site.masks(0b111)
    site.turn()
    site.leave(1)
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    assert site.shares()[2] == 0


def test_a_use_that_the_kernel_notes_ahead_of_the_demux_is_not_idle(site: Site) -> None:
    site.wait_open()
    site.masks(0b111, draining=0b100)
    site.table.used[:] = (tick_of(time.monotonic_ns()) + 3) & 0xFFFFFFFF
    before = site.shares()
    site.turn()
    assert site.shares() == before


def test_a_successor_finds_buckets_as_the_kernel_has_them(site: Site) -> None:
    site.wait_open()
    before = site.table.owners.tolist()
    site.shared.owners[:] = NOBODY
    site.begin()
    site.turn()
    assert site.shared.owners.tolist() == site.table.owners.tolist() == before
    assert site.states() == [OPEN] * 3


def test_a_successor_opens_what_its_predecessor_held_when_others_have_sent(site: Site) -> None:
    site.wait_open()
    site.use_all()
    site.masks(0b111, draining=0b100, over=0b100)
    site.turn()
    site.begin()
    assert site.states() == [HELD, HELD, OPEN]
    site.turn()
    site.find_empty(2)
    site.turn()
    site.turn(SPACING_NS * 2)
    assert site.states() == [OPEN] * 3


def test_nothing_that_the_demux_reads_is_anybodys(site: Site) -> None:
    assert set(site.gates.nobody.tolist()) == {NOBODY}
    assert len(site.gates.nobody) == BUCKETS


def test_what_comes_to_the_demux_is_dropped_by_its_name(site: Site) -> None:
    whole = packet(1)
    assert site.gates.why_nobody(memoryview(whole)) is DropReason.NO_LIVE_MEMBER
    assert site.gates.why_nobody(memoryview(whole[:22])) is DropReason.RECORD_MALFORMED


def test_the_tables_layout_is_the_programs() -> None:
    view = memoryview(bytearray(TABLE_BYTES))
    table = Table(view)
    table.owners[1], table.used[1] = 7, 9
    assert view[2:4].tobytes() == b"\x07\x00"
    assert view[USED_AT + 4 : USED_AT + 8].tobytes() == b"\x09\x00\x00\x00"


def test_any_word_is_a_state() -> None:
    assert [state_of(word) for word in range(4)] == [SHUT, HELD, OPEN, SHUT]
    assert state_of(2**64 - 2) is OPEN
