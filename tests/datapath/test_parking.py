"""Busy buckets change hands in order; and a demux learns of rings while it runs."""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections.abc import Iterator

import pytest
from rig import Rig, identity_of, packet, record, rig

from fwd.datapath import channel, parking
from fwd.datapath.channel import ChannelError, Notice
from fwd.datapath.counters import DemuxCounter
from fwd.datapath.memory import Memory
from fwd.datapath.parking import SPACING_NS, WAIT_MAX_NS, has_sent, may_go_on
from fwd.datapath.ring import sizes as ring_sizes
from fwd.datapath.shared import REST_MAX_S, MaskWord, member_sizes
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, PARKED, flow_hash, owners, receivers, rendezvous_scores, scores_of
from fwd.supervise.sockets import seqpacket_pair

BOTH, ZERO = 0b11, 0b01


@pytest.fixture(params=["superpacket", "esp"])
def payload(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def port_of(member: int, members: int = 2) -> int:
    """A UDP port whose flow is this member's."""
    target = owners(rendezvous_scores(members), (1 << members) - 1)
    hashes = ((p, flow_hash(memoryview(packet(0, port=p))) & BUCKET_MASK) for p in range(1024, 65536))
    return next(port for port, bucket in hashes if target[bucket] == member)


def tell(r: Rig, live: int = BOTH, draining: int = 0, over: int = 0) -> None:
    words = r.a.shared.live
    words[MaskWord.DRAINING], words[MaskWord.OVER], words[MaskWord.LIVE] = draining, over, live


def send(r: Rig, *identities: int) -> None:
    for one in identities:
        r.a.send(record(one, 300, port=port_of(0)))
    r.a.demux_turn()


def sent_by(r: Rig, member: int) -> list[int]:
    """What a member sends now, as the far side delivers it."""
    while r.a.members[member].outbound.work():
        pass
    r.b.arrive(member, r.a.wires[member].sent())
    return [identity_of(d) for d in r.b.delivered()]


def pass_time(monkeypatch: pytest.MonkeyPatch, ns: int) -> None:
    real = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real() + ns)


def test_a_draining_member_keeps_what_is_busy_and_loses_what_is_idle(payload: str) -> None:
    with rig(payload=payload) as r:
        send(r, 1)
        tell(r, draining=ZERO)
        send(r, 2)
        assert sent_by(r, 0) == [1, 2]
        r.a.tick += 1000  # 10 s
        send(r, 3)
        assert sent_by(r, 0) == []
        assert sent_by(r, 1) == [3]
        assert not (r.a.shared.owners == 0).any()


def test_if_all_drain_they_keep_what_they_have(payload: str) -> None:
    with rig(payload=payload) as r:
        tell(r, draining=BOTH, over=BOTH)
        r.a.tick += 1000
        send(r, 1)
        assert sent_by(r, 0) == [1]


def test_busy_buckets_wait_until_their_member_has_sent_what_it_held(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig(payload=payload) as r:
        send(r, 1)
        tell(r, draining=ZERO, over=ZERO)
        send(r, 2, 3)
        assert (r.a.shared.owners == PARKED).any()
        pass_time(monkeypatch, SPACING_NS * 2)
        send(r, 4)
        assert sent_by(r, 1) == [], "member 0 has not sent its own yet"
        assert sent_by(r, 0) == [1]
        r.a.demux_turn()
        assert sent_by(r, 1) == [], "it has only just"
        pass_time(monkeypatch, SPACING_NS * 2)
        send(r, 5)
        assert sent_by(r, 1) == [2, 3, 4, 5]
        assert not (r.a.shared.owners == PARKED).any()
        r.a.check_books()


def test_a_member_that_sends_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig() as r:
        send(r, 1)
        tell(r, draining=ZERO, over=ZERO)
        send(r, 2)
        pass_time(monkeypatch, WAIT_MAX_NS)
        send(r, 3)
        assert sent_by(r, 1) == [2, 3]


def test_what_waits_is_bounded_and_then_the_device_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "_RECORDS_MAX", 2)
    with rig() as r:
        send(r, 1)
        tell(r, draining=ZERO, over=ZERO)
        send(r, 2, 3)
        send(r, 4)
        assert sent_by(r, 0) == [1]
        r.a.demux_turn()
        pass_time(monkeypatch, SPACING_NS * 2)
        r.a.demux_turn()
        assert sent_by(r, 1) == [2, 3, 4]
        r.a.check_books()


def test_a_successor_does_not_wait_for_what_went_with_its_predecessor() -> None:
    with rig() as r:
        send(r, 1)
        tell(r, draining=ZERO, over=ZERO)
        send(r, 2)
        r.a.spawn_demux()
        send(r, 3)
        assert sent_by(r, 1) == [3]


def test_if_the_member_dies_meanwhile_what_waits_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with rig() as r:
        send(r, 1)
        tell(r, draining=ZERO, over=ZERO)
        send(r, 2)
        tell(r, live=0b10)
        send(r, 3)
        pass_time(monkeypatch, WAIT_MAX_NS)
        send(r, 4)
        assert sent_by(r, 1) == [2, 3, 4]


@pytest.mark.parametrize(
    ("done", "head", "wanted", "sent"), [(5, 5, 5, True), (4, 5, 5, False), (6, 7, 5, True), (9, 7, 5, False)]
)
def test_a_member_has_sent_what_it_says_if_that_can_be(done: int, head: int, wanted: int, sent: bool) -> None:
    assert has_sent(done, head, wanted) == sent


def test_records_go_on_a_while_after_the_last_one_was_sent() -> None:
    assert not may_go_on(1, 0, 1 + SPACING_NS)
    assert not may_go_on(1, 10, 9 + SPACING_NS)
    assert may_go_on(1, 10, 10 + SPACING_NS)
    assert may_go_on(1, 0, 1 + WAIT_MAX_NS)


@pytest.mark.parametrize(
    ("live", "draining", "get"), [(0b111, 0, 0b111), (0b111, 0b100, 0b011), (0b100, 0b100, 0b100), (0, 0b1, 0)]
)
def test_who_gets_buckets(live: int, draining: int, get: int) -> None:
    assert receivers(live, draining) == get


# -- rings ------------------------------------------------------------------------------------------------------------


class Told:
    """A demux that is told of rings, as the supervisor does it."""

    def __init__(self, r: Rig, undo: contextlib.ExitStack) -> None:
        self.r = r
        self.near, self.far = seqpacket_pair()
        undo.callback(self.near.close)
        undo.callback(self.far.close)
        r.a.demux._owners.channel = self.far
        self._undo = undo
        self.number = 0

    def tell(self, notice: Notice) -> None:
        self.number += 1
        assert channel.send(self.near, notice, self.number)
        self.r.a.shared.live[MaskWord.RINGS] += 1
        self.r.a.demux_turn()

    def ring(self, index: int) -> Memory:
        geometry = self.r.a.geometry
        told, rows = ring_sizes(geometry.stride, geometry.rows)
        memory = Memory({**member_sizes(index), f"demux-{index}": told, f"rows-{index}": rows}, "p")
        bell = os.eventfd(0)
        with memory.opened("demux", sizes := memory.sizes("demux")) as fds:
            self.tell(Notice("ring", "p", {"index": index}, {"bell": bell, **fds}, sizes))
        os.close(bell)
        self._undo.callback(memory.close)
        return memory

    @property
    def lanes(self) -> int:
        return len(self.r.a.demux._lanes)


@pytest.fixture
def told() -> Iterator[Told]:
    with contextlib.ExitStack() as undo:
        yield Told(undo.enter_context(rig()), undo)


def test_a_ring_that_comes_gets_idle_buckets_and_no_busy_one(told: Told) -> None:
    r = told.r
    busy = port_of(2, members=3)
    r.a.send(record(1, 300, port=busy))
    r.a.demux_turn()
    told.ring(2)
    assert told.lanes == 3
    tell(r, live=0b111)
    r.a.send(record(2, 300, port=busy))
    r.a.demux_turn()
    assert r.a.demux._lanes[2].ring.head == 0, "its flow is busy elsewhere"
    assert (r.a.shared.owners == 2).any()
    r.a.tick += 1000
    r.a.send(record(3, 300, port=busy))
    r.a.demux_turn()
    assert r.a.demux._lanes[2].ring.head == 1


def test_a_demux_does_not_rest_while_it_is_told_of_rings(told: Told) -> None:
    demux = told.r.a.demux
    for _ in range(10):
        demux._idle_s()
    assert demux._idle_s() == REST_MAX_S
    told.r.a.shared.live[MaskWord.RINGS] += 1
    assert demux._idle_s() == 0.0, "one is heard of in a turn, and the bell has been read"
    told.r.a.demux_turn()
    assert demux._idle_s() > 0.0


def test_a_ring_of_which_nothing_is_known_gets_nothing(told: Told) -> None:
    tell(told.r, live=0b111)
    told.r.a.demux_turn()
    assert not (told.r.a.shared.owners >= 2).any()


def test_a_ring_that_goes_is_unmapped_and_what_waited_in_it_is_counted(told: Told) -> None:
    gc.collect()  # what other tests have left mapped
    r = told.r
    memory = told.ring(2)
    tell(r, live=0b111)
    r.a.tick += 1000
    r.a.demux_turn()
    r.a.send(*[record(n, 300, port=port_of(2, members=3)) for n in range(3)])
    r.a.demux_turn()
    tell(r, live=BOTH)
    told.tell(Notice("unring", "p", {"index": 2}))
    assert told.lanes == 2
    assert r.a.shared.demux_counters.read()[DropReason.NO_LIVE_MEMBER] == 3
    assert not (r.a.shared.owners >= 2).any()
    memory.close()
    with open("/proc/self/maps", encoding="ascii") as file:
        assert not any("fwd/p/" in line for line in file)


def test_a_ring_of_the_same_number_begins_anew(told: Told) -> None:
    r = told.r
    for _ in range(2):
        told.ring(2)
        tell(r, live=0b111)
        r.a.tick += 1000
        r.a.demux_turn()
        r.a.send(record(1, 300, port=port_of(2, members=3)))
        r.a.demux_turn()
        assert r.a.demux._lanes[2].ring.head == 1
        tell(r, live=BOTH)
        told.tell(Notice("unring", "p", {"index": 2}))


def test_a_head_that_was_counted_for_another_ring_is_not_believed() -> None:
    with rig() as r:
        counters = r.a.shared.demux_counters
        counters.attach()[DemuxCounter.HEADS + 1] = 1
        counters.publish()
        r.a.spawn_demux()
        assert r.a.demux._lanes[1].head == r.a.rings[1].head == 0


@pytest.mark.parametrize(("act", "index"), [("ring", 5), ("unring", 0), ("unring", 7), ("other", 2)])
def test_what_cannot_be_is_refused(told: Told, act: str, index: int) -> None:
    assert channel.send(told.near, Notice(act, "p", {"index": index}), 1)
    with pytest.raises(ChannelError):
        told.r.a.demux._owners.hear_of_a_ring()
    assert channel.answered(told.near, 0) == (1, [1])
    assert told.lanes == 2


def test_peerings_of_as_many_members_share_their_scores_and_nobody_writes_to_them() -> None:
    scores = rendezvous_scores(3)
    assert rendezvous_scores(3) is scores
    with pytest.raises(ValueError, match="read-only"):
        scores[0, 0] = 1


def test_the_scores_of_a_member_are_those_that_all_have() -> None:
    assert (rendezvous_scores(3)[:, 2] == scores_of(2)).all()
