"""Super-packets through two gateways: payload esp splits and joins them, payload superpacket joins small datagrams."""

from __future__ import annotations

import pytest
import segkit
from killing import dies_at, every_point
from rig import Gateway, Rig, headers, rig
from segkit import ACK, PSH

from fwd.datapath.counters import MemberCounter
from fwd.datapath.ring import RECORDS
from fwd.proto.drops import DropReason

# Every line of a step is a point to try: minutes on a machine that is busy with other things.
pytestmark = pytest.mark.timeout(900)

INBOUND = ("fwd/datapath/inbound.py", "fwd/datapath/delivery.py", "fwd/proto/segments.py")
OUTBOUND = ("fwd/datapath/outbound.py", "fwd/proto/segments.py")


def stream(tag: int, size: int, count: int, *, v6: bool = False, port: int = 40000, short: int = 0) -> bytes:
    """A record of a TCP stream; `tag` tells its place."""
    return segkit.super_record(
        segkit.octets(tag, size * count - short), size, v6=v6, sequence=tag << 16, port=port, flags=ACK | PSH
    )


def packets(records: list[bytes]) -> list[bytes]:
    return [packet for data in records for packet in segkit.segments(data)]


def wire_packets(r: Rig) -> int:
    return r.a.counted(MemberCounter.OUT_ESP)


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize(("size", "count", "short"), [(1300, 40, 0), (1300, 2, 1299), (100, 100, 50), (48, 120, 0)])
def test_esp_carries_a_super_packet_as_the_packets_it_stands_for(v6: bool, size: int, count: int, short: int) -> None:
    with rig(members=1, payload="esp") as r:
        sent = [stream(n, size, count, v6=v6, short=short) for n in range(3)]
        got = r.pass_over(*sent)
        assert packets(got) == packets(sent)
        assert wire_packets(r) == 3 * count
        r.a.check_books()
        r.b.check_books()
        assert r.a.records_in() == r.a.counted(MemberCounter.OUT_RECORDS) == 3
        assert r.b.counted(MemberCounter.IN_RECORDS_OK) == 3 * count


def test_one_write_stands_for_many_packets_of_full_size() -> None:
    with rig(members=1, payload="esp") as r:
        sent = [stream(n, r.a.geometry.inner_mtu - 40, 40) for n in range(3)]
        got = r.pass_over(*sent)
        assert packets(got) == packets(sent)
        assert len(got) <= 6
        assert r.b.counted(MemberCounter.IN_BYTES) == sum(map(len, packets(sent)))
        r.b.check_books()


def test_esp_carries_mixed_traffic_and_every_flow_keeps_its_order() -> None:
    with rig(members=2, payload="esp") as r:
        for turn in range(20):
            sent = []
            for n in range(12):
                tag, port = turn * 12 + n, 40000 + n % 5
                if n % 3:
                    sent.append(stream(tag, 1000 + n, 1 + n, port=port, short=n % 4))
                else:
                    sent.append(bytes(10) + segkit.tcp_packet(b"", sequence=tag, port=port))
            got = r.pass_over(*sent)
            for port in range(40000, 40005):
                assert [p for p in packets(got) if p[20:22] == port.to_bytes(2, "big")] == [
                    p for p in packets(sent) if p[20:22] == port.to_bytes(2, "big")
                ]
        r.a.check_books()
        r.b.check_books()
        nonces = headers(r.carry())
        assert len(nonces) == len(set(nonces))


def test_a_super_packet_whose_packets_do_not_fit_is_refused_whole() -> None:
    with rig(members=1, payload="esp") as r:
        longest = r.a.geometry.inner_mtu - 40
        assert len(packets(r.pass_over(stream(1, longest, 5), stream(2, longest + 1, 5)))) == 5
        assert r.a.dropped(DropReason.RECORD_TOO_BIG) == 1
        r.a.check_books()


def test_a_super_packet_of_more_packets_than_a_mark_can_tell_is_refused_whole() -> None:
    with rig(members=1, payload="esp") as r:
        assert len(packets(r.pass_over(stream(1, 50, 127)))) == 127
        assert r.pass_over(stream(2, 50, 128)) == []
        assert r.pass_over(stream(3, 48, 27)) != []
        assert r.a.dropped(DropReason.RECORD_TOO_BIG) == 1
        r.a.check_books()


def test_congestion_marks_of_the_path_reach_every_packet_of_a_run() -> None:
    """RFC 6040: what the path marked is not lost by joining."""
    with rig(members=1, payload="esp") as r:
        r.a.send(segkit.super_record(segkit.octets(1, 5000), 1000, tos=2))
        r.a.demux_turn()
        r.a.work()
        groups = r.a.wires[0].sent()
        assert {group.tos for group in groups} == {2}
        r.b.arrive(0, [type(group)(group.data, group.size, 3) for group in groups])
        got = packets(r.b.delivered())
        assert len(got) == 5
        assert all(packet[1] == 3 for packet in got)


def test_small_datagrams_of_one_flow_share_a_write() -> None:
    with rig(members=1) as r:
        sent = [bytes(10) + segkit.udp_packet(bytes([n]) * 64) for n in range(50)]
        got = r.pass_over(*sent)
        assert len(got) < 10
        assert [p[28:] for p in packets(got)] == [s[38:] for s in sent]
        assert r.b.counted(MemberCounter.IN_RECORDS_OK) == 50
        assert r.b.counted(MemberCounter.IN_BYTES) == sum(len(s) - 10 for s in sent)
        r.b.check_books()


def test_datagrams_keep_their_order_beside_others_of_their_flow() -> None:
    """A longer one of the same flow goes after those that wait for company, and before those that come later."""
    with rig(members=1) as r:
        sizes = [64, 64, 900, 64, 65, 65, 64, 1300, 3, 64]
        sent = [bytes(10) + segkit.udp_packet(bytes([n]) * size, port=5000) for n, size in enumerate(sizes)]
        assert [p[28:] for p in packets(r.pass_over(*sent))] == [s[38:] for s in sent]
        r.b.check_books()


def _filled(gateway: Gateway, sent: list[bytes]) -> None:
    gateway.send(*sent)
    gateway.demux_turn()
    assert gateway.rings[0].segment(0).fields[RECORDS] == len(sent)


def test_member_killed_while_it_splits(every_time: bool) -> None:
    """The segment that it held is lost, counted by its records; no packet goes out twice or by halves."""

    def check(nth: int) -> bool:
        with rig(members=1, payload="esp") as r:
            sent = [stream(1, 700, 5), bytes(10) + segkit.tcp_packet(b"x", sequence=9, port=5)]
            _filled(r.a, sent)

            def live() -> None:
                r.a.respawn(0)
                r.a.work()

            died = dies_at(nth, live, *OUTBOUND)
            r.a.respawn(0)
            r.a.work()
            nonces = headers(groups := r.a.wires[0].sent())
            assert len(nonces) == len(set(nonces))
            r.b.arrive(0, groups)
            got = packets(r.b.delivered())
            assert set(got) <= set(packets(sent))
            assert len(got) == len(set(got))
            lost = r.a.dropped(DropReason.DIED_WITH_MEMBER)
            assert lost in (0, 2)
            assert died or got == packets(sent)
            assert len(got) == 6 or lost == 2
            r.a.check_books()
            r.b.check_books()
            return died

    assert every_point(check, every_time=every_time) > 50


def test_member_killed_while_it_joins(every_time: bool) -> None:
    def check(nth: int) -> bool:
        with rig(members=1, payload="esp") as r:
            sent = [stream(1, 700, 5)]
            _filled(r.a, sent)
            r.a.work()
            groups = r.a.wires[0].sent()

            def live() -> None:
                r.b.respawn(0)
                r.b.arrive_only(0, groups)

            died = dies_at(nth, live, *INBOUND)
            first = packets(r.b.delivered())
            r.b.wires[0].inbox.clear()
            r.b.respawn(0)
            r.b.arrive(0, groups)
            got = first + packets(r.b.delivered())
            assert len(got) == len(set(got)), "accepted twice"
            assert set(got) <= set(packets(sent))
            assert died or got == packets(sent)
            r.b.check_books()
            return died

    assert every_point(check, every_time=every_time) > 50
