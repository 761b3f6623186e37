"""Peerings by inner addresses (native), and by the internet with every gateway behind a 1:1 NAT."""

from __future__ import annotations

import pytest
from clusterkit import MakeFleet, until

from fwd.lab.fleet import quickstart


@pytest.mark.timeout(180)
def test_a_native_path_carries_between_inner_addresses(fleets: MakeFleet) -> None:
    lab = fleets(2, 2)
    quickstart.peer(lab, path="native")
    lab.wait_ready()
    lab.carried_by_all(lab.fleet.gateways)
    (far,) = lab.peering("gw1")["far"]
    assert far["address"].startswith("10.2.0.")
    until(lab.passes, "flows over all slots")


@pytest.mark.timeout(180)
def test_gateways_behind_a_1_to_1_nat_carry(fleets: MakeFleet) -> None:
    lab = fleets(2, 2, nat=True, peered=True)
    lab.carried_by_all(lab.fleet.gateways)
    until(lab.passes, "flows over all slots")
