"""Gateways are added, drained and removed under TCP streams and numbered UDP flows, and nobody notices; new flows go to
each by its weight. All of it in one subnet, and in two with other weights.
"""

from __future__ import annotations

import sys

import pytest
from clusterkit import NAME, Cluster, MakeFleet, until

from fwd.router.slots import SLOTS

NEW_FLOWS = 8000
POINTS = 0.05  # by how much a share of them may be another than its weight says
SENDER = """
import socket, sys, time
for port in range(20000, 20000 + int(sys.argv[2])):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.sendto(b"new", (sys.argv[1], 9))
    if port % 20 == 0:
        time.sleep(0.002)
"""


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet, request: pytest.FixtureRequest) -> Cluster:
    """Two clusters of two; of the first VPC a third gateway is in none. The parameter: in how many subnets the gateways
    of a VPC are, and gw2's weight.
    """
    lab = module_fleets(3, 2, subnets=request.param)
    first, second = lab.fleet.plan
    lab.api.change("gateways", "gw2", weight=float(request.param))
    lab.api.create("clusters", name="one", vpc="vpc1", gateways=list(first.gateways[:2]))
    lab.api.create("clusters", name="two", vpc="vpc2", gateways=list(second.gateways))
    lab.api.create("peerings", name=NAME, clusters=["one", "two"])
    lab.until_uses("router1", gw1="up", gw2="up")
    lab.until_uses("router2", gw4="up", gw5="up")
    return lab


def is_near(shares: dict[str, float], wanted: dict[str, float]) -> bool:
    """Whether each share is what is wanted, but for a few points."""
    return all(abs(shares[one] - wanted[one]) < POINTS for one in wanted)


def busy(lab: Cluster, gateway: str) -> set[int]:
    """The slots of a gateway that flows use, of the first router."""
    inner = lab.fleet.inner(gateway)[0]
    return {index for index, slot in lab.slots("router1").items() if slot.gateway == inner and slot.idle_s < 0.5}


@pytest.mark.alone
@pytest.mark.parametrize("lab", [1, 2], indirect=True)
@pytest.mark.timeout(300)
def test_new_flows_go_to_each_gateway_by_its_weight(lab: Cluster) -> None:
    weights = {one["name"]: one["weight"] for one in lab.api.items("gateways") if one["name"] in ("gw1", "gw2")}
    until(lab.passes, "flows over all slots")
    wanted = {one: weight / sum(weights.values()) for one, weight in weights.items()}
    until(lambda: is_near({one: lab.shares("router1")[one] / SLOTS for one in wanted}, wanted), "idle slots have moved")
    with lab.counting(*weights, what="iifname lan udp dport 9") as counted:
        client = [sys.executable, "-I", "-c", SENDER, lab.fleet.address("client2"), str(NEW_FLOWS)]
        lab.fleet.run("client1", client)
        until(lambda: sum(counted().values()) > 0.95 * NEW_FLOWS, "all of them")
        shares = {gateway: count / sum(counted().values()) for gateway, count in counted().items()}
    assert is_near(shares, wanted), shares


@pytest.mark.alone
@pytest.mark.parametrize("lab", [1, pytest.param(2, marks=pytest.mark.long)], indirect=True)
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_nothing_is_lost_or_reordered_when_a_gateway_is_added_drained_and_removed(lab: Cluster, rounds: int) -> None:
    for round_ in range(rounds):
        if round_:
            lab.api.ask("POST", "gateways/gw2/undrain")
            lab.api.change("clusters", "one", gateways=["gw1", "gw2"])
            lab.until_uses("router1", gw1="up", gw2="up")
            lab.until_uses("router2", gw4="up", gw5="up")
        come_and_go(lab)


def come_and_go(lab: Cluster) -> None:
    """gw3 is added, gw2 is drained and removed."""
    until(lab.passes, "flows over all slots")
    with lab.load() as load:
        # One more. It shares a partner, whose peering is set up anew: that one steps aside first.
        lab.api.change("clusters", "one", gateways=["gw1", "gw2", "gw3"])
        lab.until_uses("router1", gw1="up", gw2="up", gw3="up")
        until(lambda: lab.shares("router1")["gw3"] > 0, "idle slots of the new one")
        lab.until_uses("router2", gw4="up", gw5="up")

        # Drained it keeps what is busy, and nothing else.
        before = busy(lab, "gw2")
        lab.api.ask("POST", "gateways/gw2/drain")
        lab.until_uses("router1", gw1="up", gw2="draining", gw3="up")
        until(lambda: lab.shares("router1")["gw2"] <= len(before), "idle slots go to others")
        assert busy(lab, "gw2") == before

        lab.api.change("clusters", "one", gateways=["gw1", "gw3"])
        lab.until_uses("router1", gw1="up", gw3="up")
        until(lambda: not lab.status("gw2")["peerings"], "it has no peering any more")
        lab.until_uses("router2", gw4="up", gw5="up")
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)
