"""The lab as a value: how many gateways and sites there are decides addresses, links, routes and peerings."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from fwd.lab.world import LabError, World

SIZES = [{"vpc1": 1, "vpc2": 1}, {"vpc1": 1, "vpc2": 2}, {"vpc1": 3, "vpc2": 2}, {"a": 2, "b": 3, "c": 1}]


@pytest.mark.parametrize(
    ("sites", "hosts"),
    [
        ({"vpc1": 1, "vpc2": 1}, "client1 gw1 gw2 client2"),
        ({"vpc1": 1, "vpc2": 2}, "client1 gw1 gw2 gw3 client2 router"),
        ({"vpc1": 3, "vpc2": 2}, "client1 gw1 gw2 gw3 gw4 gw5 client2 router"),
        ({"a": 1, "b": 1, "c": 1}, "client1 gw1 gw2 client2 gw3 client3 router"),
    ],
)
def test_gateways_are_numbered_through_all_sites(sites: dict[str, int], hosts: str) -> None:
    assert World(sites=sites).hosts == tuple(hosts.split())


def test_two_gateways_are_joined_directly_unless_a_router_is_asked_for() -> None:
    assert "router" not in World().hosts
    assert "router" in World(router=True).hosts
    assert World().routes("gw1", 4) == ["default via 192.0.2.2"]
    assert World(router=True).routes("gw1", 4) == ["192.0.2.129 dev wan", "default via 192.0.2.129 dev wan"]


@pytest.mark.parametrize("sites", SIZES)
@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
def test_no_two_addresses_are_alike_and_inner_ones_are_in_their_sites_subnet(
    sites: dict[str, int], family: int
) -> None:
    world = World(sites=sites)
    found = [pair[family] for devices in world.plan_of_addresses.values() for pair in devices.values()]
    assert len({ip_interface(address).ip for address in found}) == len(found)
    for site in world.plan:
        inner = [world.plan_of_addresses[host]["lan"][family] for host in site.gateways]
        inner.append(world.plan_of_addresses[site.client]["eth0"][family])
        assert {str(ip_interface(address).network) for address in inner} == {site.subnets[family]}


@pytest.mark.parametrize("sites", SIZES)
def test_every_link_ends_at_two_devices_that_no_other_has(sites: dict[str, int]) -> None:
    world = World(sites=sites)
    ends = [end for link in world.links for end in ((link.host, link.device), (link.far_host, link.far_device))]
    assert len(set(ends)) == len(ends)
    wanted = {(host, dev) for host, devices in world.plan_of_addresses.items() for dev in devices}
    bridged = {(host, "eth0") for host in world.bridges}
    assert wanted - bridged <= set(ends)
    assert {(host, port) for host, ports in world.bridges.items() for port in ports} <= set(ends)


@pytest.mark.parametrize(
    ("sites", "far"),
    [
        ({"vpc1": 1, "vpc2": 1}, {"gw1": ["gw2"], "gw2": ["gw1"]}),
        ({"vpc1": 1, "vpc2": 2}, {"gw1": ["gw2", "gw3"], "gw2": ["gw1"], "gw3": ["gw1"]}),
        ({"vpc1": 2, "vpc2": 2}, {"gw1": ["gw3"], "gw2": ["gw4"], "gw3": ["gw1"], "gw4": ["gw2"]}),
        (
            {"vpc1": 3, "vpc2": 2},
            {"gw1": ["gw4"], "gw2": ["gw5"], "gw3": ["gw4"], "gw4": ["gw1", "gw3"], "gw5": ["gw2"]},
        ),
    ],
)
def test_gateways_are_paired_and_those_of_the_smaller_site_have_several(
    sites: dict[str, int], far: dict[str, list[str]]
) -> None:
    world = World(sites=sites)
    assert {host: list(world.pairings(host)[0].far) for host in world.gateways} == far


@pytest.mark.parametrize("sites", SIZES)
def test_whoever_has_a_far_gateway_is_one_of_its(sites: dict[str, int]) -> None:
    world = World(sites=sites)
    pairs = {(host, far) for host in world.gateways for pairing in world.pairings(host) for far in pairing.far}
    assert pairs == {(far, host) for host, far in pairs}
    for host in world.gateways:
        assert len(world.pairings(host)) == len(sites) - 1


def test_a_client_goes_by_its_first_gateway_or_by_all() -> None:
    sites = {"vpc1": 1, "vpc2": 2}
    assert World(sites=sites).routes("client2", 4) == ["default via 10.2.0.1"]
    spread = World(sites=sites, spread=True)
    assert spread.routes("client2", 4) == ["default nexthop via 10.2.0.1 nexthop via 10.2.0.2"]
    assert spread.routes("client1", 4) == ["default via 10.1.0.1"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sites": {"vpc1": 1}}, "1 sites: expected 2 to 9"),
        ({"sites": {"vpc1": 0, "vpc2": 1}}, "site vpc1 with 0 gateways"),
        ({"sites": {"vpc1": 1, "vpc2": 9}}, "site vpc2 with 9 gateways"),
        ({"router_mtu_bytes": 1279}, "MTU of the path, 1279"),
        ({"router_mtu_bytes": 1501}, "MTU of the path, 1501"),
    ],
)
def test_a_world_that_cannot_be_is_refused_in_one_line(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(LabError, match=words) as refused:
        World(**wrong)  # type: ignore[arg-type]
    assert len(str(refused.value).splitlines()) == 1
