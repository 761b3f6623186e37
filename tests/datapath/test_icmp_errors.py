"""ICMP errors of routers outside the selectors, through demux, member and far member: which pass, and how many."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from rig import Gateway, Rig, packet, record, rig, sa_keys
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from fwd.datapath import delivery, demux
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.proto.drops import DropReason
from fwd.proto.icmp import ERRORS_PER_S
from fwd.proto.ip import NO_VNET
from fwd.proto.sa import Narrowed, SaSet

PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])
VERSIONS = pytest.mark.parametrize("v6", [False, True], ids=["v4", "v6"])


def error(identity: int = 1, *, v6: bool = False, back: bool = True, source: str = "") -> bytes:
    """A record of an error from a router near gateway 1 to gateway 2's client, about a packet of that client's.

    Not `back`: about one of gateway 1's client, which does not concern the other.
    """
    quote = Raw(packet(identity, 200, v6=v6, back=back))
    if v6:
        return NO_VNET + bytes(IPv6(src=source or "2001:db8::9", dst="fd02::9") / ICMPv6PacketTooBig() / quote)
    return NO_VNET + bytes(IP(src=source or "172.16.9.2", dst="10.2.0.9") / ICMP(type=3, code=4) / quote)


def many(count: int) -> list[bytes]:
    """As many errors, each of another router."""
    one = error()
    return [one[:22] + ip_address("172.16.0.0").packed[:2] + n.to_bytes(2, "big") + one[26:] for n in range(count)]


@pytest.fixture
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes."""
    for module in (demux, delivery):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 5.0))


def let_through(gateway: Gateway) -> None:
    """Its demux hands on whatever its client sends: it plays a peer that is no fwd, or a hostile one."""
    gateway.demux._errors.belongs = lambda *_: True  # type: ignore[method-assign]
    gateway.demux._errors.allows = lambda now: True  # type: ignore[method-assign]


def taken(r: Rig) -> tuple[int, int]:
    """Errors that were taken on the way out, and on the way in."""
    return r.a._demux()[DemuxCounter.ICMP_ERRORS], r.b.counted(MemberCounter.IN_ICMP_ERRORS)


@PAYLOADS
@VERSIONS
def test_an_error_about_a_packet_of_the_peering_comes_as_it_was_sent(payload: str, v6: bool) -> None:
    with rig(members=1, payload=payload) as r:
        sent = [error(n, v6=v6) for n in range(3)]
        assert r.pass_over(*sent) == sent
        assert taken(r) == (3, 3)
        r.a.check_books()
        r.b.check_books()


@PAYLOADS
@VERSIONS
def test_others_are_refused_on_the_way_out_and_on_the_way_in(payload: str, v6: bool) -> None:
    ours = "fd02::77" if v6 else "10.2.0.77"
    lies = [error(v6=v6, back=False), error(v6=v6, source=ours)]
    with rig(members=1, payload=payload) as r:
        assert r.pass_over(*lies) == []
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 2
        let_through(r.a)
        assert r.pass_over(*lies) == []
        assert r.b.dropped(DropReason.SELECTOR_IN) == 2
        assert taken(r)[1] == 0
        r.a.check_books()
        r.b.check_books()


@PAYLOADS
def test_among_other_records_they_keep_their_place(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        sent = [record(1), error(), record(2, 1400), error(2, v6=True), error(3), record(3)]
        assert r.pass_over(*sent) == sent


@PAYLOADS
@pytest.mark.usefixtures("_still")
def test_a_hundred_a_second_go_out_and_the_rest_is_counted(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        assert len(r.pass_over(*many(ERRORS_PER_S + 20))) == ERRORS_PER_S
        assert r.a.dropped(DropReason.ICMP_LIMIT_OUT) == 20
        assert taken(r) == (ERRORS_PER_S, ERRORS_PER_S)
        r.a.check_books()


@PAYLOADS
@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.usefixtures("_still")
def test_a_hundred_a_second_of_all_members_come_in(payload: str, members: int) -> None:
    """Whatever the far side sends: each member takes its share."""
    with rig(members=members, payload=payload) as r:
        let_through(r.a)
        sent = many(5 * ERRORS_PER_S)
        got = [len(r.pass_over(*sent[at : at + 100])) for at in range(0, len(sent), 100)]
        assert sum(got) == ERRORS_PER_S
        assert r.b.dropped(DropReason.ICMP_LIMIT_IN) == len(sent) - ERRORS_PER_S
        r.b.check_books()


CARRIES, LEAVES_OUT = "10.1.0.9", "10.1.0.10"


@PAYLOADS
@pytest.mark.parametrize("host", [CARRIES, LEAVES_OUT])
def test_an_sa_that_is_narrower_carries_errors_about_its_own_packets(payload: str, host: str) -> None:
    """Held to it on the way out first, then on the way in."""

    def held(*addresses: str) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((ip_address(one).packed, ip_address(one).packed) for one in addresses)

    keys = sa_keys(1, 0, 20)
    out, back = (replace(keys, narrowed=Narrowed(*sides)) for sides in (
        (held(host), held("10.2.0.9")), (held("10.2.0.9"), held(host))
    ))  # fmt: skip
    passes = [error()] if host == CARRIES else []
    with rig(members=1, payload=payload) as r:
        r.b.members[0]._install(SaSet(1, (keys,)))
        r.a.members[0]._install(SaSet(1, (), out))
        assert r.pass_over(error()) == passes
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 1 - len(passes)
        r.a.check_books()
    with rig(members=1, payload=payload) as r:
        r.b.members[0]._install(SaSet(1, (back,)))
        r.a.members[0]._install(SaSet(1, (), keys))
        assert r.pass_over(error()) == passes
        assert r.b.dropped(DropReason.SELECTOR_IN) == 1 - len(passes)
        r.b.check_books()
