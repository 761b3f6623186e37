"""NAT keepalives of a member: when they are due, and what is made of those that come (RFC 3948 §2.3, §4)."""

from __future__ import annotations

from typing import Any

from rig import Group, rig

from fwd.datapath.counters import MemberCounter
from fwd.datapath.udp import KEEPALIVE_S
from fwd.proto.drops import DropReason


def test_one_octet_is_sent_when_nothing_else_was() -> None:
    with rig(members=1) as r:
        member, sent = r.a.members[0], []
        wire: Any = r.a.wires[0]
        wire.sendto = lambda data, peer: sent.append((data, peer))

        def later(seconds: float) -> int:
            member._now += seconds
            member._tick()
            return len(sent)

        assert later(3 * KEEPALIVE_S) == 0, "no NAT"
        r.a.shared.members[0].keepalive[0] = 1
        assert later(KEEPALIVE_S) == 1
        assert later(KEEPALIVE_S - 1) == 1
        assert later(1) == 2
        assert sent == [(b"\xff", member.outbound.peer)] * 2
        member.outbound.send_control(bytes(8), 59)
        assert later(KEEPALIVE_S - 1) == 2
        assert later(KEEPALIVE_S - 1) == 2
        assert later(1) == 3


def test_one_that_comes_shows_nothing() -> None:
    """It is counted, and neither taken for the peer's ESP nor for a sign of its address."""
    with rig(members=1) as r:
        member = r.a.members[0]
        before = member.outbound.peer
        r.a.wires[0].address = ("203.0.113.5", 6000)
        r.a.arrive(0, [Group(b"\xff", 1)])
        counters = r.a.shared.members[0].counters.read()
        assert counters[DropReason.KEEPALIVE] == 1
        assert counters[MemberCounter.IN_ESP_OK] == 0
        assert member.outbound.peer == before
