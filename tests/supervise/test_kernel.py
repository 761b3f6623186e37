"""What is to be done in the kernel, by what is wanted and what it has: a table; and what is in the way of packets."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from fwd.model.reasons import Code
from fwd.supervise import kernel, netlink
from fwd.supervise.guards import METRIC
from fwd.supervise.kernel import Around, Device, Do, Has, Link, Own, Route, Wanted
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


LAN_ROUTE = Route(LOCAL, LAN, 0, 2)
WAYS = dict.fromkeys(map(ip_address, ("10.2.0.1", "10.2.0.254")), ROUTE) | {
    ip_address("192.0.2.2"): Route(ip_network("192.0.2.0/24"), WAN, 0, 2),
    ip_address("10.1.0.254"): LAN_ROUTE,
    ip_address("10.1.0.1"): LAN_ROUTE,
    kernel.NOBODYS[4]: DEFAULT,
}  # fmt: skip
TAKEN = Route(ip_network("10.2.0.128/25"), WAN, 0, 3)
WIDER = replace(DEFAULT, subnet=ip_network("10.0.0.0/8"))
FORWARDING = frozenset([(4, "net.ipv4.ip_forward")])
OBSTACLES = [
    ("nothing", WELL, {}, Around(), []),
    ("one address goes elsewhere", WELL, {"10.2.0.254": TAKEN}, Around(), [Code.ROUTE_TAKEN]),
    ("no route to the far gateway", WELL, {"192.0.2.2": None}, Around(), [Code.NO_OUTER_ROUTE]),
    ("no outer address", replace(WELL, addresses=(GATEWAY,)), {}, Around(), [Code.NO_OUTER_ADDRESS]),
    ("not forwarding", WELL, {}, Around(not_forwarding=FORWARDING), [Code.FORWARDING_OFF]),
    ("not forwarding IPv6", WELL, {}, Around(not_forwarding=frozenset([(6, "…")])), []),
    ("a filter", WELL, {}, Around(filters=["ip filter FORWARD"]), [Code.FILTER_DROPS]),
    ("the LAN's device is down", WELL, {"10.1.0.254": DEFAULT}, Around(), [Code.NO_LAN_ADDRESS]),
    ("its address is gone", replace(WELL, addresses=(OUTER,)), {"10.1.0.1": DEFAULT}, Around(), [Code.NO_LAN_ADDRESS]),
    ("the LAN is behind a router", replace(WELL, addresses=(OUTER,)), {}, Around(), []),
    ("a wider route leads outside", WELL, {"10.1.0.254": WIDER}, Around(), [Code.NO_LAN_ADDRESS]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "has", "ways", "around", "codes"), OBSTACLES, ids=[row[0] for row in OBSTACLES])
def test_obstacles(what: str, has: Has, ways: dict[str, Route | None], around: Around, codes: list[Code]) -> None:
    asked = kernel.asked(WANTED, has)
    found = WAYS | {ip_address(text): way for text, way in ways.items()}
    around = replace(around, ways={address: found[address] for address in asked})
    assert [one.code for one in kernel.obstacles(WANTED, has, around)] == codes


# Addresses of the host, ways to the LAN and to everywhere, and which devices are outside for the local subnet.
NO_LAN = (OUTER,)
OUTSIDE = [
    ("two legs", WELL.addresses, LAN_ROUTE, DEFAULT, {WAN}),
    ("the LAN has gone", NO_LAN, DEFAULT, DEFAULT, {WAN}),
    ("a wider route in its place", NO_LAN, WIDER, DEFAULT, {WAN}),
    ("the LAN is behind a router", NO_LAN, LAN_ROUTE, DEFAULT, {WAN}),
    ("no default route", WELL.addresses, LAN_ROUTE, None, {WAN}),
    ("the default route is by a third device", WELL.addresses, LAN_ROUTE, replace(DEFAULT, device=9), {WAN, 9}),
    ("the default route is by the LAN", WELL.addresses, LAN_ROUTE, replace(DEFAULT, device=LAN), {WAN}),
    ("and the LAN by a wider route", NO_LAN, replace(WIDER, device=LAN), replace(DEFAULT, device=LAN), {WAN}),
    ("several default routes", NO_LAN, LAN_ROUTE, replace(DEFAULT, device=-1, several=(WAN, 9)), {WAN, 9}),
    ("one leg, in the LAN", (OUTER, own("10.1.0.1/24", WAN)), replace(LAN_ROUTE, device=WAN), DEFAULT, set()),
    ("one leg, and a route to the LAN", NO_LAN, replace(LAN_ROUTE, device=WAN), DEFAULT, set()),
    ("one leg, and part of the LAN routed", NO_LAN, Route(ip_network("10.1.0.0/25"), WAN, 0, 3), DEFAULT, set()),
]  # fmt: skip


@pytest.mark.parametrize(("what", "addresses", "lan", "default", "devices"), OUTSIDE, ids=[row[0] for row in OUTSIDE])
def test_where_decrypted_packets_must_not_go(
    what: str, addresses: tuple[Own, ...], lan: Route, default: Route | None, devices: set[int]
) -> None:
    has = Has(addresses=addresses)
    ways = {**WAYS, ip_address("10.1.0.254"): lan, ip_address("10.1.0.1"): lan, kernel.NOBODYS[4]: default}
    found = kernel.outside(WANTED, has, ways)
    assert found == dict.fromkeys(devices, (LOCAL,))


def test_what_was_outside_stays_so_until_the_lan_is_there() -> None:
    has = Has(addresses=(GATEWAY,))
    assert kernel.outside(WANTED, has, {}, [WAN]) == {WAN: (LOCAL,)}
    assert not kernel.outside(WANTED, Has(addresses=(own("10.1.0.1/24", WAN),)), {}, [WAN])


def test_a_local_subnet_that_is_half_of_the_internet_may_be_anywhere() -> None:
    half = replace(WANTED, local_ts=(ip_network("0.0.0.0/1"),))
    assert not kernel.outside(half, WELL, {kernel.NOBODYS[4]: DEFAULT})


def test_devices_are_the_same_whether_few_are_asked_for_or_many() -> None:
    """Of this host's own: `lo`, and names that nobody has."""
    asks = Kernel()
    names = ["lo", *(f"none{i}" for i in range(netlink._MANY))]
    assert asks.links(names) == {name: asks.link(name) for name in names}
    assert asks.links(["lo"]) == {"lo": asks.link("lo")}
    assert asks.link("lo")
    asks.close()


def test_a_gateway_that_speaks_for_itself_alone_need_not_forward() -> None:
    alone = replace(WANTED, local_ts=(ip_network("10.1.0.1/32"),))
    around = Around(WAYS, FORWARDING, ["ip filter FORWARD"])
    assert not kernel.obstacles(alone, WELL, around)


def test_what_others_set_within_a_remote_subnet_is_asked_for_while_it_takes_something() -> None:
    host = ip_network("10.2.0.77/32")
    suspects = {host, ip_network("10.9.0.0/16"), ip_network("0.0.0.0/0")}
    asked = kernel.asked(WANTED, WELL, suspects)
    assert host[0] in asked
    assert ip_address("10.9.0.1") not in asked
    assert kernel.taking(suspects, {host[0]: Route(host, WAN, 0, 3)}, [TUN]) == {host}
    assert not kernel.taking(suspects, {host[0]: ROUTE}, [TUN])
