"""What is to be done in the kernel, by what is wanted and what it has: a table."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from fwd.supervise import kernel, netlink
from fwd.supervise.guards import METRIC
from fwd.supervise.kernel import Device, Do, Has, Link, Own, Route, Wanted
from fwd.supervise.netlink import Kernel

ME, OTHER, TUN, LAN, WAN = 200, 201, 7, 2, 3
LOCAL, REMOTE, REMOTE6 = ip_network("10.1.0.0/24"), ip_network("10.2.0.0/24"), ip_network("fd00:2::/64")
DEFAULT = Route(ip_network("0.0.0.0/0"), WAN, 0, 3)
DEVICE = Device("fwd0", TUN, 1438, 1000, 64)
LISTING = "table inet fwd_far {…}"


def own(text: str, device: int = LAN) -> Own:
    interface = ip_interface(text)
    return Own(interface.ip, interface.network, device)


GATEWAY, OUTER = own("10.1.0.1/24"), own("192.0.2.1/24", WAN)
WANTED = Wanted(
    "far", "fwd_far", LISTING, ME, (LOCAL,), (REMOTE,), OUTER.address, (ip_address("192.0.2.2"),), DEVICE
)  # fmt: skip
LINK = Link(TUN, up=True, mtu_bytes=1438, queue_records=1000, segments_max=64, addr_gen_mode=1)
GUARD = Route(REMOTE, 0, METRIC, ME, refuses=True)
ROUTE = Route(REMOTE, TUN, 0, ME, GATEWAY.address)
WELL = Has({"fwd0": LINK}, (GUARD, ROUTE), {"fwd_far": LISTING}, (OUTER, GATEWAY))

# A far gateway inside the remote subnet, and how the host reaches it without fwd.
NATIVE = replace(WANTED, remotes=(ip_address("10.2.0.9"),))
BY_DEFAULT = replace(DEFAULT, via=ip_address("192.0.2.254"))
PAST = Route(ip_network("10.2.0.9/32"), WAN, 0, ME, via=BY_DEFAULT.via)
LONGER = Route(ip_network("10.2.0.8/29"), LAN, 9, 3)
BESIDE = replace(WELL, routes=(GUARD, ROUTE, PAST), others=(BY_DEFAULT,))

STEPS = [
    ("all is there", WELL, []),
    ("nothing is there", Has(), [Do.GUARD_ROUTE, Do.GUARD_TABLE, Do.DEVICE]),
    ("the guard's route is gone", replace(WELL, routes=(ROUTE,)), [Do.GUARD_ROUTE]),
    ("it is another fwd's", replace(WELL, routes=(replace(GUARD, owner=OTHER), ROUTE)), [Do.GUARD_ROUTE]),
    ("it has another metric", replace(WELL, routes=(replace(GUARD, priority=0), ROUTE)), [Do.GUARD_ROUTE]),
    ("the table is gone", replace(WELL, tables={}), [Do.GUARD_TABLE]),
    ("a rule was added", replace(WELL, tables={"fwd_far": LISTING + "accept"}), [Do.GUARD_TABLE]),
    ("routes are flushed", replace(WELL, routes=()), [Do.GUARD_ROUTE, Do.ROUTE]),
    ("the route goes elsewhere", replace(WELL, routes=(GUARD, replace(ROUTE, device=WAN))), [Do.ROUTE]),
    ("the device is deleted", replace(WELL, links={"fwd0": None}), [Do.DEVICE]),
    ("another device has its name", replace(WELL, links={"fwd0": replace(LINK, index=9)}), [Do.DEVICE]),
    ("down: its routes go with it", replace(WELL, links={"fwd0": replace(LINK, up=False)}), [Do.UP, Do.ROUTE]),
    ("another MTU", replace(WELL, links={"fwd0": replace(LINK, mtu_bytes=9000)}), [Do.MTU]),
    ("another queue", replace(WELL, links={"fwd0": replace(LINK, queue_records=5)}), [Do.QUEUE]),
    ("longer bursts", replace(WELL, links={"fwd0": replace(LINK, segments_max=65535)}), [Do.SEGMENTS]),
    ("link-local addresses", replace(WELL, links={"fwd0": replace(LINK, addr_gen_mode=0)}), [Do.GEN_MODE]),
    ("no IPv6 on it, and none is wanted", replace(WELL, links={"fwd0": replace(LINK, addr_gen_mode=None)}), []),
    ("the LAN's address has come", replace(WELL, routes=(GUARD, replace(ROUTE, source=None))), [Do.ROUTE]),
    ("the LAN's address has gone", replace(WELL, addresses=(OUTER,)), [Do.ROUTE]),
    ("another one has come beside it", replace(WELL, addresses=(own("10.1.0.9/24"), GATEWAY)), []),
    ("packets that found the queue full", replace(WELL, links={"fwd0": replace(LINK, queue_drops=9)}), []),
]  # fmt: skip


@pytest.mark.parametrize(("what", "has", "steps"), STEPS, ids=[row[0] for row in STEPS])
def test_steps(what: str, has: Has, steps: list[Do]) -> None:
    assert [step.do for step in kernel.steps(WANTED, has)] == steps


def test_a_peering_that_waits_wants_its_guards_alone() -> None:
    assert [s.do for s in kernel.steps(replace(WANTED, device=None), Has())] == [Do.GUARD_ROUTE, Do.GUARD_TABLE]


def test_ipv6_that_a_small_mtu_took_comes_back_with_the_devices_next_start() -> None:
    wanted = replace(WANTED, remote_ts=(REMOTE6,))
    link = replace(LINK, mtu_bytes=1000, addr_gen_mode=None)
    routes = (Route(REMOTE6, 0, METRIC, ME, refuses=True),)
    has = Has({"fwd0": link}, routes, {"fwd_far": LISTING}, (OUTER, GATEWAY))
    assert [s.do for s in kernel.steps(wanted, has)] == [Do.MTU, Do.IPV6, Do.ROUTE]


def test_the_source_is_an_own_address_within_local_ts_and_stays_while_it_is_one() -> None:
    other = own("10.1.0.9/24")
    assert kernel.source_for(4, [LOCAL], [OUTER, GATEWAY, other]) == GATEWAY.address
    assert kernel.source_for(4, [LOCAL], [OUTER, other, GATEWAY], GATEWAY.address) == GATEWAY.address
    assert kernel.source_for(4, [LOCAL], [OUTER, other], GATEWAY.address) == other.address
    assert kernel.source_for(6, [LOCAL], [OUTER, GATEWAY]) is None


def test_devices_are_the_same_whether_few_are_asked_for_or_many() -> None:
    """Of this host's own: `lo`, and names that nobody has."""
    asks = Kernel()
    names = ["lo", *(f"none{i}" for i in range(netlink._MANY))]
    assert asks.links(names) == {name: asks.link(name) for name in names}
    assert asks.links(["lo"]) == {"lo": asks.link("lo")}
    assert asks.link("lo")
    asks.close()


WIDE = own("10.1.0.1/16")
THERE = [
    ("another network", "10.2.0.0/24", GATEWAY, False),
    ("the LAN itself: sides are swapped", "10.1.0.0/24", GATEWAY, True),
    ("the host's own address", "10.1.0.1/32", GATEWAY, True),
    ("the part of a wide LAN with the host's address", "10.1.0.0/24", WIDE, True),
    ("another part of it", "10.1.128.0/17", WIDE, False),
    ("wider than the LAN", "10.0.0.0/8", GATEWAY, False),
    ("the other IP version", "::/0", GATEWAY, False),
]


@pytest.mark.parametrize(("what", "remote", "there", "refused"), THERE, ids=[row[0] for row in THERE])
def test_where_the_host_itself_is_nobody_else_can_be(what: str, remote: str, there: Own, refused: bool) -> None:
    assert bool(kernel.refusal([ip_network(remote)], [OUTER, there])) == refused


PASTS = [
    ("all is there", BESIDE, []),
    ("the way past the tunnel is gone", replace(BESIDE, routes=(GUARD, ROUTE)), [Do.OUTER]),
    ("all routes are gone", replace(BESIDE, routes=()), [Do.GUARD_ROUTE, Do.OUTER, Do.ROUTE]),
    ("another next hop", replace(BESIDE, others=(replace(DEFAULT, via=ip_address("192.0.2.7")),)), [Do.OUTER]),
    ("another device", replace(BESIDE, others=(replace(BY_DEFAULT, device=LAN),)), [Do.OUTER]),
    ("a longer one of the host's own", replace(BESIDE, others=(BY_DEFAULT, LONGER)), []),
    ("one as long as the tunnel's", replace(BESIDE, others=(replace(BY_DEFAULT, subnet=REMOTE),)), []),
    ("no way at all: nothing can be done", replace(BESIDE, others=(), routes=(GUARD, ROUTE)), []),
    ("a way that refuses", replace(BESIDE, others=(replace(DEFAULT, refuses=True),), routes=(GUARD, ROUTE)), []),
]  # fmt: skip


@pytest.mark.parametrize(("what", "has", "wanted"), PASTS, ids=[row[0] for row in PASTS])
def test_outer_packets_to_a_far_gateway_inside_have_a_way_past_the_tunnel(
    what: str, has: Has, wanted: list[Do]
) -> None:
    assert [step.do for step in kernel.steps(NATIVE, has)] == wanted


def test_several_next_hops_are_one_past_the_tunnel() -> None:
    several = replace(DEFAULT, device=-1, several=(LAN, WAN), via=ip_address("192.0.2.1"))
    assert kernel.beneath(NATIVE.remotes[0], NATIVE.remote_ts, [several]) == kernel.Hop(LAN, several.via)


def test_ways_past_tunnels_that_are_none_any_more_go() -> None:
    in_tunnel = replace(PAST, device=TUN)
    assert kernel.unwanted_past([NATIVE], [GUARD, ROUTE, PAST, in_tunnel]) == []
    assert kernel.unwanted_past([WANTED], [GUARD, ROUTE, PAST, in_tunnel]) == [PAST]
