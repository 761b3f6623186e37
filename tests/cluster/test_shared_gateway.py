"""Two clusters of one VPC that share a gateway, each peered with another VPC."""

from __future__ import annotations

import pytest
from clusterkit import Cluster, MakeFleet, until


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """gw1 is in one cluster, gw3 in the other, gw2 in both."""
    lab = module_fleets(3, 2, 2)
    for name, vpc, gateways in (
        ("left", "vpc1", ["gw1", "gw2"]),
        ("right", "vpc1", ["gw2", "gw3"]),
        ("second", "vpc2", ["gw4", "gw5"]),
        ("third", "vpc3", ["gw6", "gw7"]),
    ):
        lab.api.create("clusters", name=name, vpc=vpc, gateways=gateways)
    lab.api.create("peerings", name="one-two", clusters=["left", "second"])
    lab.api.create("peerings", name="one-three", clusters=["right", "third"])
    lab.until_uses("router1", "one-two", gw1="up", gw2="up")
    lab.until_uses("router1", "one-three", gw2="up", gw3="up")
    lab.until_uses("router2", "one-two", gw4="up", gw5="up")
    lab.until_uses("router3", "one-three", gw6="up", gw7="up")
    return lab


@pytest.mark.timeout(180)
def test_a_gateway_in_two_clusters_carries_for_both(lab: Cluster) -> None:
    assert len(lab.status("gw2")["peerings"]) == 2
    for far in ("client2", "client3"):
        until(lambda far=far: lab.passes("client1", far), f"flows to {far}")  # type: ignore[misc]
        assert lab.fleet.ping(host=far, to=lab.fleet.address("client1"))
    carried = {one["name"]: one["books"]["out_records_out"] for one in lab.status("gw2")["peerings"]}
    assert all(carried.values()), carried


@pytest.mark.timeout(180)
def test_deleting_one_peering_leaves_the_other(lab: Cluster) -> None:
    """The last of these tests."""
    with lab.load(tcp=False) as load:
        lab.api.delete("peerings", "one-three")
        until(lambda: len(lab.status("gw2")["peerings"]) == 1, "gw2 has one peering")
        load.end()
    assert (load.lost, load.reordered) == (0, 0)
