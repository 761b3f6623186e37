"""A member whose far member misses packets tells of super-packets' headers twice, for as long as that goes on.

What came whole of a super-packet does not wait for what is missing when nothing follows.
"""

from __future__ import annotations

import segkit
from rig import Gateway, Group, Rig, packet, rig

from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason
from fwd.proto.ip import VNET_BYTES

SEGMENT, COUNT = 1400, 20


def super_packet(tag: int) -> bytes:
    """As the first gateway's client sends it."""
    data = bytearray(segkit.super_record(segkit.octets(tag, SEGMENT * COUNT), SEGMENT, sequence=tag << 20))
    data[VNET_BYTES + 12 : VNET_BYTES + 20] = packet(0)[12:20]
    return bytes(data)


def sent(r: Rig, *records: bytes) -> list[bytes]:
    """The datagrams that the first gateway sends for these records."""
    r.a.send(*records)
    r.a.demux_turn()
    r.a.work()
    return [datagram for group in r.a.wires[0].sent() for datagram in group.datagrams()]


def arrive(gateway: Gateway, datagrams: list[bytes]) -> None:
    """All of them in one batch."""
    gateway.arrive_only(0, [])
    gateway.wires[0].inbox += [(Group(one, len(one)), 0) for one in datagrams]
    while gateway.wires[0].inbox:
        gateway.members[0]._receive()


def look(r: Rig, now: float) -> None:
    """Both members look after their path, and hear what the other says."""
    r.a.members[0]._now = r.b.members[0]._now = now
    for gateway in (r.b, r.a):
        gateway.members[0].echoes.look(now)
        r.carry()


def test_headers_are_told_twice_while_the_far_member_misses_packets() -> None:
    with rig(members=1) as r:
        now = r.a.members[0]._now + 1
        plain = sent(r, super_packet(1))
        arrive(r.b, plain)
        look(r, now)
        datagrams = sent(r, super_packet(2))
        assert len(datagrams) == len(plain), "nothing is missing yet"

        # A packet gets lost, and the far member says so at its next look.
        arrive(r.b, datagrams[:4] + datagrams[5:])
        r.b.delivered()
        assert r.b.dropped(DropReason.HOLE) > 0
        look(r, now + 0.2)
        datagrams = sent(r, super_packet(4))
        assert len(datagrams) == len(plain) + 1

        # Then the packet with the headers: the segments in others come all the same.
        arrive(r.b, [datagrams[0], *datagrams[2:]])
        [found] = r.b.delivered()
        got = segkit.segments(found)
        assert len(got) >= COUNT - 3
        assert [one[40:] for one in got] == [one[40:] for one in segkit.segments(super_packet(4))[-len(got) :]]
        r.a.check_books()
        r.b.check_books()

        # It goes on for as long as it is told that packets are missing.
        look(r, now + 0.4)
        look(r, now + 2.3)
        datagrams = sent(r, super_packet(5))
        assert len(datagrams) == len(plain) + 1
        arrive(r.b, datagrams)
        look(r, now + 2.5)
        assert len(sent(r, super_packet(6))) == len(plain)


def test_one_missing_packet_in_hundreds_is_not_told() -> None:
    with rig(members=1) as r:
        now = r.a.members[0]._now + 1
        arrive(r.b, sent(r, super_packet(0)))
        look(r, now)
        datagrams = [one for tag in range(1, 21) for one in sent(r, super_packet(tag))]
        arrive(r.b, datagrams[:30] + datagrams[31:])
        assert r.b.dropped(DropReason.HOLE) == 1
        look(r, now + 0.2)
        assert not r.a.members[0].outbound.tells_heads


def test_a_record_that_fits_a_packet_is_told_of_once() -> None:
    with rig(members=1) as r:
        r.a.members[0].outbound.tells_heads = True
        assert len(sent(r, bytes(VNET_BYTES) + packet(1))) == 1


def test_what_is_told_twice_takes_numbers_of_its_own() -> None:
    with rig(members=1) as r:
        r.a.members[0].outbound.tells_heads = True
        for tag in range(3):
            r.b.arrive(0, [Group(one, len(one)) for one in sent(r, super_packet(tag), super_packet(tag + 10))])
        assert len(r.b.delivered()) == 6
        assert r.b.dropped(DropReason.REPLAYED) == r.b.dropped(DropReason.BAD_ICV) == r.b.dropped(DropReason.HOLE) == 0
        assert r.b.counted(MemberCounter.IN_ESP_OK) == r.a.counted(MemberCounter.OUT_ESP)
        r.a.check_books()
        r.b.check_books()


def test_a_lost_last_packet_keeps_nothing_that_came_whole() -> None:
    with rig(members=1) as r:
        datagrams = sent(r, super_packet(1))
        assert r.b.members[0].inbound.patience_s == float("inf")
        arrive(r.b, datagrams[:-1])
        assert r.b.delivered() == []
        assert r.b.members[0].inbound.patience_s == 0.002
        r.b.members[0].inbound.expire(r.b.members[0]._now)
        [found] = r.b.delivered()
        got = segkit.segments(found)
        assert COUNT - 3 <= len(got) < COUNT
        assert r.b.members[0].inbound.patience_s == float("inf"), "once is enough"

        # It may only have been late.
        arrive(r.b, datagrams[-1:])
        [rest] = r.b.delivered()
        assert [one[40:] for one in got + segkit.segments(rest)] == [
            one[40:] for one in segkit.segments(super_packet(1))
        ]
        r.b.check_books()


def test_a_hole_is_given_up_in_time_without_a_further_packet() -> None:
    with rig(members=1) as r:
        member, datagrams = r.b.members[0], sent(r, super_packet(1))
        arrive(r.b, datagrams[:-2] + datagrams[-1:])
        assert r.b.delivered() == []
        assert member.inbound.patience_s == 0.002
        member.inbound.expire(member._now + 0.003)
        assert r.b.delivered()
        assert member.inbound.patience_s == float("inf")
