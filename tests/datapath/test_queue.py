"""Steering by the kernel, a member's side: what it reads, when it sends that, and what of it is counted how."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from killing import dies_at, every_point
from rig import Rig, identity_of, record, rig, socket_pair

from fwd.datapath import barrier
from fwd.datapath.counters import MemberCounter
from fwd.datapath.gates import GateState
from fwd.datapath.member import Member
from fwd.datapath.ring import EMPTY_NS, GATE, GATE_SEEN
from fwd.datapath.shared import LinkWord
from fwd.proto.drops import DropReason

FILES = ("fwd/datapath/queue.py", "fwd/datapath/outbound.py")
SHUT, HELD, OPEN = GateState.SHUT, GateState.HELD, GateState.OPEN


class Site:
    """A gateway whose member has a queue of its own, and a far one as ever."""

    def __init__(self, both: Rig, queue: tuple[socket.socket, socket.socket]) -> None:
        self.rig, self.a = both, both.a
        self._own, self.client = queue
        self.a.parts[0] = replace(self.a.parts[0], tun_fd=self._own.fileno(), steered=True)
        self.words = self.a.rings[0].member_words
        self.respawn()
        self.gate(OPEN)

    @property
    def member(self) -> Member:
        return self.a.members[0]

    def respawn(self, *, skip: bool = False) -> None:
        self.a.respawn(0, skip=skip)

    def gate(self, state: GateState) -> None:
        told = self.a.rings[0].demux_words
        told[GATE] = (told[GATE] // 4 + 1) * 4 + state

    def put(self, *records: bytes) -> None:
        for one in records:
            self.client.send(one)

    def turn(self) -> bool:
        """One of the member's loop."""
        queue = self.member.queue
        assert queue is not None
        if queue.to_tell:
            self.member._tell_moved()
        return queue.turn(self.member.outbound.work)

    def turns(self) -> None:
        for _ in range(50):
            if not self.turn():
                break
        self.turn()

    def arrived(self) -> list[int]:
        self.rig.carry()
        return [identity_of(one) for one in self.rig.b.delivered()]

    def dropped(self, reason: DropReason) -> int:
        return self.a.dropped(reason)

    def balances(self) -> bool:
        """All that was read is sent or dropped, and counted."""
        reasons = [one for one in DropReason if one.stage in ("demux", "outbound") and one.unit == "record"]
        gone = self.a.counted(MemberCounter.OUT_RECORDS) + sum(map(self.dropped, reasons))
        return self.a.counted(MemberCounter.READ_RECORDS) == gone == self.a.shared.members[0].link[LinkWord.QUEUE_READ]


@pytest.fixture(params=["superpacket", "esp"])
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with contextlib.ExitStack() as undo:
        yield Site(undo.enter_context(rig(members=1, payload=request.param)), socket_pair(undo))


def test_what_is_read_is_sent_in_order(site: Site) -> None:
    site.put(*(record(i, 100 + i) for i in range(150)))
    site.turns()
    assert site.arrived() == list(range(150))
    assert site.balances()
    assert site.a.records_in() == 0, "the demux has not seen it"


def test_what_is_outside_of_the_subnets_or_malformed_is_dropped_by_its_name(site: Site) -> None:
    site.put(record(1), record(2, back=True), record(3)[:-1], record(4))
    site.turns()
    assert site.arrived() == [1, 4]
    assert (site.dropped(DropReason.SELECTOR_OUT), site.dropped(DropReason.RECORD_MALFORMED)) == (1, 1)
    assert site.balances()


def test_records_wait_in_the_device_while_what_was_read_is_not_sent(site: Site) -> None:
    queue = site.member.queue
    assert queue is not None
    site.put(*(record(i, 700) for i in range(80)))
    queue.turn(lambda: True)
    read = site.a.shared.members[0].link[LinkWord.QUEUE_READ]
    for _ in range(5):
        assert queue.turn(lambda: True)
    assert site.a.shared.members[0].link[LinkWord.QUEUE_READ] == read <= 64
    site.turns()
    assert site.arrived() == list(range(80))


def test_a_member_that_is_held_reads_and_sends_nothing(site: Site) -> None:
    site.gate(HELD)
    site.put(record(1))
    assert not site.turn()
    assert site.a.shared.members[0].link[LinkWord.QUEUE_READ] == 0
    site.gate(OPEN)
    site.turns()
    assert site.arrived() == [1]


def test_what_was_read_when_the_gate_was_held_waits_too(site: Site) -> None:
    """It may be of a bucket that came with that."""
    queue = site.member.queue
    assert queue is not None
    site.put(record(1))
    read = queue._demux.readv

    def held_meanwhile(fd: int, buffers: list[memoryview]) -> int:
        length = read(fd, buffers)
        site.gate(HELD)
        return length

    queue._demux.readv = held_meanwhile
    assert not site.turn()
    assert (site.a.shared.members[0].link[LinkWord.QUEUE_READ], site.arrived()) == (1, [])
    queue._demux.readv = read
    site.gate(OPEN)
    site.turns()
    assert site.arrived() == [1]


def test_what_lies_in_a_queue_that_is_shut_is_dropped_and_the_far_member_told_before_it_says_so(site: Site) -> None:
    site.gate(SHUT)
    word = site.a.rings[0].demux_words[GATE]
    site.put(*(record(i) for i in range(20)))
    site.turn()
    assert site.words[GATE_SEEN] != word, "the far member is told first"
    site.turns()
    assert (site.words[GATE_SEEN], site.arrived()) == (word, [])
    assert site.dropped(DropReason.BUCKETS_MOVED) == 20
    assert site.balances()


def test_what_was_read_before_the_gate_was_shut_is_not_sent(site: Site) -> None:
    """The process was stopped between."""
    queue = site.member.queue
    assert queue is not None
    site.put(*(record(i) for i in range(20)))
    queue.turn(lambda: True)
    site.gate(SHUT)
    site.turns()
    assert site.arrived() == []
    assert site.dropped(DropReason.BUCKETS_MOVED) == 20
    assert site.balances()


def test_it_says_that_its_queue_is_empty_when_all_is_sent(site: Site) -> None:
    site.put(record(1))
    site.turn()
    assert site.words[EMPTY_NS] == 0
    site.turns()
    assert site.words[EMPTY_NS] > 0


def test_a_queue_is_not_empty_while_something_of_it_waits_in_the_member(site: Site) -> None:
    """Records of ever another TOS octet take a segment each, and wait for each other."""
    site.put(*(record(i, 100, tos=(i % 5) * 32) for i in range(60)))
    for _ in range(200):
        site.turn()
        if site.words[EMPTY_NS]:
            break
    assert site.a.counted(MemberCounter.OUT_RECORDS) == 60
    assert len(site.arrived()) == 60


def test_what_a_member_had_read_dies_with_it_and_is_counted(site: Site) -> None:
    queue = site.member.queue
    assert queue is not None
    site.put(*(record(i) for i in range(10)))
    queue.turn(lambda: True)
    site.put(*(record(i) for i in range(10, 15)))
    site.respawn()
    site.turns()
    assert site.arrived() == list(range(10, 15)), "what waits in the queue is its successor's"
    assert site.dropped(DropReason.DIED_WITH_MEMBER) == 10
    assert site.balances()


def test_a_member_that_comes_back_from_failed_leaves_what_waited(site: Site) -> None:
    site.put(*(record(i) for i in range(10)))
    site.respawn(skip=True)
    site.turns()
    assert site.arrived() == []
    assert site.dropped(DropReason.FAILED_SKIPPED) == 10
    assert site.balances()


def test_words_of_a_predecessor_that_was_taken_over_are_not_believed(site: Site) -> None:
    site.a.shared.members[0].link[LinkWord.QUEUE_READ] = 2**63
    site.respawn()
    site.put(record(1))
    site.turns()
    assert site.arrived() == [1]
    assert site.balances()


def test_a_failure_while_records_are_looked_at_costs_a_burst_that_is_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = site.member.queue
    assert queue is not None
    monkeypatch.setattr(barrier, "reraise", False)
    monkeypatch.setattr(queue._demux, "_find_bucket", lambda *_: 1 // 0)
    site.put(record(1), record(2))
    site.turns()
    monkeypatch.undo()
    site.put(record(3))
    site.turns()
    assert site.arrived() == [3]
    assert site.dropped(DropReason.INTERNAL_ERROR) == 2
    assert site.balances()


def test_a_device_that_is_gone_ends_nobody_and_is_told_of_once(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """There is a turn for each packet from the far side, until somebody replaces the process."""
    queue = site.member.queue
    assert queue is not None

    def gone(fd: int, buffers: list[memoryview]) -> int:
        raise OSError(77, os.strerror(77))

    queue._demux.readv = gone
    assert not any(site.turn() for _ in range(20))
    assert [told.event for told in caplog.records] == ["member.device_gone"]  # type: ignore[attr-defined]


def test_a_bell_that_was_rung_since_the_queue_was_looked_at_has_it_looked_at_before_it_rests(site: Site) -> None:
    """Else the demux waits for it in vain, holds others up meanwhile, and takes its buckets from it."""
    site.turns()
    before = site.words[EMPTY_NS]
    site.a.rings[0].ring_bell()
    asleep = SimpleNamespace(poll=lambda seconds: pytest.fail("it rests"))
    assert site.member._rest(cast(select.epoll, asleep), site.member._now + 60.0) == []
    site.turn()
    assert site.words[EMPTY_NS] > before


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_kill_at_any_line_loses_what_was_read_and_counts_it(payload: str) -> None:
    """Whatever its successor finds in the queue it sends; nothing is sent twice, or behind what came after it."""

    def check(nth: int) -> bool:
        with contextlib.ExitStack() as undo:
            site = Site(undo.enter_context(rig(members=1, payload=payload)), socket_pair(undo))
            site.put(*(record(i, 700) for i in range(24)))
            died = dies_at(nth, site.turns, *FILES)
            site.respawn()
            site.put(record(24, 700))
            site.turns()
            found = site.arrived()
            assert found == sorted(set(found)), found
            assert found[-1] == 24
            assert site.balances()
            gone = site.dropped(DropReason.DIED_WITH_MEMBER)
            assert len(found) + gone >= 24, "one record may be between the queue and its count; others were sent before"
            return died

    assert every_point(check, every_time=False) > 60
