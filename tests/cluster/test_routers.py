"""Two routers of a VPC: one is gone, or its process is killed."""

from __future__ import annotations

import signal

import pytest
from clusterkit import GAP_S_MAX, Cluster, MakeFleet, until


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two VPCs of two gateways and two routers."""
    return module_fleets(2, 2, peered=True, routers=2)


def active(lab: Cluster) -> str:
    """Wait for the router that has the address to which its VPC's hosts route."""

    def holder() -> str:
        look = ["ip", "-br", "address", "show", "dev", "inside"]
        held = [one for one in ("router1", "router1b") if " 10.1.9.1/24" in lab.fleet.run(one, look).stdout]
        return held[0] if len(held) == 1 else ""

    return until(holder, "one router has the address")


@pytest.mark.timeout(120)
def test_two_routers_choose_alike(lab: Cluster) -> None:
    one, other = ({index: slot.gateway for index, slot in lab.slots(name).items()} for name in ("router1", "router1b"))
    assert one == other
    assert len(one) == 256


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_a_router_whose_process_is_killed_loses_nothing(lab: Cluster) -> None:
    with lab.load() as load:
        router = active(lab)
        lab.kill(router)
        sent = lab.records("gw1")
        until(lambda: lab.records("gw1") > sent + 500, "traffic that goes on")
        lab.start(router)
        lab.until_uses(router, gw1="up", gw2="up")
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)


@pytest.mark.timeout(180)
def test_how_a_router_is_the_gateways_that_it_probes_tell_when_it_does_not(lab: Cluster) -> None:
    """One whose processes are frozen or gone is down; one that is only cut off from the controller unreachable."""
    lab.until_health("router1", "up", kind="routers")
    lab.signal("router1", signal.SIGSTOP)
    lab.until_health("router1", "down", kind="routers")
    lab.signal("router1", signal.SIGCONT)
    lab.until_health("router1", "up", kind="routers")

    with lab.cut_off("router1"):
        lab.until_health("router1", "unreachable", kind="routers")
        lab.until_uses("router1", gw1="up", gw2="up")
    lab.until_health("router1", "up", kind="routers")

    lab.kill("router1")
    lab.until_health("router1", "down", kind="routers")
    lab.start("router1")
    lab.until_health("router1", "up", kind="routers")


@pytest.mark.timeout(120)
def test_the_other_router_takes_the_address_of_one_that_is_gone(lab: Cluster) -> None:
    """The last of these tests."""
    router = active(lab)
    with lab.load() as load:
        until(lambda: min(lab.records("gw1"), lab.records("gw2")) > 500, "traffic")
        lab.fleet.run(router, ["sh", "-c", "ip link set inside down; ip link set lan down"])
        until(lambda: active(lab) != router, "the other has the address")
        sent = lab.records("gw1")
        until(lambda: lab.records("gw1") > sent + 500, "traffic again")
        load.end()
    assert load.resets == 0
    assert max(load.silence_s) < GAP_S_MAX, load.silence_s
