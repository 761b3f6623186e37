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
from fwd.datapath import demux as demux_module
from fwd.datapath.lane import BULK_MAX, Lane
from fwd.datapath.parking import SPACING_NS
from fwd.datapath.shared import MaskWord
from fwd.datapath.tuning import Tuning, publish
from fwd.proto import codel
from fwd.proto.codel import INTERVAL_NS
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, PARKED, flow_hash
from fwd.proto.ip import VNET_BYTES

MANY = 50  # more super-packets than a ring holds, and less than may wait beside it
SIZE = 1300


@pytest.fixture(autouse=True)
def _no_queue_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the tests are."""
    monkeypatch.setattr(codel, "INTERVAL_NS", 1 << 60)


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


def test_a_flow_that_begins_takes_turns_with_those_that_wait_and_does_not_go_before_them(payload: str) -> None:
    """Its super-packets are work, as theirs are; and those who have much to send wait for themselves."""
    with rig(members=1, payload=payload) as r:
        first, second = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, first) for n in range(MANY)))
        r.a.work()  # the ring has room again
        turns(r.a, *(bulk(n, second) for n in range(4)))
        got = finish(r)
        order = [int.from_bytes(p[20:22], "big") for data in got for p in segkit.segments(data)]
        begun = order.index(second)
        assert order[:begun].count(first) > BULK_MAX
        assert order[-1] == first, "it need not wait for all that came before"
        assert tags(got, first) == list(range(MANY))
        assert tags(got, second) == list(range(4))


def test_more_than_may_wait_is_dropped_and_the_rest_keeps_its_order(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "OCTETS_MAX", 20 * SIZE * 41)
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


def test_an_exception_costs_what_waits_for_the_member_in_whose_lane_it_came_and_nothing_of_others(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=2, payload=payload) as r:
        mine, others = port_of(r, 0)[0], port_of(r, 1)[0]
        turns(r.a, *(bulk(n, mine) for n in range(MANY)), *(bulk(n, others) for n in range(MANY)))
        waits = lane_of(r).held()
        assert waits > 1
        with monkeypatch.context() as patch:
            patch.setattr(barrier, "reraise", False)
            patch.setattr(lane_of(r), "put", lambda *_: 1 / 0)
            r.a.work()
            r.a.demux._hand_over()
        assert not lane_of(r).waiting
        assert r.a.dropped(DropReason.INTERNAL_ERROR) == waits
        assert r.a.records_in() < 2 * MANY
        got = finish(r)
        assert tags(got, mine) == list(range(MANY - waits))
        assert tags(got, others) == list(range(MANY))
        assert r.a.records_in() == 2 * MANY
        r.a.check_books()


def test_an_exception_before_a_record_has_a_lane_costs_that_record_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        with monkeypatch.context() as patch:
            patch.setattr(barrier, "reraise", False)
            patch.setattr(r.a.demux._shapes, "fault", lambda _: 1 / 0)
            turns(r.a, segkit.super_record(b"x" * 5000, 1000, port=port))
        assert r.a.dropped(DropReason.INTERNAL_ERROR) == 1
        assert tags(finish(r), port) == list(range(MANY))
        r.a.check_books()


def test_an_exception_while_buckets_move_costs_what_waits_and_the_move_is_made_up_for(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=2, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        waits = lane_of(r).held()
        r.a.shared.live[MaskWord.LIVE] = 0b10
        with monkeypatch.context() as patch:
            patch.setattr(barrier, "reraise", False)
            patch.setattr(r.a.demux._owners, "_give_to_others", lambda _: 1 / 0)
            r.a.demux._follow_live(r.a.tick)
        assert not lane_of(r).waiting
        assert r.a.dropped(DropReason.INTERNAL_ERROR) > 1
        assert r.a.dropped(DropReason.INTERNAL_ERROR) + r.a.dropped(DropReason.NO_LIVE_MEMBER) == waits
        assert r.a.records_in() == MANY
        turns(r.a, bulk(MANY, port))
        r.a.demux._follow_live(r.a.tick)
        assert not (r.a.shared.owners == 0).any()
        turns(r.a, bulk(MANY + 1, port))
        assert MANY + 1 in tags(finish(r), port)
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
        for bucket in range(20):
            while waits.keep(memoryview(bytes(sizes[turn % len(sizes)])), 0, bucket):
                pass
        while len(waits) > turn % 3:
            waits.gone(waits.turns[0])
    waits.clear()
    held = sum(one.nbytes for one in waits._free)
    assert held <= backlog.OCTETS_MAX
    for bucket in range(20):
        while waits.keep(memoryview(bytes(2_049)), 0, bucket):
            pass
    assert sum(one.octets.nbytes for one in waits.take_all()) <= 2 * backlog.OCTETS_MAX


def test_a_bucket_that_fills_what_may_wait_leaves_room_for_others() -> None:
    waits = backlog.Backlog()
    kept = [0] * 3
    for bucket in range(3):
        while waits.keep(memoryview(bytes(60_000)), 0, bucket):
            kept[bucket] += 60_000
    assert kept[0] > backlog.OCTETS_MAX * 0.45
    assert kept[1] > backlog.OCTETS_MAX * 0.2
    assert kept[2] > backlog.OCTETS_MAX * 0.1


def test_buckets_take_turns_and_each_keeps_its_order() -> None:
    waits = backlog.Backlog()
    for bucket, count in ((1, 8), (2, 3), (3, 1)):
        for n in range(count):
            assert waits.keep(memoryview(bytes([n]) + bytes(59_999)), 0, bucket)
    order = []
    while queue := waits.turn(is_busy=True):
        order.append((queue.records[0].bucket, queue.records[0].record[0]))
        waits.gone(queue)
    assert order[:5] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]
    assert [n for bucket, n in order if bucket == 1] == list(range(8))
    assert [n for bucket, n in order if bucket == 2] == [0, 1, 2]
    assert not waits.waiting
    assert len(waits) == 0


def test_a_flow_that_fills_what_may_wait_costs_no_other_flow_a_record(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "OCTETS_MAX", 20 * SIZE * 41)
    with rig(members=1, payload=payload) as r:
        greedy, other = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, greedy) for n in range(MANY)), *(bulk(n, other) for n in range(3)))
        assert r.a.dropped(DropReason.RING_FULL) > 0
        assert tags(finish(r), other) == [0, 1, 2]


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


# -- single packets of several TOS octets -----------------------------------------------------------------------------


def tos_single(tag: int, port: int, tos: int) -> bytes:
    return bytes(VNET_BYTES) + segkit.tcp_packet(b"", sequence=tag << 16, port=port, tos=tos)


def test_single_packets_of_changing_tos_octets_share_segments_while_the_member_has_enough_to_do(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        busy, *others = port_of(r, 0, 3)
        lane_of(r).backlog._clock = lambda: 1
        turns(r.a, *(bulk(n, busy) for n in range(6)))
        before = r.a.rings[0].head
        for n in range(100):
            turns(r.a, tos_single(n, others[n % 2], (0x20, 0x40)[n % 2]))
        assert r.a.rings[0].head - before <= 2
        assert r.a.dropped(DropReason.RING_FULL) == 0
        got = finish(r)
        assert tags(got, busy) == list(range(6))
        for n in range(2):
            assert tags(got, others[n]) == list(range(n, 100, 2))
        r.a.check_books()


def test_a_single_packet_of_another_tos_octet_goes_at_once_while_the_member_has_little_to_do(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        first, second = port_of(r, 0, 2)
        r.a.send(tos_single(1, first, 0x20), tos_single(2, second, 0x40))
        r.a.demux._read_burst(r.a.tick)
        assert not r.a.demux._hand_over()
        assert r.a.rings[0].head == 2


def test_a_flow_whose_packets_have_several_tos_octets_keeps_its_order(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        busy, mixed = port_of(r, 0, 2)
        turns(r.a, *(bulk(n, busy) for n in range(MANY)))
        records = [tos_single(n, mixed, n * 37 % 5 << 5) if n % 7 else bulk(n, mixed) for n in range(60)]
        turns(r.a, *records)
        got = finish(r)
        assert tags(got, mixed) == list(range(60))
        assert tags(got, busy) == list(range(MANY))


def test_records_that_differ_in_ecn_alone_share_a_segment_where_outer_packets_do_not_tell_it() -> None:
    with rig(members=1) as r:
        port = port_of(r, 0)[0]
        r.a.send(*(tos_single(n, port, n % 4) for n in range(8)))
        r.a.demux_turn()
        assert r.a.rings[0].head == 1
        got = finish(r)
        assert tags(got, port) == list(range(8))
        assert [record[VNET_BYTES + 1] for record in got] == [0, 1, 2, 3] * 2


def test_a_record_that_fits_the_open_segment_goes_there_though_the_next_one_would_have_no_room() -> None:
    with rig(members=1) as r:
        port, other = port_of(r, 0, 2)
        for n in range(BULK_MAX - 1):
            r.a.send(single(n, other))
            r.a.demux_turn()
        turns(r.a, single(99, other), bulk(1, port))
        assert lane_of(r).open
        assert not lane_of(r).waiting, "it was laid when it came"
        lane_of(r).backlog.keep(memoryview(bytearray(bulk(2, port)[:SIZE])), 0, 7)
        lane_of(r).lay_waiting()
        assert not lane_of(r).waiting, "and so is what has waited"


# -- members and subnets ----------------------------------------------------------------------------------------------


def test_subnets_that_are_narrowed_hold_for_what_waits_and_for_what_is_parked(payload: str) -> None:
    with rig(members=2, payload=payload) as r:
        stays, leaves = port_of(r, 1)[0], port_of(r, 0)[0]
        turns(r.a, *(bulk(n, stays) for n in range(MANY)), *(bulk(n, leaves) for n in range(MANY)))
        words = r.a.shared.live
        words[MaskWord.DRAINING], words[MaskWord.OVER] = 0b01, 0b01
        r.a.demux._follow_live(r.a.tick)
        waits = len(lane_of(r, 1).backlog) + len(r.a.demux._owners.parking)
        assert len(r.a.demux._owners.parking) > 1
        narrowed = r.a.peering.model_copy(update={"local_ts": r.a.peering.local_ts[1:]})
        publish(r.a.shared.tuning, Tuning.of(narrowed))
        r.a.demux._follow_tuning()
        assert not lane_of(r, 1).waiting
        assert not len(r.a.demux._owners.parking)
        r.a.demux._hand_over()
        assert r.a.dropped(DropReason.SELECTOR_OUT) == waits
        r.a.work()
        r.a.demux._hand_over()
        r.a.work()
        r.a.check_books()


def test_what_may_still_go_waits_on_when_subnets_are_narrowed(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(bulk(n, port) for n in range(MANY)))
        publish(r.a.shared.tuning, Tuning.of(r.a.peering.model_copy(update={"local_ts": r.a.peering.local_ts[:1]})))
        r.a.demux._follow_tuning()
        assert tags(finish(r), port) == list(range(MANY))


def test_a_demux_looks_more_and_more_seldom_at_members_that_do_not_get_on() -> None:
    assert demux_module.held_wait_s(0) == demux_module.held_wait_s(50) == 0.001
    assert demux_module.held_wait_s(53) == 0.008
    assert demux_module.held_wait_s(10**9) == demux_module.IDLE_TICK_S


def test_a_member_that_says_it_has_taken_nothing_does_not_keep_the_demux_awake() -> None:
    """One that was taken over, say."""
    with rig(members=1) as r:
        port = port_of(r, 0)[0]
        turns(r.a, *(single(n, port) for n in range(9)))
        r.a.rings[0].taken = 0
        waits = []
        for _ in range(100):
            assert r.a.demux._hand_over()
            waits.append(r.a.demux._held_s())
        assert waits[0] == 0.001
        assert waits[-1] == demux_module.IDLE_TICK_S
        r.a.rings[0].taken = 1
        assert r.a.demux._held_s() == 0.001


# -- queues that stand ------------------------------------------------------------------------------------------------


class Standing:
    """A member that takes one segment in 20 ms: what waits for it stands."""

    def __init__(self, r: Rig, records: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(codel, "INTERVAL_NS", INTERVAL_NS)
        self.r = r
        self.now_ns = 1
        self.got: list[bytes] = []
        lane_of(r).backlog._clock = lambda: self.now_ns
        turns(r.a, *records)
        while lane_of(r).waiting:
            self.now_ns += 20_000_000
            r.a.members[0].outbound.work()
            r.a.demux._hand_over()
        self.got = finish(r)


def test_a_queue_that_stands_is_told_by_marks_to_who_understands_them_and_nothing_is_lost(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        records = [
            segkit.super_record(segkit.octets(n, SIZE * 40), SIZE, sequence=n << 16, port=port, tos=2)
            for n in range(MANY)
        ]
        got = Standing(r, records, monkeypatch).got
        assert tags(got, port) == list(range(MANY))
        packets = [packet for record in got for packet in segkit.segments(record)]
        marked = {tags([bytes(VNET_BYTES) + packet], port)[0] for packet in packets if packet[1] & 3 == 3}
        assert 2 < len(marked) < MANY / 2
        assert all(packet[1] & 3 in (2, 3) and segkit.ones(packet[:20]) == 0 for packet in packets)
        assert r.a.dropped(DropReason.QUEUE_STANDS) == r.a.dropped(DropReason.QUEUE_STANDS_SEGMENT) == 0
        r.a.check_books()


def test_a_queue_that_stands_is_told_by_the_loss_of_a_segment_to_who_understands_nothing_else(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        records = [bulk(n, port) for n in range(MANY)]
        got = Standing(r, records, monkeypatch).got
        cut = r.a.dropped(DropReason.QUEUE_STANDS_SEGMENT)
        assert 2 < cut < MANY / 2
        assert r.a.dropped(DropReason.QUEUE_STANDS) == 0
        assert tags(got, port) == list(range(MANY))
        sent, arrived = ([p for record in each for p in segkit.segments(record)] for each in (records, got))
        assert len(arrived) == len(sent) - cut
        assert {p[40:] for p in arrived} <= {p[40:] for p in sent}
        r.a.check_books()


def test_what_has_no_segment_to_lose_is_dropped_whole(payload: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with rig(members=1, payload=payload) as r:
        port = port_of(r, 0)[0]
        octets = segkit.octets(1, SIZE * 40)
        records = [
            segkit.super_record(octets, SIZE, sequence=n << 16, port=port, flags=ACK | segkit.FIN) for n in range(MANY)
        ]
        got = Standing(r, records, monkeypatch).got
        dropped = r.a.dropped(DropReason.QUEUE_STANDS)
        assert 2 < dropped < MANY / 2
        assert len(tags(got, port)) == MANY - dropped
        assert tags(got, port) == sorted(tags(got, port))
        r.a.check_books()


def test_a_flow_that_sends_little_is_not_told_of_the_queue_of_another(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(members=1, payload=payload) as r:
        busy, other = port_of(r, 0, 2)
        got = Standing(r, [*(bulk(n, busy) for n in range(MANY)), bulk(1, other)], monkeypatch).got
        assert tags(got, other) == [1]
        assert r.a.dropped(DropReason.QUEUE_STANDS_SEGMENT) > 0
