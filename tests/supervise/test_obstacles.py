"""What is in the way of packets, and is not fwd's: tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from test_kernel import DEFAULT, GATEWAY, GUARD, LAN, LOCAL, OUTER, REMOTE, ROUTE, TUN, WAN, WANTED, WELL, own

from fwd.model.reasons import Code
from fwd.supervise import obstacles
from fwd.supervise.kernel import Has, Own, Route
from fwd.supervise.obstacles import Around, Forwarded

LAN_ROUTE = Route(LOCAL, LAN, 0, 2)
WAYS = dict.fromkeys(map(ip_address, ("10.2.0.1", "10.2.0.254")), ROUTE) | {
    ip_address("192.0.2.2"): Route(ip_network("192.0.2.0/24"), WAN, 0, 2),
    ip_address("10.1.0.254"): LAN_ROUTE,
    ip_address("10.1.0.1"): LAN_ROUTE,
    obstacles.NOBODYS[4]: DEFAULT,
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
    ("one address is refused", WELL, {"10.2.0.254": None}, Around(), [Code.ROUTE_TAKEN]),
    ("nobody is at the LAN's device", WELL, {}, Around(dead={LAN}), [Code.NO_LAN_ADDRESS]),
    ("a wider route leads outside", WELL, {"10.1.0.254": WIDER}, Around(), [Code.NO_LAN_ADDRESS]),
]  # fmt: skip


@pytest.mark.parametrize(("what", "has", "ways", "around", "codes"), OBSTACLES, ids=[row[0] for row in OBSTACLES])
def test_obstacles(what: str, has: Has, ways: dict[str, Route | None], around: Around, codes: list[Code]) -> None:
    asked = obstacles.asked(WANTED, has)
    found = WAYS | {ip_address(text): way for text, way in ways.items()}
    around = replace(around, ways={address: found[address] for address in asked})
    assert [one.code for one in obstacles.obstacles(WANTED, has, around)] == codes


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
    ways = {**WAYS, ip_address("10.1.0.254"): lan, ip_address("10.1.0.1"): lan, obstacles.NOBODYS[4]: default}
    found = obstacles.outside(WANTED, has, ways)
    assert found == dict.fromkeys(devices, (LOCAL,))


def test_what_was_outside_stays_so_until_the_lan_is_there() -> None:
    has = Has(addresses=(GATEWAY,))
    assert obstacles.outside(WANTED, has, {}, [WAN]) == {WAN: (LOCAL,)}
    assert not obstacles.outside(WANTED, Has(addresses=(own("10.1.0.1/24", WAN),)), {}, [WAN])


def test_a_local_subnet_that_is_half_of_the_internet_may_be_anywhere() -> None:
    half = replace(WANTED, local_ts=(ip_network("0.0.0.0/1"),))
    assert not obstacles.outside(half, WELL, {obstacles.NOBODYS[4]: DEFAULT})


def test_a_gateway_that_speaks_for_itself_alone_need_not_forward() -> None:
    alone = replace(WANTED, local_ts=(ip_network("10.1.0.1/32"),))
    around = Around(WAYS, not_forwarding=FORWARDING, filters=["ip filter FORWARD"])
    assert not obstacles.obstacles(alone, WELL, around)


def suspect(text: str, device: int = WAN, *, refuses: bool = False) -> Route:
    return Route(ip_network(text), 0 if refuses else device, 0, 3, refuses=refuses)


def test_what_others_set_within_a_remote_subnet_is_asked_for_while_it_takes_something() -> None:
    host = suspect("10.2.0.77/32")
    suspects = {host, suspect("10.9.0.0/16"), suspect("0.0.0.0/0")}
    asked = obstacles.asked(WANTED, WELL, suspects)
    address = host.subnet[0]
    assert address in asked
    assert ip_address("10.9.0.1") not in asked
    assert obstacles.taking(WANTED, suspects, {address: host}, {WAN}) == {host}
    assert obstacles.taking(WANTED, suspects, {address: None}, {WAN}) == {host}
    assert not obstacles.taking(WANTED, suspects, {address: ROUTE}, {WAN})


def test_of_a_local_subnet_only_what_refuses_or_leads_outside_is_asked_for() -> None:
    refused, led, kept = suspect("10.1.0.8/29", refuses=True), suspect("10.1.0.16/29"), suspect("10.1.0.24/29", LAN)
    asked = obstacles.asked(WANTED, WELL, {refused, led, kept}, [WAN])
    assert {ip_address("10.1.0.9"), ip_address("10.1.0.17")} <= asked
    assert ip_address("10.1.0.25") not in asked
    ways = {ip_address("10.1.0.9"): None, ip_address("10.1.0.17"): led, ip_address("10.1.0.25"): kept}
    assert obstacles.taking(WANTED, {refused, led, kept}, ways, {WAN}) == {refused, led}


@pytest.mark.parametrize("way", [None, suspect("10.1.0.8/29")], ids=["refused", "led outside"])
def test_a_part_of_a_local_subnet_that_goes_elsewhere_is_told(way: Route | None) -> None:
    around = Around({**WAYS, ip_address("10.1.0.9"): way})
    (reason,) = obstacles.obstacles(WANTED, WELL, around)
    assert (reason.code, reason.subnets) == (Code.ROUTE_TAKEN, (str(LOCAL),))
    assert "10.1.0.9 does not go to the LAN" in reason.text


# -- as packets of others see it ------------------------------------------------------------------------------

OUT, BACK = obstacles.forwarded(WANTED, WELL, WAYS)


def test_packets_of_others_are_asked_about_in_both_directions() -> None:
    here, far = ip_address("10.1.0.254"), ip_address("10.2.0.1")
    assert Forwarded(here, far, LAN, frozenset((TUN,)), REMOTE) == OUT
    assert Forwarded(far, here, TUN, frozenset((LAN,)), LOCAL) == BACK


THROUGH = [
    ("both pass", {OUT: ROUTE, BACK: LAN_ROUTE}, None),
    ("a rule takes what comes from the LAN", {OUT: DEFAULT, BACK: LAN_ROUTE}, "iif lan: a route to 0.0.0.0/0"),
    ("a rule refuses it", {OUT: None, BACK: LAN_ROUTE}, "10.2.0.1 from 10.1.0.254 iif lan"),
    ("a rule takes what comes out of the tunnel", {OUT: ROUTE, BACK: DEFAULT}, "10.1.0.254 from 10.2.0.1 iif fwd0"),
]


@pytest.mark.parametrize(("what", "through", "text"), THROUGH, ids=[row[0] for row in THROUGH])
def test_a_rule_by_device_or_source_is_told(
    what: str, through: dict[Forwarded, Route | None], text: str | None
) -> None:
    around = Around(WAYS, through, {TUN: "fwd0", LAN: "lan"})
    found = obstacles.obstacles(WANTED, WELL, around)
    assert [one.code for one in found] == ([Code.ROUTE_TAKEN] if text else [])
    assert not text or text in found[0].text.replace(" does not go to fwd0", "")


def test_without_forwarding_the_kernel_refuses_all_which_is_told_once() -> None:
    around = Around(WAYS, {OUT: None, BACK: None}, not_forwarding=FORWARDING)
    assert [one.code for one in obstacles.obstacles(WANTED, WELL, around)] == [Code.FORWARDING_OFF]


def test_a_route_of_fwds_own_that_is_missing_is_told_by_itself() -> None:
    gone = replace(WELL, routes=(GUARD,))
    around = Around(
        {**WAYS, **dict.fromkeys(map(ip_address, ("10.2.0.1", "10.2.0.254")))}, {OUT: None, BACK: LAN_ROUTE}
    )
    assert not obstacles.obstacles(WANTED, gone, around)


ASKED_OF = [
    ("all of IPv4", "10.1.0.0/24", "0.0.0.0/0", "255.255.255.254"),
    ("all of IPv6", "fd00:1::/64", "::/0", "100::1"),
    ("one host", "10.1.0.0/24", "10.2.0.7/32", "10.2.0.7"),
]


@pytest.mark.parametrize(("what", "local", "remote", "to"), ASKED_OF, ids=[row[0] for row in ASKED_OF])
def test_the_kernel_is_asked_of_addresses_that_hosts_may_have(what: str, local: str, remote: str, to: str) -> None:
    wanted = replace(WANTED, local_ts=(ip_network(local),), remote_ts=(ip_network(remote),))
    ways = dict.fromkeys(obstacles.asked(wanted, WELL), LAN_ROUTE)
    out, back = obstacles.forwarded(wanted, WELL, ways)
    assert str(out.to) == to == str(back.source)


def test_nothing_is_asked_for_a_gateway_that_speaks_for_itself_alone() -> None:
    alone = replace(WANTED, local_ts=(ip_network("10.1.0.1/32"),))
    assert not obstacles.forwarded(alone, WELL, WAYS)


def test_of_very_many_pairs_each_subnet_is_tried_once() -> None:
    locals_, remotes = (
        [ip_network(f"10.{net}.{i}.0/24") for i in range(20)] + [ip_network(f"fd00:{net}:{i}::/48") for i in range(3)]
        for net in (1, 2)
    )
    found = obstacles.pairs(locals_, remotes)
    assert len(found) == 2 * 20 - 1 + 2 * 3 - 1
    assert {one for pair in found for one in pair} == {*locals_, *remotes}
    assert len(obstacles.pairs(locals_[:8], remotes[:8])) == 64
