"""Clocks that are 10 minutes off, ahead or behind: hosts join and renew or say why in one line, and traffic goes on."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from clusterkit import NAME, Cluster, MakeFleet, until

from fwd.lab.fleet.plan import CONTROLLER
from fwd.lab.world import LabError

OFF_S = 600
LIFETIME_S = 10  # of certificates, so that they are renewed all the time
OLD_S = 3600  # since when there are the CAs of a fleet that was not made just now
WORDS = ("not yet valid; is this host's clock right?", "whose clock is wrong?")


def controller_of(lab: Cluster, host: str) -> dict[str, Any]:
    """How a gateway stands with its controller; nothing while it begins."""
    return dict(lab.status(host)["controller"] or {})


def renewed(lab: Cluster, *hosts: str) -> None:
    """Wait until each has another certificate of IKE than now."""
    before = {host: controller_of(lab, host)["ike_until"] for host in hosts}
    until(lambda: all(controller_of(lab, one)["ike_until"] > before[one] for one in hosts), f"{hosts} renew")


def says_why(lab: Cluster, host: str) -> bool:
    """Whether a gateway's status has a line that names the clock."""
    told = controller_of(lab, host)
    said = [str(told.get(key, "")) for key in ("error", "refused")]
    return any(word in line and "\n" not in line for word in WORDS for line in said)


def at(lab: Cluster, off_s: int) -> None:
    """Start the controller anew with another clock."""
    lab.stop(CONTROLLER)
    lab.clocks[CONTROLLER] = off_s
    lab.start_controller()


def in_cluster(lab: Cluster) -> None:
    """Have all gateways carry."""
    for site in lab.fleet.plan:
        lab.api.create("clusters", name=f"{site.name}-all", vpc=site.name, gateways=list(site.gateways))
    lab.api.create("peerings", name=NAME, clusters=[f"{site.name}-all" for site in lab.fleet.plan])


@pytest.mark.timeout(120)
def test_a_host_whose_clock_is_behind_a_ca_of_just_now_says_why_it_does_not_join(fleets: MakeFleet) -> None:
    lab = fleets(1, 1, up=False)
    lab.api.create("vpcs", name="vpc1", cidrs=["10.1.0.0/16", "fd00:1::/48"])
    lab.clocks["gw1"] = -OFF_S
    with pytest.raises(LabError, match=r"gw1 does not join: .*is this host's clock right"):
        lab.join("gw1")
    lab.clocks["gw1"] = OFF_S
    lab.join("gw1")
    until(lambda: "host.clock" in lab.events(), "it is told")


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_controller_whose_clock_is_off_is_told_and_traffic_goes_on(fleets: MakeFleet) -> None:
    lab = fleets(1, 1, up=False, keys={"certificate_lifetime": LIFETIME_S})
    shutil.rmtree(lab.state)
    at(lab, -OLD_S)
    at(lab, 0)
    lab.fill()
    in_cluster(lab)
    lab.wait_ready()
    with lab.load() as load:
        for off_s in (OFF_S, -OFF_S):
            at(lab, off_s)
            for host in lab.fleet.gateways:
                until(lambda host=host: says_why(lab, host), f"{host} says why")  # type: ignore[misc]
        at(lab, 0)
        until(lab.is_whole, "all are heard, and up")
        renewed(lab, *lab.fleet.gateways)
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)


@pytest.mark.alone
@pytest.mark.parametrize("off_s", [OFF_S, -OFF_S], ids=["ahead", "behind"])
@pytest.mark.timeout(240)
def test_a_gateway_whose_clock_is_off_carries_traffic_and_is_told(fleets: MakeFleet, off_s: int) -> None:
    lab = fleets(2, 2, up=False)
    shutil.rmtree(lab.state)
    at(lab, -OLD_S)  # certificates are older than clocks are off
    lab.fill()
    at(lab, 0)
    in_cluster(lab)
    lab.wait_ready()
    restarted(lab, "gw1", off_s)
    lab.wait_ready()
    until(lambda: "host.clock" in lab.events(), "it is told")
    with lab.load() as load:
        sent = lab.records("gw1")
        until(lambda: lab.records("gw1") > sent + 1000, "traffic over it")
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)
    lab.until_health("gw1", "up", "degraded")


def restarted(lab: Cluster, host: str, off_s: int) -> None:
    """Start a gateway anew with another clock."""
    lab.stop(host)
    lab.until_uses("router1", **{one: "down" if one == host else "up" for one in ("gw1", "gw2")})
    lab.clocks[host] = off_s
    lab.start(host)
