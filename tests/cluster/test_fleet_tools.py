"""The operator's tools over a whole fleet: each host tells its part of a flow's way, and the parts fit."""

from __future__ import annotations

import json
import ssl
import sys
from typing import Any

import httpx
import pytest
from clusterkit import NAME, Cluster, MakeFleet, until

Json = dict[str, Any]
PORTS = (5000, 5001, 5002, 5003)


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two VPCs of two gateways and a router."""
    return module_fleets(2, 2, peered=True)


def fwd(lab: Cluster, host: str, *words: str) -> tuple[int, str]:
    """Run a command on a host: its exit status, and what it says."""
    done = lab.fleet.run(host, [sys.executable, "-P", "-m", "fwd", *words], check=False)
    return done.returncode, done.stdout or done.stderr


def path(lab: Cluster, host: str, source: str, destination: str, sport: int, dport: int) -> Json:
    """Ask `fwd path` on a router or gateway."""
    mine, other = "--control", "--router-control"
    if host in lab.fleet.all_routers:
        mine, other = other, mine
    ends = ["--from", source, "--to", destination, "--proto", "udp", "--sport", str(sport), "--dport", str(dport)]
    _, said = fwd(lab, host, "path", *ends, "--json", mine, str(lab.control(host)), other, "/nonexistent")
    told: Json = json.loads(said)
    assert told["breaks"] == [], (host, told)
    return told


def seen_by_controller(lab: Cluster, gateway: str, sport: int) -> int:
    """The member that the controller's page says that a flow takes, if a gateway has it."""
    here, there = lab.fleet.address("client1"), lab.fleet.address("client2")
    asked = f"from={here}&to={there}&proto=udp&sport={sport}&dport=7000"
    context = ssl.create_default_context(cafile=lab.state / "ca.pem")
    headers = {"Authorization": f"Bearer {lab.api.token}"}
    told = httpx.get(f"{lab.url}/path.json?{asked}", headers=headers, verify=context, trust_env=False).json()
    (member,) = [one["takes"] for one in told["pairs"] if one["near"] == gateway]
    return int(member)


@pytest.mark.timeout(120)
def test_the_way_of_a_flow_is_told_from_router_to_router(lab: Cluster) -> None:
    here, there = lab.fleet.address("client1"), lab.fleet.address("client2")
    for port in PORTS:
        at_router = path(lab, "router1", here, there, port, 7000)
        gateway = at_router["facts"]["gateway"]
        assert gateway in lab.fleet.gateways[:2]
        at_gateway = path(lab, gateway, here, there, port, 7000)
        assert at_gateway["facts"]["peering"] == NAME
        assert seen_by_controller(lab, gateway, port) == at_gateway["facts"]["member"]

        # The far gateway is the partner, and its own router brings the replies to one of its VPC.
        (partner,) = lab.partners(gateway)
        assert at_gateway["facts"]["far"] == lab.fleet.outer(partner)
        back = path(lab, "router2", there, here, 7000, port)
        assert back["facts"]["gateway"] in lab.fleet.gateways[2:]
        assert path(lab, back["facts"]["gateway"], there, here, 7000, port)["facts"]["spi_out"]


@pytest.mark.timeout(120)
def test_every_pair_is_verified_from_one_side(lab: Cluster) -> None:
    for gateway in lab.fleet.gateways[:2]:
        status, said = fwd(lab, gateway, "verify", "--json", "--control", str(lab.control(gateway)))
        told = json.loads(said)
        assert (status, told["passed"], len(told["pairs"])) == (0, True, 1), told
        (partner,) = lab.partners(gateway)
        assert told["pairs"][0]["far"] == lab.fleet.outer(partner)


@pytest.mark.timeout(120)
def test_the_fleet_is_shown_with_all_of_its_pairs(lab: Cluster) -> None:
    def is_up() -> bool:
        pairs = json.loads(lab.fwd("show", "--json").stdout)["pairs"]
        return {one["state"] for one in pairs} == {"up"}

    until(is_up, "all pairs up")
    text = lab.fwd("show").stdout
    assert f"peering {NAME}" in text
    assert "up, 2 of 2 pairs" in text
    text = lab.fwd("graph", "--format", "dot").stdout
    assert all(f"host_{one} " in text for one in (*lab.fleet.gateways, *lab.fleet.all_routers))

    # Where no flow passes, it is told what the controller knows.
    here, there = lab.fleet.address("client1"), lab.fleet.address("client2")
    nowhere = ["--control", "/nonexistent", "--router-control", "/nonexistent"]
    text = lab.fwd("path", "--from", here, "--to", there, "--sport", "1", "--dport", "2", *nowhere).stdout
    assert "as the controller sees it" in text
    assert text.endswith("nothing known there breaks it\n")


@pytest.mark.timeout(120)
def test_a_router_that_has_joined_is_diagnosed(lab: Cluster) -> None:
    config = str(lab.files("router1").config)
    status, said = fwd(lab, "router1", "diagnose", "--config", config, "--json")
    assert (status, json.loads(said)) == (0, {"findings": [], "unseen": []})
    direct = ["route", "add", "10.2.9.0/24", "via", "10.1.9.10"]
    lab.fleet.run("router1", ["ip", *direct])
    try:
        status, said = fwd(lab, "router1", "diagnose", "--config", config, "--json")
    finally:
        lab.fleet.run("router1", ["ip", "route", "del", "10.2.9.0/24", "via", "10.1.9.10"])
    (one,) = json.loads(said)["findings"]
    assert (status, one["check"]) == (1, "direct_route")
    assert "10.2.9.0/24" in one["what"]
