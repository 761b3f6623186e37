"""A gateway's host freezes, or fwd ends there: its flows go by others on both sides, and the controller shows it."""

from __future__ import annotations

import signal

import pytest
from clusterkit import GAP_S_MAX, Cluster, MakeFleet, until

SHOWN_S = 20.0  # 3 s, and a busy machine's delay


@pytest.fixture(scope="module")
def lab(module_fleets: MakeFleet) -> Cluster:
    """Two clusters of two."""
    return module_fleets(2, 2, peered=True)


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_the_flows_of_a_host_that_freezes_go_by_the_others_and_it_is_shown(lab: Cluster) -> None:
    with lab.load() as load:
        until(lambda: min(lab.records(host) for host in lab.fleet.gateways) > 200, "traffic over all pairs")
        lab.signal("gw2", signal.SIGSTOP)
        try:
            lab.until_uses("router1", gw1="up", gw2="down")
            (far,) = lab.partners("gw2")
            (other,) = lab.partners("gw1")
            lab.until_uses("router2", **{far: "down", other: "up"})
            lab.until_health("gw2", "down", seconds=SHOWN_S)
            assert lab.health("gateways", "gw1") in ("up", "degraded")
            before = lab.records("gw1")
            until(lambda: lab.records("gw1") > before + 500, "all flows by the other one")
        finally:
            lab.signal("gw2", signal.SIGCONT)
        lab.until_uses("router1", gw1="up", gw2="up")
        lab.until_health("gw2", "up")
        load.end()
    assert max(load.silence_s) < GAP_S_MAX, load.silence_s
    assert load.resets == 0


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_nothing_is_lost_when_fwd_is_stopped_on_a_gateway_and_started_again(lab: Cluster) -> None:
    with lab.load() as load:
        until(lambda: min(lab.records(host) for host in lab.fleet.gateways) > 200, "traffic over all pairs")
        lab.stop("gw2")
        lab.until_uses("router1", gw1="up", gw2="down")
        lab.start("gw2")
        lab.until_uses("router1", gw1="up", gw2="up")
        lab.wait_ready()
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)
