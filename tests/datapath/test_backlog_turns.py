"""Turns of what waits in the demux: a flow that changes its TOS octet, or sends both sizes, waits for itself."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
from rig import Rig, record, rig
from test_backlog import MANY, bulk, finish, port_of, tags, tos_single, turns

from fwd.datapath import backlog, parking
from fwd.datapath.counters import MemberCounter
from fwd.datapath.lane import BULK_MAX
from fwd.datapath.parking import Parking
from fwd.datapath.ring import SEGMENTS
from fwd.proto import codel


@pytest.fixture(autouse=True)
def _no_queue_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codel, "INTERVAL_NS", 1 << 60)


@pytest.fixture(params=["superpacket", "esp"])
def payload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def step(r: Rig, segments: int) -> list[bytes]:
    """Some segments are sent, one by one, and the demux looks after each; what the far side delivers."""
    got: list[bytes] = []
    for _ in range(segments):
        r.a.members[0].outbound.work()
        r.a.demux._hand_over()
        r.carry()
        got += r.b.delivered()
    return got


def test_a_flow_that_changes_its_tos_octet_with_each_packet_takes_no_more_than_its_turns(payload: str) -> None:
    """Each change costs a segment, and that is what it pays with."""
    with rig(members=1, payload=payload) as r:
        busy, mixed, other = port_of(r, 0, 3)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        turns(r.a, *(tos_single(n, mixed, (0x20, 0x40)[n % 2]) for n in range(200)))
        turns(r.a, *(tos_single(n, other, 0x60) for n in range(10)))
        got = step(r, 40)
        assert tags(got, other) == list(range(10)), "single packets of others go ahead"
        assert len(tags(got, busy)) > 24
        assert len(tags(got, mixed)) > 5
        for _ in range(20):
            got += finish(r)
        assert tags(got, mixed) == list(range(200))
        assert tags(got, busy) == list(range(MANY))
        r.a.check_books()


def test_a_flow_of_changing_tos_octets_leaves_the_ring_room_for_single_packets_of_others(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        mixed = port_of(r, 0)[0]
        turns(r.a, *(tos_single(n, mixed, (0x20, 0x40)[n % 2]) for n in range(100)))
        assert r.a.rings[0].head - r.a.rings[0].taken <= BULK_MAX < SEGMENTS


def test_a_super_packet_behind_a_single_one_of_its_flow_takes_its_turn_with_those_of_others(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        busy, mixed, other = port_of(r, 0, 3)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        r.a.send(tos_single(0, other, 0x40), tos_single(0, mixed, 0x20))
        turns(r.a, *(bulk(n, mixed) for n in range(1, MANY)))
        got = step(r, 50)
        assert abs(len(tags(got, busy)) - BULK_MAX - len(tags(got, mixed))) < 8
        got += finish(r) + finish(r)
        assert tags(got, mixed) == tags(got, busy) == list(range(MANY))
        r.a.check_books()


@pytest.mark.parametrize(
    ("at_once", "ports", "octets", "parts"),
    [
        (140, 1, (0,), {"length": 1400}),
        (140, 10_000, (0,), {"length": 1400}),
        (140, 2, (0x20, 0x40), {"length": 1400}),
        (1100, 1, (0,), {"length": 40}),
    ],
    ids=["one flow", "a flow for each packet", "two TOS octets", "small ones"],
)
def test_single_packets_that_never_end_leave_super_packets_that_wait_their_share(
    payload: str, at_once: int, ports: int, octets: tuple[int, ...], parts: dict[str, Any]
) -> None:
    """More of them come than the member takes."""
    with rig(members=1, payload=payload) as r:
        busy, got = port_of(r, 0)[0], []
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        r.a.demux._lanes[0].backlog._clock = count(1, 10_000_000).__next__  # all singles are due
        for turn in range(60):
            for n in range(turn * at_once, (turn + 1) * at_once):
                r.a.send(record(n, tos=octets[n % len(octets)], port=7000 + n % ports, **parts))
                if n % 20 == 0:
                    r.a.demux._read_burst(r.a.tick)
                    r.a.demux._hand_over()
            got += step(r, 1)
        assert tags(got, busy) == list(range(MANY))
        assert r.a.counted(MemberCounter.OUT_RECORDS) - MANY > 20 * 46, "nor do they stand still"


def test_a_segment_of_single_packets_stays_open_until_a_super_packet_has_room_behind_it(payload: str) -> None:
    """Else the next single packet would begin another one, and the super-packet's turn would be forgotten."""
    with rig(members=1, payload=payload) as r:
        turns(r.a, *(bulk(n, port_of(r, 0)[0]) for n in range(MANY)))
        r.a.send(record(0, port=7000, tos=0x20), *(record(n, 1400, port=7001, tos=0x40) for n in range(1, 61)))
        r.a.demux._read_burst(r.a.tick)
        r.a.demux._hand_over()
        assert r.a.demux._lanes[0].open
        assert r.a.demux._lanes[0].records == 60


def test_a_few_single_packets_of_two_tos_octets_go_before_all_that_waits(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        busy, *others = port_of(r, 0, 3)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        turns(r.a, tos_single(1, others[0], 0x20), tos_single(2, others[1], 0x40))
        got = step(r, SEGMENTS)
        assert tags(got, others[0]) == [1]
        assert tags(got, others[1]) == [2]
        assert len(tags(got, busy)) <= 2 * BULK_MAX


def test_single_packets_of_a_tos_octet_that_never_end_let_those_of_another_one_go() -> None:
    now_ns = 1
    waits = backlog.Backlog(clock=lambda: now_ns)
    sent = {0x20: 0, 0x40: 0}
    for _ in range(3000):
        now_ns += 10_000
        for tos in sent:
            while waits.keep(memoryview(bytes(1400)), tos, tos, tos):
                pass
        if queue := waits.turn(is_busy=True):
            sent[queue.records[0].tos] += 1
            waits.gone(queue)
    assert sent[0x40] > sent[0x20] / 2 > 100


def test_a_bucket_of_which_nothing_waits_any_more_is_no_part_of_a_queue() -> None:
    waits = backlog.Backlog()
    for bucket in range(3):
        assert waits.keep(memoryview(bytes(100)), 0x20, bucket, 0x20)
    queue = waits.turn(is_busy=False)
    assert queue is not None
    waits.gone(queue)
    assert set(waits.waiting) == {1, 2}
    assert waits.keep(memoryview(bytes(100)), 0x20, 1, None)
    waits.gone(queue)
    assert set(waits.waiting) == {1, 2}


def test_a_record_for_which_there_is_no_memory_leaves_no_queue_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = backlog.Backlog()

    def fails(self: backlog.Backlog, length: int) -> None:
        raise MemoryError

    monkeypatch.setattr(backlog.Backlog, "_buffer", fails)
    with pytest.raises(MemoryError):
        waits.keep(memoryview(bytes(1000)), 0, 7)
    assert not waits.waiting
    assert waits.turn(is_busy=False) is None


def test_reading_does_not_stop_for_what_waited_for_a_member_that_leaves_however_many_that_is() -> None:
    parked = Parking()
    parked.bring((n, memoryview(bytes(60))) for n in range(5000))
    assert not parked.full
    assert len(parked) == 5000


def test_what_is_sifted_out_of_what_waited_for_a_member_that_leaves_makes_no_room_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parking, "_OCTETS_MAX", 1000)
    parked = Parking()
    parked.bring((1, memoryview(bytes(900))) for _ in range(9))
    assert parked.sift(lambda record: False) == 9
    while not parked.full:
        parked.put(1, memoryview(bytes(100)))
    assert len(parked) == 10


def test_a_demux_that_may_read_no_more_does_not_run_round_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is readable meanwhile."""

    class Slept(Exception):
        pass

    def sleep(seconds: float) -> None:
        assert seconds == 0.001
        raise Slept

    with rig(members=2) as r:
        demux, rounds = r.a.demux, iter(range(10))
        demux._owners.parking.begin({demux._lanes[0]: 99}, time.monotonic_ns())
        while not demux._owners.parking.full:
            demux._owners.parking.put(1, memoryview(bytes(60_000)))
        r.a.send(bulk(1, 40000))
        monkeypatch.setattr(time, "sleep", sleep)
        monkeypatch.setattr(demux, "_go_on", lambda now_ns: next(rounds))
        with pytest.raises(Slept):
            demux.run()
