"""What waits in the demux for a member that has enough to do: nothing is lost, nothing overtakes its own flow."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import segkit
from rig import Gateway, Rig, rig
from segkit import ACK

from fwd.datapath import backlog, barrier
from fwd.datapath.lane import BULK_MAX, Lane
from fwd.datapath.parking import SPACING_NS
from fwd.datapath.shared import MaskWord
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, PARKED, flow_hash
from fwd.proto.ip import VNET_BYTES

MANY = 50  # more super-packets than a ring holds, and less than may wait beside it
SIZE = 1300


@pytest.fixture(params=["superpacket", "esp"])
def payload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bulk(tag: int, port: int) -> bytes:
    """A super-packet of a TCP stream; `tag` tells its place."""
    return segkit.super_record(segkit.octets(tag, SIZE * 40), SIZE, sequence=tag << 16, port=port, flags=ACK)


def single(tag: int, port: int) -> bytes:
    return bytes(VNET_BYTES) + segkit.tcp_packet(b"", sequence=tag << 16, port=port)


def port_of(r: Rig, member: int, count: int = 1) -> list[int]:
    """TCP ports whose flows are this member's, each in a bucket of its own."""
    r.a.demux_turn()
    found: dict[int, int] = {}
    for port in range(40000, 60000):
        bucket = flow_hash(memoryview(segkit.tcp_packet(b"", sequence=0, port=port))) & BUCKET_MASK
        if r.a.shared.owners[bucket] == member:
            found.setdefault(bucket, port)
        if len(found) == count:
            break
    return list(found.values())


def turns(a: Gateway, *records: bytes) -> None:
    """Records that come one by one: the demux looks at each, and its members have no time."""
    for one in records:
        a.send(one)
        a.demux._read_burst(a.tick)
        a.demux._hand_over()


def tags(records: list[bytes], port: int) -> list[int]:
    """The tags of a flow's records, in order; a super-packet that came in packets counts once."""
    found: list[int] = []
    for packet in (one for data in records for one in segkit.segments(data)):
        tag = int.from_bytes(packet[24:28], "big") >> 16
        if packet[20:22] == port.to_bytes(2, "big") and tag not in found[-1:]:
            found.append(tag)
    return found


def finish(r: Rig) -> list[bytes]:
    """All that waits is sent, turn by turn; what the far side delivers."""
    for _ in range(MANY):
        r.a.work()
        r.a.demux._hand_over()
    r.carry()
    return r.b.delivered()


def lane_of(r: Rig, member: int = 0) -> Lane:
    return r.a.demux._lanes[member]


def test_super_packets_that_the_member_has_no_time_for_wait_and_none_is_lost(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        assert r.a.rings[0].head - r.a.rings[0].taken == BULK_MAX
        assert tags(finish(r), port) == list(range(MANY))
        assert r.a.dropped(DropReason.RING_FULL) == 0
        assert not lane_of(r).waiting
        r.a.check_books()


def test_a_single_packet_of_another_flow_goes_before_what_waits(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        busy, other = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)), single(7, other))
        waits = len(lane_of(r).backlog)
        assert waits > 1
        r.a.work()  # the ring, and no more
        r.a.demux._hand_over()
        r.a.work()
        r.carry()
        got = r.b.delivered()
        assert tags(got, other) == [7]
        assert len(tags(got, busy)) < MANY
        assert tags(got + finish(r), busy) == list(range(MANY))


def test_a_single_packet_of_a_flow_that_waits_waits_behind_it(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)), single(MANY, port))
        assert tags(finish(r), port) == list(range(MANY + 1))


def test_a_flow_that_begins_does_not_go_before_others_that_wait(payload: str) -> None:
    """Its super-packets are work, as theirs are."""
    with rig(members=1, payload=payload) as r:
        first, second = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, first) for n in range(MANY)))
        r.a.work()  # the ring has room again
        r.a.send(bulk(1, second))
        r.a.demux._read_burst(r.a.tick)
        assert lane_of(r).backlog._records[-1].bucket in lane_of(r).waiting
        got = finish(r)
        order = [int.from_bytes(p[20:22], "big") for data in got for p in segkit.segments(data)]
        assert order.index(second) > max(i for i, port in enumerate(order) if port == first)


def test_more_than_may_wait_is_dropped_and_the_rest_keeps_its_order(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "OCTETS_MAX", 10 * SIZE * 41)
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        dropped = r.a.dropped(DropReason.RING_FULL)
        assert 0 < dropped < MANY
        assert tags(finish(r), port) == list(range(MANY - dropped))
        r.a.check_books()


def test_what_waits_for_a_member_that_dies_goes_to_the_one_that_has_its_flows_now(payload: str) -> None:
    with rig(members=2, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        waits = len(lane_of(r).backlog)
        r.a.shared.live[MaskWord.LIVE] = 0b10
        r.a.tick += 1
        r.a.demux._follow_live(r.a.tick)
        assert not lane_of(r).waiting
        turns(r.a, bulk(MANY, port))
        for _ in range(MANY):
            r.a.members[1].outbound.work()
            r.a.demux._hand_over()
        r.carry()
        assert tags(r.b.delivered(), port) == list(range(MANY - waits, MANY + 1))
        assert r.a.dropped(DropReason.RING_FULL) == 0


def test_what_waits_for_a_member_that_leaves_is_parked_behind_what_it_still_sends(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=2, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        words = r.a.shared.live
        words[MaskWord.DRAINING], words[MaskWord.OVER], words[MaskWord.LIVE] = 0b01, 0b01, 0b11
        r.a.tick += 1
        r.a.demux._follow_live(r.a.tick)
        assert (r.a.shared.owners == PARKED).any()
        assert not lane_of(r).waiting
        got = finish(r)
        before = len(tags(got, port))
        assert 0 < before < MANY, "member 0 sends what its ring held"
        r.a.demux._go_on(time.monotonic_ns())
        real: Callable[[], int] = time.monotonic_ns
        monkeypatch.setattr(time, "monotonic_ns", lambda: real() + 2 * SPACING_NS)
        for _ in range(MANY):
            r.a.demux._go_on(time.monotonic_ns())
            r.a.demux._hand_over()
            r.a.work()
        r.carry()
        assert tags(got + r.b.delivered(), port) == list(range(MANY))
        r.a.check_books()


def test_a_flow_of_which_something_waits_is_not_idle() -> None:
    with rig(members=2) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        words = r.a.shared.live
        words[MaskWord.DRAINING], words[MaskWord.LIVE] = 0b01, 0b11
        r.a.tick += 1000  # 10 s, in which the member sent nothing
        r.a.demux._follow_live(r.a.tick)
        turns(r.a, bulk(MANY, port))
        assert tags(finish(r), port) == list(range(MANY + 1))
        assert r.a.rings[1].head == 0


def test_what_waits_is_counted_as_lost_with_a_burst_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        waits = len(lane_of(r).backlog)
        with monkeypatch.context() as patch:
            patch.setattr(barrier, "reraise", False)
            patch.setattr(Lane, "lay_waiting", lambda _: 1 / 0)
            r.a.demux._hand_over()
        assert not lane_of(r).waiting
        assert r.a.dropped(DropReason.INTERNAL_ERROR) >= waits
        assert r.a.records_in() == MANY
        r.a.work()
        r.a.check_books()


def test_what_waits_moves_on_a_host_that_is_up_for_more_than_497_days() -> None:
    with rig(members=2) as r:
        r.a.tick = 2**32 + 1000
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        r.a.shared.live[MaskWord.LIVE] = 0b10
        r.a.demux._follow_live(r.a.tick)
        assert not (r.a.shared.owners == 0).any()
        assert not lane_of(r).waiting


@pytest.mark.parametrize("at_once", [True, False])
def test_neither_what_waits_nor_what_is_parked_is_idle_after_a_pause(
    payload: str, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flow pauses before its member leaves, or the host while its records are parked."""
    with rig(members=2, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        words = r.a.shared.live
        words[MaskWord.DRAINING] = 0b01
        if at_once:
            r.a.tick += 150
        else:
            r.a.demux._follow_live(r.a.tick)
        words[MaskWord.OVER] = 0b01
        r.a.demux._follow_live(r.a.tick)
        assert r.a.demux._owners.parking.buckets()
        r.a.tick += 150
        r.a.demux._follow_live(r.a.tick)
        turns(r.a, bulk(MANY, port))
        got = finish(r)
        r.a.demux._go_on(time.monotonic_ns())
        real: Callable[[], int] = time.monotonic_ns
        monkeypatch.setattr(time, "monotonic_ns", lambda: real() + 2 * SPACING_NS)
        for _ in range(MANY):
            r.a.demux._go_on(time.monotonic_ns())
            r.a.demux._read_burst(r.a.tick)
            r.a.demux._hand_over()
            r.a.work()
        r.carry()
        assert tags(got + r.b.delivered(), port) == list(range(MANY + 1))


def test_what_was_parked_waits_for_a_new_member_that_has_enough_to_do_and_nobody_waits_for_it(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is read on meanwhile: other members go on."""
    with rig(members=2, payload=payload) as r:
        moves, stays = port_of(r, 0)[0], port_of(r, 1)[0]
        turns(r.a, *(bulk(n, stays) for n in range(MANY)), *(bulk(n, moves) for n in range(MANY)))
        words = r.a.shared.live
        words[MaskWord.DRAINING], words[MaskWord.OVER] = 0b01, 0b01
        r.a.demux._follow_live(r.a.tick)
        while r.a.members[0].outbound.work():
            pass
        r.a.demux._go_on(time.monotonic_ns())
        real: Callable[[], int] = time.monotonic_ns
        monkeypatch.setattr(time, "monotonic_ns", lambda: real() + 2 * SPACING_NS)
        r.a.demux._go_on(time.monotonic_ns())
        assert not r.a.demux._owners.parking.active
        assert tags(finish(r), stays) == list(range(MANY))


def test_memory_is_bounded_whatever_the_sizes_of_what_waits() -> None:
    waits = backlog.Backlog()
    sizes = [2_049, 40_000, 65_000, 33_000, 100]
    for turn in range(40):
        while waits.keep(memoryview(bytes(sizes[turn % len(sizes)])), 0, 1):
            pass
        while len(waits) > turn % 3:
            waits.drop_first()
    waits.clear()
    held = sum(one.nbytes for one in waits._free)
    assert held <= backlog.OCTETS_MAX
    while waits.keep(memoryview(bytes(2_049)), 0, 1):
        pass
    assert sum(one.octets.nbytes for one in waits._records) <= 2 * backlog.OCTETS_MAX


def test_single_packets_do_not_take_what_room_there_is_from_super_packets_that_wait(payload: str) -> None:
    """Nor the reverse: they share a segment, which is not handed over at each look."""
    with rig(members=1, payload=payload) as r:
        busy, other = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        for n in range(100):
            turns(r.a, single(n, other))
            if n % 10 == 0:
                r.a.members[0].outbound.work()  # one segment
        assert r.a.dropped(DropReason.RING_FULL) == 0
        got = finish(r)
        assert tags(got, other) == list(range(100))
        assert tags(got, busy) == list(range(MANY))


def test_reading_goes_on_while_what_waited_is_parked(payload: str) -> None:
    with rig(members=2, payload=payload) as r:
        leaves, stays = port_of(r, 0)[0], port_of(r, 1)[0]
        turns(r.a, *(bulk(n, leaves) for n in range(70)))
        words = r.a.shared.live
        words[MaskWord.DRAINING], words[MaskWord.OVER] = 0b01, 0b01
        r.a.demux._follow_live(r.a.tick)
        turns(r.a, single(1, stays))
        while r.a.members[1].outbound.work():
            pass
        r.carry()
        assert tags(r.b.delivered(), stays) == [1]


def test_a_member_that_fills_its_own_bell_stops_nobody() -> None:
    with rig(members=2) as r:
        os.eventfd_read(r.a.rings[0].bell)
        os.eventfd_write(r.a.rings[0].bell, 2**64 - 2)
        mine, others = port_of(r, 0)[0], port_of(r, 1)[0]
        turns(r.a, single(1, mine), single(2, others))
        r.a.spawn_demux()
        turns(r.a, single(3, others))
        assert tags(finish(r), others) == [2, 3]
