"""Each DropReason is raised by a test, and the books hold afterwards."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import segkit
from rig import Group, Rig, record, rig, sa_keys
from test_icmp_errors import error

from fwd.datapath import barrier
from fwd.datapath.ring import SEGMENTS
from fwd.proto.aggfrag import SUBTYPE_RECORDS
from fwd.proto.drops import DropReason
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_DUMMY, NEXT_IPV4, OVERHEAD_BYTES, OutboundSa, seal_one, write_trailer

NETNS_REASONS = {DropReason.TUN_QUEUE_FULL}  # the TUN device's own count: raised in a namespace

Scenario = Callable[[Rig], int]  # does it; how many are to be counted
SCENARIOS: dict[tuple[DropReason, str], Scenario] = {}


def raises(reason: DropReason, payload: str = "superpacket") -> Callable[[Scenario], Scenario]:
    def keep(scenario: Scenario) -> Scenario:
        SCENARIOS[reason, payload] = scenario
        return scenario

    return keep


def sealed(payload: bytes, next_header: int, number: int = 1, *, pad: bytes | None = None, esn: bool = True) -> Group:
    """An ESP packet of gateway 1's member 0, with whatever payload."""
    sa = OutboundSa(sa_keys(1, 0, 0, esn=esn), 8)
    row = bytearray(len(payload) + 8)
    row[: len(payload)] = payload
    end = write_trailer(memoryview(row), 0, len(payload), next_header)
    if pad is not None:
        row = bytearray(payload + pad + bytes([len(pad), next_header]))
        end = len(row)
    out = bytearray(end + OVERHEAD_BYTES)
    seal_one(sa, number, memoryview(row)[:end], memoryview(out), 0)
    return Group(bytes(out), len(out))


def framed(data: bytes, offset: int = 0) -> bytes:
    return bytes([SUBTYPE_RECORDS, 0]) + offset.to_bytes(2, "big") + data


def datagram(r: Rig, data: bytes) -> int:
    r.b.arrive(0, [Group(data, len(data))])
    return 1


@raises(DropReason.RECORD_MALFORMED)
def _malformed(r: Rig) -> int:
    r.a.send(
        record(1)[:-1], record(1) + b"x", bytes(10), b"\0" * 10 + b"\x60" + bytes(60), b"x", bytes(10) + b"\x25" * 50
    )
    r.a.demux_turn()
    return 6


@raises(DropReason.RECORD_MALFORMED, "esp")
def _malformed_super_packet(r: Rig) -> int:
    r.a.send(*[segkit.super_record(bytes(900), size) for size in (1, 7, 8, 47)])
    r.a.demux_turn()
    return 4


@raises(DropReason.RECORD_TOO_BIG, "esp")
def _too_big(r: Rig) -> int:
    longest = r.a.geometry.inner_mtu
    assert len(r.pass_over(record(1, longest), record(2, longest + 1))) == 1
    return 1


@raises(DropReason.SELECTOR_OUT)
def _selector_out(r: Rig) -> int:
    assert r.pass_over(record(1, back=True), record(2, back=True, v6=True)) == []
    return 2


@raises(DropReason.NO_LIVE_MEMBER)
def _no_live_member(r: Rig) -> int:
    r.a.shared.live[0] = 0
    assert r.pass_over(record(1)) == []
    return 1


@raises(DropReason.RING_FULL)
def _ring_full(r: Rig) -> int:
    for n in range(SEGMENTS + 3):
        r.a.send(record(n))
        r.a.demux_turn()
    r.a.work()
    assert r.carry()
    assert len(r.b.delivered()) == SEGMENTS
    return 3


@raises(DropReason.QUEUE_STANDS)
@raises(DropReason.QUEUE_STANDS, "esp")
def _queue_stands(r: Rig) -> int:
    return stands(r, segkit.ACK | segkit.FIN)


@raises(DropReason.QUEUE_STANDS_SEGMENT)
@raises(DropReason.QUEUE_STANDS_SEGMENT, "esp")
def _queue_stands_and_is_cut(r: Rig) -> int:
    return stands(r, segkit.ACK)


def stands(r: Rig, flags: int) -> int:
    """More super-packets than the member takes: they have waited for long, and so for an interval."""
    lane, now_ns = r.a.demux._lanes[0], 1
    lane.backlog._clock = lambda: now_ns
    for _ in range(40):
        r.a.send(segkit.super_record(bytes(40000), 1000, flags=flags))
        r.a.demux._read_burst(r.a.tick)
        r.a.demux._hand_over()
    for _ in range(2):
        now_ns += 100_000_000
        r.a.members[0].outbound.work()
        r.a.demux._hand_over()
    r.a.work()
    return 1


@raises(DropReason.DIED_WITH_MEMBER)
def _died(r: Rig) -> int:
    r.a.send(record(1), record(2))
    r.a.demux_turn()
    r.a.rings[0].taken += 1
    r.a.respawn(0)
    return 2


@raises(DropReason.FAILED_SKIPPED)
def _skipped(r: Rig) -> int:
    r.a.send(record(1), record(2), record(3, tos=4))
    r.a.demux_turn()
    r.a.respawn(0, skip=True)
    r.a.work()
    return 3


@raises(DropReason.BUCKETS_MOVED)
@raises(DropReason.BUCKETS_MOVED, "esp")
def _moved(r: Rig) -> int:
    r.a.send(record(1), record(2), record(3, tos=4))
    r.a.demux_turn()
    r.a.shared.live[0] = 0
    r.a.demux_turn()
    r.a.work()
    return 3


@raises(DropReason.BUCKETS_MOVED_IN)
def _moved_unread(r: Rig) -> int:
    r.a.send(record(1), record(2), record(3))
    r.a.demux_turn()
    r.a.work()
    r.a.members[0]._tell_moved()
    r.b.sleep()
    r.b.arrive_only(0, r.a.wires[0].sent())
    return 3


@raises(DropReason.SA_EXHAUSTED)
def _exhausted(r: Rig) -> int:
    sa = r.a.members[0].outbound.sa
    assert sa is not None
    sa.number = sa.sequence_max - 1
    assert r.pass_over(record(1, 3000)) == []  # three packets, one number: none is taken
    assert sa.number == sa.sequence_max - 1
    return 1


@raises(DropReason.SA_EXPIRED)
def _expired(r: Rig) -> int:
    r.a.members[0].outbound.end_by(1)
    r.a.members[0]._tick()
    assert r.pass_over(record(1), record(2)) == []
    return 2


@raises(DropReason.SA_EXPIRED_IN)
@raises(DropReason.SA_EXPIRED_IN, "esp")
def _expired_in(r: Rig) -> int:
    for sa in r.b.members[0].inbound.sas.values():
        sa.deadline_ms = 1
    r.b.members[0]._tick()
    assert r.pass_over(record(1)) == []
    return 1


@raises(DropReason.SEND_FAILED)
@raises(DropReason.SEND_FAILED, "esp")
def _send_failed(r: Rig) -> int:
    r.a.wires[0].errors = [errno.ENETUNREACH]
    assert r.pass_over(record(1)) == []
    assert len(r.pass_over(record(2))) == 1
    return 1


@raises(DropReason.SOCKET_OVERFLOW)
def _overflow(r: Rig) -> int:
    r.b.arrive(0, [Group(b"\xff", 1)], lost=3)
    r.b.arrive(0, [Group(b"\xff", 1)], lost=7)  # the kernel's count is a total
    return 7


@raises(DropReason.DIED_WITH_MEMBER_IN)
def _died_in(r: Rig) -> int:
    r.b.shared.members[0].link[1] += 5
    r.b.respawn(0)
    return 5


@raises(DropReason.NOT_ESP)
def _not_esp(r: Rig) -> int:
    for data in (b"", b"x", b"\xff\xff", bytes(33), bytes(34), bytes(1472)):
        datagram(r, data)
    return 6


@raises(DropReason.KEEPALIVE)
def _keepalive(r: Rig) -> int:
    r.b.arrive(0, [Group(b"\xff", 1), Group(b"\xff\xff\xff", 1)])
    return 4


@raises(DropReason.UNKNOWN_SPI)
@raises(DropReason.UNKNOWN_SPI, "esp")
def _unknown(r: Rig) -> int:
    size = r.b.geometry.packet_bytes
    r.b.arrive(0, [Group(b"\x77" * size * 5, size), Group(b"\x77" * 40, 40)])
    assert [e.kind.name for e in r.b.events(0)].count("UNKNOWN") == 1  # told rarely: it costs an attacker nothing
    r.b.expire()
    return 6


@raises(DropReason.REPLAYED)
@raises(DropReason.REPLAYED, "esp")
def _replayed(r: Rig) -> int:
    size = 9000 if r.a.peering.payload == "superpacket" else 1400
    r.a.send(*[record(n, size) for n in range(7)])
    r.a.demux_turn()
    r.a.work()
    groups = r.a.wires[0].sent()
    r.b.arrive(0, groups)
    assert len(r.b.delivered()) == 7
    r.b.arrive(0, groups)
    assert r.b.delivered() == []
    return sum(len(g.datagrams()) for g in groups)


@raises(DropReason.TOO_OLD)
def _too_old(r: Rig) -> int:
    """With ESN a number left of the window is one of the next 2^32; only those before the first are too old."""
    for low in (0, 2**32 - 500):
        data = bytearray(sealed(framed(record(1)), NEXT_AGGFRAG, 9).data)
        data[4:8] = low.to_bytes(4, "big")
        datagram(r, bytes(data))
    return 2


@raises(DropReason.BAD_ICV)
@raises(DropReason.BAD_ICV, "esp")
def _bad_icv(r: Rig) -> int:
    for at in (4, 8, 20, -1):  # sequence number, IV, ciphertext, ICV
        data = bytearray(sealed(framed(record(1)), NEXT_AGGFRAG, 9).data)
        data[at] ^= 1
        datagram(r, bytes(data))
    return 4


@raises(DropReason.BAD_PADDING)
@raises(DropReason.BAD_PADDING, "esp")
def _bad_padding(r: Rig) -> int:
    r.b.arrive(0, [sealed(framed(record(1)), NEXT_AGGFRAG, 1, pad=b"\x01\x02\x04")])
    r.b.arrive(0, [sealed(b"ab", NEXT_IPV4, 2, pad=b"")])  # good padding: not counted here
    short = bytes([200, NEXT_IPV4])
    out = bytearray(len(short) + OVERHEAD_BYTES)
    seal_one(OutboundSa(sa_keys(1, 0, 0), 8), 3, memoryview(short), memoryview(out), 0)
    return 1 + datagram(r, bytes(out))


@raises(DropReason.BAD_NEXT_HEADER)
@raises(DropReason.BAD_NEXT_HEADER, "esp")
def _bad_next_header(r: Rig) -> int:
    other = NEXT_IPV4 if r.b.peering.payload == "superpacket" else NEXT_AGGFRAG
    r.b.arrive(0, [sealed(record(1)[10:], other, 1), sealed(record(1), 6, 2)])
    return 2


@raises(DropReason.DUMMY)
@raises(DropReason.DUMMY, "esp")
def _dummy(r: Rig) -> int:
    r.b.arrive(0, [sealed(bytes(40), NEXT_DUMMY, 1)])
    return 1


@raises(DropReason.BAD_FRAMING)
def _bad_framing(r: Rig) -> int:
    bad = [
        b"",
        b"\xd0",
        b"\xd0\x00\x00",
        b"\xd0\x01\x00\x00" + record(1),
        b"\x00\x00\x00\x00" + record(1),
        b"\xd1\0\0\0abc",
    ]
    r.b.arrive(0, [sealed(payload, NEXT_AGGFRAG, n + 1) for n, payload in enumerate(bad)])
    return len(bad)


@raises(DropReason.HOLE)
def _hole(r: Rig) -> int:
    r.a.send(record(1, 4000), record(2, 4000))
    r.a.demux_turn()
    r.a.work()
    (group,) = r.a.wires[0].sent()
    packets = group.datagrams()
    r.b.arrive(0, [Group(p, len(p)) for i, p in enumerate(packets) if i != 1])
    assert r.b.delivered() == [record(2, 4000)]
    return 1


@raises(DropReason.BAD_STREAM)
def _bad_stream(r: Rig) -> int:
    half = sealed(framed(record(1)[:60]), NEXT_AGGFRAG, 1)
    r.b.arrive(0, [half, sealed(framed(record(2)), NEXT_AGGFRAG, 2), sealed(framed(record(3)), NEXT_AGGFRAG, 3)])
    assert r.b.delivered() == [record(2), record(3)]
    return 1


@raises(DropReason.BAD_RECORD)
def _bad_record(r: Rig) -> int:
    hostile = bytearray(record(1))
    hostile[1] = 1  # GSO without a size
    r.b.arrive(0, [sealed(framed(bytes(hostile) + record(2)), NEXT_AGGFRAG)])
    assert r.b.delivered() == [record(2)]
    return 1


@raises(DropReason.BAD_RECORD, "esp")
def _bad_packet(r: Rig) -> int:
    packet = record(1)[10:]
    r.b.arrive(0, [sealed(packet[:-1], NEXT_IPV4, 1), sealed(b"", NEXT_IPV4, 2), sealed(packet, 41, 3)])
    r.b.arrive(0, [sealed(packet + bytes(50), NEXT_IPV4, 4)])  # traffic-flow padding is no fault
    assert r.b.delivered() == [record(1)]
    return 3


@raises(DropReason.SELECTOR_IN)
@raises(DropReason.SELECTOR_IN, "esp")
def _selector_in(r: Rig) -> int:
    stranger = record(1, back=True)
    if r.b.peering.payload == "esp":
        r.b.arrive(0, [sealed(stranger[10:], NEXT_IPV4)])
    else:
        r.b.arrive(0, [sealed(framed(stranger), NEXT_AGGFRAG)])
    assert r.b.delivered() == []
    return 1


@raises(DropReason.ICMP_LIMIT_OUT)
@raises(DropReason.ICMP_LIMIT_OUT, "esp")
def _icmp_limit_out(r: Rig) -> int:
    r.a.demux._errors.allows = lambda now: False  # type: ignore[method-assign]
    assert r.pass_over(error(), error(v6=True)) == []
    return 2


@raises(DropReason.ICMP_LIMIT_IN)
@raises(DropReason.ICMP_LIMIT_IN, "esp")
def _icmp_limit_in(r: Rig) -> int:
    r.b.members[0].inbound._payload._delivery._errors.allows = lambda now: False  # type: ignore[attr-defined]
    assert r.pass_over(error(), error(v6=True)) == []
    return 2


@raises(DropReason.ECN_CE_LOST, "esp")
def _ce_lost(r: Rig) -> int:
    group = sealed(record(1)[10:], NEXT_IPV4)
    r.b.arrive(0, [Group(group.data, group.size, tos=3)])
    return 1


@raises(DropReason.TUN_REFUSED)
@raises(DropReason.TUN_REFUSED, "esp")
def _tun_refused(r: Rig) -> int:
    r.a.send(record(1))
    r.a.demux_turn()
    r.a.work()
    r.b.client.close()  # the write fails: EPIPE here, EINVAL or EIO from a device
    r.b.arrive_only(0, r.a.wires[0].sent())
    return 1


def fails(*parts: object) -> None:
    raise ValueError("the test's own")


@raises(DropReason.INTERNAL_ERROR)
@raises(DropReason.INTERNAL_ERROR, "esp")
def _internal_error(r: Rig) -> int:
    outbound = r.a.members[0].outbound
    barrier.reraise, outbound._transmit = False, fails  # type: ignore[assignment]
    assert r.pass_over(record(1), record(2)) == []
    barrier.reraise = True
    return 2


@raises(DropReason.INTERNAL_ERROR_IN)
@raises(DropReason.INTERNAL_ERROR_IN, "esp")
def _internal_error_in(r: Rig) -> int:
    barrier.reraise, r.b.members[0].inbound._authentic = False, fails  # type: ignore[assignment]
    r.pass_over(record(1))
    barrier.reraise = True
    return 1


@raises(DropReason.INTERNAL_ERROR_DELIVERY)
@raises(DropReason.INTERNAL_ERROR_DELIVERY, "esp")
def _internal_error_in_delivery(r: Rig) -> int:
    delivery = r.b.members[0].inbound.delivery
    barrier.reraise, delivery._direct, delivery.write = False, None, fails  # type: ignore[method-assign, assignment]
    r.pass_over(record(1))
    barrier.reraise = True
    return 1


@pytest.mark.parametrize(("reason", "payload"), SCENARIOS, ids=lambda v: getattr(v, "label", v))
def test_reason_is_counted_and_the_books_hold(reason: DropReason, payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        count = SCENARIOS[reason, payload](r)
        side = r.b if reason.stage == "inbound" else r.a
        assert side.dropped(reason) == count
        others = {x for x in DropReason if x is not reason and (r.a.dropped(x) or r.b.dropped(x))}
        assert not others - {DropReason.BAD_RECORD, DropReason.KEEPALIVE, DropReason.BAD_NEXT_HEADER, DropReason.HOLE}
        r.a.check_books()
        r.b.check_books()


def test_left_of_the_window_without_esn() -> None:
    with rig(members=1, esn=False) as r:
        new, old = (sealed(framed(record(n)), NEXT_AGGFRAG, n, esn=False) for n in (5000, 3976))
        edge = sealed(framed(record(3977)), NEXT_AGGFRAG, 3977, esn=False)
        r.b.arrive(0, [new, old, edge])
        assert r.b.delivered() == [record(5000), record(3977)]
        assert r.b.dropped(DropReason.TOO_OLD) == 1
        r.b.check_books()


def test_no_reason_is_without_a_test() -> None:
    assert {reason for reason, _ in SCENARIOS} | NETNS_REASONS == set(DropReason)
