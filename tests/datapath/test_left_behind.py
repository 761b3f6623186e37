"""What waits for a member whose buckets go to others is not sent when it comes back: no flow is turned around."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from types import CodeType, FrameType
from typing import Any

import propkit
import pytest
from killing import counts, dies_at, every_point
from rig import Group, Rig, identity_of, packet, record, rig

from fwd.datapath.ring import LEFT
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, flow_hash, owners, rendezvous_scores

# Every line of a step is a point to try: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)

OUTBOUND = ("fwd/datapath/outbound.py", "fwd/datapath/udp.py")
DEMUX = ("fwd/datapath/demux.py", "fwd/datapath/owners.py", "fwd/datapath/ring.py")
OLD, NEW = range(3), range(10, 12)


@pytest.fixture(params=["superpacket", "esp"])
def payload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fill(r: Rig, identities: range) -> None:
    """A segment for each: records of one flow, which was member 0's."""
    port = port_of_member_0()
    for identity in identities:
        r.a.send(record(identity, 900, port=port))
        r.a.demux_turn()


@cache
def port_of_member_0() -> int:
    """A UDP port whose flow is member 0's when two are live."""
    target = owners(rendezvous_scores(2), 0b11)
    return next(p for p in range(1024, 65536) if target[flow_hash(memoryview(packet(0, port=p))) & BUCKET_MASK] == 0)


def move(r: Rig) -> None:
    """Member 0 leaves the live mask, its flow goes on with member 1, and member 0 is live again."""
    r.a.shared.live[0] = 0b10
    r.a.tick += 1
    fill(r, NEW)
    r.a.members[1].outbound.work()
    r.a.members[1].outbound.work()
    r.a.shared.live[0] = 0b11
    r.a.demux_turn()


def arrived(r: Rig) -> list[int]:
    """What the far side delivered, in the order in which it was sent."""
    late = r.a.wires[0].sent()
    r.b.arrive(1, r.a.wires[1].sent())
    r.b.arrive(0, late)
    return [identity_of(d) for d in r.b.delivered()]


@pytest.mark.parametrize("dies", [False, True], ids=["hung", "replaced"])
def test_a_member_that_comes_back_skips_what_waited_when_its_buckets_went_away(payload: str, dies: bool) -> None:
    with rig(payload=payload) as r:
        fill(r, OLD)
        move(r)
        if dies:
            r.a.respawn(0)
        r.a.work()
        assert arrived(r) == list(NEW)
        assert r.a.dropped(DropReason.BUCKETS_MOVED) == len(OLD)
        r.a.check_books()


def test_what_comes_after_its_return_is_sent(payload: str) -> None:
    with rig(payload=payload) as r:
        fill(r, OLD)
        move(r)
        r.a.tick += 1000  # its buckets are idle, and go back to it
        fill(r, range(20, 22))
        r.a.work()
        assert arrived(r) == [*NEW, 20, 21]
        assert r.a.dropped(DropReason.BUCKETS_MOVED) == len(OLD)
        r.a.check_books()


def test_a_member_whose_buckets_stay_sends_what_waited() -> None:
    """It died and was replaced within the time that the live mask grants, or another left."""
    with rig() as r:
        fill(r, OLD)
        r.a.shared.live[0] = 0b01
        r.a.demux_turn()
        r.a.respawn(0)
        r.a.work()
        assert arrived(r) == list(OLD)
        assert r.a.dropped(DropReason.BUCKETS_MOVED) == 0


def asleep_at(
    nth: int, work: Callable[[], object], meanwhile: Callable[[], None], every_time: bool
) -> tuple[str, int] | None:
    """Let `meanwhile` happen before the `nth` line of the way out; that line and its function, None: there is none."""
    left, where = nth, None
    times: Counter[tuple[CodeType, int]] = Counter()

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_line if frame.f_code.co_filename.endswith(OUTBOUND) else None

    def on_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left, where
        if event == "line" and where is None:
            at = frame.f_code, frame.f_lineno
            times[at] += 1
            left -= counts(frame.f_lineno, times[at], every_time)
            if left == 0:
                sys.settrace(None)
                where = frame.f_code.co_name, frame.f_lineno
                meanwhile()
        return on_line

    sys.settrace(on_call)
    try:
        work()
    finally:
        sys.settrace(None)
    return where


def test_a_member_that_sleeps_with_a_segment_in_hand_does_not_send_it_late(payload: str, every_time: bool) -> None:
    """Wherever it sleeps while its buckets go away, but for the steps of the send itself."""
    nth, late = 1, set()
    where: tuple[str, int] | None = ("work", 0)
    while where:
        with rig(payload=payload) as r:
            fill(r, range(1))
            before: list[Any] = []

            def meanwhile(r: Rig = r, before: list[Group] = before) -> None:
                before += r.a.wires[0].sent()
                move(r)

            where = asleep_at(nth, r.a.members[0].outbound.work, meanwhile, every_time)
            if where and not before and arrived(r) != list(NEW):
                late.add(where)
            r.a.check_books()
        nth += propkit.one_place_in
    assert nth > 30
    sends = {(name, line) for name, line in late if name in ("_transmit", "send", "_send_one")}
    found = len(late - sends)
    assert found == 1 or (found == 0 and propkit.one_place_in > 1), "the line that calls for the send"


def test_demux_killed_while_buckets_go_away(every_time: bool) -> None:
    def check(nth: int) -> bool:
        with rig() as r:
            fill(r, OLD)
            r.a.shared.live[0] = 0b10
            r.a.send(*[record(n, 900, port=port_of_member_0()) for n in NEW])

            died = dies_at(nth, r.a.demux_turn, *DEMUX)
            r.a.spawn_demux()
            r.a.demux_turn()
            r.a.members[1].outbound.work()
            r.a.shared.live[0] = 0b11
            r.a.demux_turn()
            r.a.work()
            assert not set(arrived(r)) & set(OLD)
            assert r.a.dropped(DropReason.BUCKETS_MOVED) == len(OLD)
            r.a.check_books()
            return died

    assert every_point(check, every_time=every_time) > 50


def test_member_killed_while_it_skips(every_time: bool) -> None:
    """Each record that it skips is counted once, as moved or as dead with it."""

    def check(nth: int) -> bool:
        with rig() as r:
            fill(r, OLD)
            move(r)
            died = dies_at(nth, r.a.members[0].outbound.work, *OUTBOUND)
            r.a.respawn(0)
            r.a.work()
            assert arrived(r) == list(NEW)
            lost = r.a.dropped(DropReason.DIED_WITH_MEMBER)
            assert lost <= 1
            assert lost + r.a.dropped(DropReason.BUCKETS_MOVED) == len(OLD)
            r.a.check_books()
            return died

    assert every_point(check, every_time=every_time) > 5


# -- what the far member has not read yet -----------------------------------------------------------------------------


def unread(r: Rig) -> list[Group]:
    """What member 0 has sent, and its far member does not read while it sleeps; the flow goes on with member 1."""
    fill(r, OLD)
    r.a.work()
    lies = r.a.wires[0].sent()
    move(r)
    r.a.members[0]._tell_moved()
    r.b.arrive(1, r.a.wires[1].sent())
    return lies + r.a.wires[0].sent()


def wake(r: Rig, groups: list[Group]) -> list[int]:
    """Let the far member read what lay in its socket; what the far side has delivered."""
    r.b.sleep()
    r.b.arrive_only(0, groups)
    return [identity_of(d) for d in r.b.delivered()]


@pytest.fixture(params=["superpacket", "esp"])
def knowing(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Both sides know echoes in payload esp, too."""
    with rig(payload=request.param) as r:
        for side in (r.a, r.b):
            for member in side.shared.members:
                member.echoes[0] = 1
        yield r


@pytest.mark.parametrize("dies", [False, True], ids=["slept", "replaced"])
def test_what_a_far_member_has_not_read_when_its_flow_moves_is_not_delivered(knowing: Rig, dies: bool) -> None:
    r = knowing
    lies = unread(r)
    if dies:
        r.b.respawn(0)
    assert wake(r, lies) == list(NEW)
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
    r.b.check_books()


def test_what_comes_behind_that_is_delivered(knowing: Rig) -> None:
    r = knowing
    lies = unread(r)
    r.a.tick += 1000  # its buckets are idle, and go back to it
    fill(r, range(20, 22))
    r.a.work()
    assert wake(r, lies + r.a.wires[0].sent()) == [*NEW, 20, 21]
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
    r.b.check_books()


def test_a_far_member_that_slept_while_no_flow_moved_delivers_all_in_order(knowing: Rig) -> None:
    r = knowing
    fill(r, OLD)
    r.a.work()
    assert wake(r, r.a.wires[0].sent()) == list(OLD)
    r.b.check_books()


def test_who_reads_all_the_time_delivers_what_comes_before_the_move() -> None:
    """It was delivered before the flow went on with others."""
    with rig() as r:
        lies = unread(r)
        r.b.delivered()
        r.b.arrive_only(0, lies)
        assert [identity_of(d) for d in r.b.delivered()] == list(OLD)
        assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == 0


def test_a_sleeper_holds_no_more_than_its_socket_could(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwd.datapath.delivery._HELD_MAX", 2000)
    with rig() as r:
        lies = unread(r)
        assert wake(r, lies) == [*NEW, *OLD]
        r.b.check_books()


def test_a_sleeper_looks_no_longer_than_a_while_whoever_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Junk is not held, and so does not fill what may be held; its heartbeat is waited for."""
    with rig() as r:
        member, junk = r.b.members[0], Group(bytes(50), 50)
        endless = Endless([(junk, 0)])
        monkeypatch.setattr(r.b.wires[0], "inbox", endless)
        r.b.sleep()
        member._receive()
        assert 1000 < endless.taken <= 97 * 256
        assert not member.inbound.delivery.holds

        # Of the time that it may take, no more is left.
        endless.taken = 0
        monkeypatch.setattr("fwd.datapath.member._LOOK_MAX_S", 0.0)
        r.b.sleep()
        member._receive()
        assert endless.taken <= 256
        assert not member.inbound.delivery.holds


class Endless(list[tuple[Group, int]]):
    """A socket's datagrams that never come to an end."""

    taken = 0

    def pop(self, index: Any = 0) -> tuple[Group, int]:
        self.taken += 1
        return self[0]


@pytest.mark.parametrize("receives", range(7))
def test_who_is_stopped_while_it_receives_delivers_nothing_late(knowing: Rig, receives: int) -> None:
    """Wherever: before its first receive, between two of them, or behind the last that finds something."""
    r = knowing
    lies = unread(r)
    assert len(lies) == 3 + 3  # what it was sent, and that it is not its own any more, three times
    assert [identity_of(d) for d in r.b.delivered()] == list(NEW)
    r.b.wires[0].meanwhile = [*[lambda: None] * receives, r.b.sleep]
    r.b.arrive_only(0, lies)
    assert r.b.delivered() == []
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
    r.b.check_books()


def test_what_is_opened_amid_a_run_of_receives_is_not_delivered_late_either(knowing: Rig) -> None:
    """Datagrams of another size than before are opened at once."""
    r = knowing
    for identity in OLD:
        r.a.send(record(identity, 300 + 300 * identity, port=port_of_member_0()))
        r.a.demux_turn()
    r.a.work()
    lies = r.a.wires[0].sent()
    move(r)
    r.a.members[0]._tell_moved()
    r.b.wires[0].meanwhile = [lambda: None, r.b.sleep]
    r.b.arrive_only(0, lies[-1:] + lies + r.a.wires[0].sent())
    assert r.b.delivered() == []
    r.b.check_books()


def test_who_never_finds_its_socket_empty_delivers_nothing_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It turns again and again, and reads less than comes."""
    monkeypatch.setattr("fwd.datapath.inbound.BATCH_MAX", 2)
    with rig() as r:
        lies = unread(r)
        assert [identity_of(d) for d in r.b.delivered()] == list(NEW)
        backlog, wire = [Group(bytes(50), 50)] * 20, r.b.wires[0]
        wire.inbox += [(group, 0) for group in (*backlog, *lies)]
        for _ in range(3):
            r.b.seconds += 0.2
            r.b.members[0]._receive()
        assert not wire.inbox
        assert r.b.delivered() == []
        assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
        r.b.check_books()


def test_who_reads_all_that_comes_is_not_late_though_there_is_always_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits is younger than it takes to give up a path: nothing is held, and the way out has its turns."""
    monkeypatch.setattr("fwd.datapath.inbound.BATCH_MAX", 2)
    with rig() as r:
        wire = r.b.wires[0]
        wire.inbox += [(Group(bytes(50), 50), 0)] * 3
        for _ in range(10):
            r.b.seconds += 0.1
            wire.inbox += [(Group(bytes(50), 50), 0)] * 2
            r.b.members[0]._receive()
            assert len(wire.inbox) == 3, "one batch a turn"


def test_a_word_that_a_full_socket_has_lost_counts_as_said(knowing: Rig) -> None:
    """What lay there before is dropped: these flows may have gone on with others."""
    r = knowing
    lies = unread(r)
    r.b.wires[0].lost = 1
    assert wake(r, lies[:-1]) == list(NEW)
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
    r.b.check_books()

    # It counts once.
    r.a.tick += 1000  # its buckets are idle, and go back to it
    fill(r, range(20, 22))
    r.a.work()
    assert wake(r, r.a.wires[0].sent()) == [20, 21]


def test_a_socket_that_was_full_before_it_was_read_in_time_has_lost_no_word(knowing: Rig) -> None:
    r = knowing
    fill(r, range(1))
    r.a.work()
    r.b.wires[0].lost = 7
    r.b.arrive(0, r.a.wires[0].sent(), lost=7)
    fill(r, range(1, 3))
    r.a.work()
    assert wake(r, r.a.wires[0].sent()) == [0, 1, 2]


def test_who_is_sent_more_than_it_can_read_delivers_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket is never empty, so its flows are still with it, whatever else is lost."""
    monkeypatch.setattr("fwd.datapath.member._BATCHES_MAX", 3)
    monkeypatch.setattr("fwd.datapath.inbound.BATCH_MAX", 2)
    with rig() as r:
        fill(r, OLD)
        r.a.work()
        r.b.wires[0].inbox += [(group, 1) for group in r.a.wires[0].sent()] + [(Group(bytes(50), 50), 9)] * 50
        r.b.wires[0].lost = 9
        r.b.sleep()
        r.b.members[0]._receive()
        assert r.b.wires[0].inbox
        assert [identity_of(d) for d in r.b.delivered()] == list(OLD)
        r.b.check_books()


def test_that_buckets_have_moved_is_told_until_it_could_be_sent(knowing: Rig) -> None:
    member = knowing.a.members[0]
    member._parts.ring.demux_words[LEFT] += 1
    knowing.a.wires[0].errors.append(errno.EAGAIN)
    member._tell_moved()
    assert member._left != member._parts.ring.left
    member._tell_moved()
    assert member._left == member._parts.ring.left
    assert knowing.a.wires[0].sent()


@pytest.mark.parametrize("lost", [{0}, {1, 2}, {0, 1}])
def test_a_word_of_moved_buckets_that_the_network_loses_is_there_once_more(knowing: Rig, lost: set[int]) -> None:
    r = knowing
    fill(r, OLD)
    r.a.work()
    lies = r.a.wires[0].sent()
    move(r)
    r.a.members[0]._tell_moved()
    r.b.arrive(1, r.a.wires[1].sent())
    words = r.a.wires[0].sent()

    assert wake(r, lies + [one for at, one in enumerate(words) if at not in lost]) == list(NEW)
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)
    r.b.check_books()


def test_what_a_member_has_not_told_its_successor_tells(knowing: Rig) -> None:
    """It was away when its buckets went; and what was told is not told again."""
    r = knowing
    fill(r, OLD)
    r.a.work()
    lies = r.a.wires[0].sent()
    move(r)
    r.b.arrive(1, r.a.wires[1].sent())
    for told in (1, 0):
        r.a.respawn(0)
        member = r.a.members[0]
        if member._left != r.a.rings[0].left:
            member._tell_moved()
        sent = r.a.wires[0].sent()
        assert len(sent) == 3 * told
        lies += sent
    assert wake(r, lies) == list(NEW)
    assert r.b.dropped(DropReason.BUCKETS_MOVED_IN) == len(OLD)


def test_a_sleeper_that_dies_while_it_looks_loses_what_it_held_and_counts_it(knowing: Rig) -> None:
    r = knowing
    fill(r, OLD)
    r.a.work()
    member = r.b.members[0]
    member.inbound.delivery.hold()
    r.b.wires[0].inbox += [(group, 0) for group in r.a.wires[0].sent()]
    while r.b.wires[0].inbox:
        member._receive_batch()
    r.b.respawn(0)
    assert r.b.delivered() == []
    assert r.b.dropped(DropReason.DIED_WITH_MEMBER_IN) >= 1
    r.b.check_books()


def test_the_far_member_is_told_as_soon_as_buckets_move() -> None:
    """The bell wakes its member, which a resting one would else hear of seconds later."""
    with rig() as r:
        fill(r, OLD)
        r.a.work()
        with suppress(BlockingIOError):
            os.eventfd_read(r.a.rings[0].bell)
        r.a.shared.live[0] = 0b10
        r.a.tick += 1
        r.a.demux_turn()
        assert os.eventfd_read(r.a.rings[0].bell)
        assert r.a.rings[0].left != r.a.members[0]._left
