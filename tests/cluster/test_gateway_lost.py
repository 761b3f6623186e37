"""A gateway's host freezes, or is gone: its flows go by the others on both sides, and the controller shows it."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from clusterkit import GAP_S_MAX, Cluster, MakeFleet, until

from fwd.lab.processes import end, in_network_of

GAP_S = 1.0  # of a flow at p99
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


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_of_20_hosts_that_freeze_in_turn_flows_are_silent_for_less_than_a_second_at_p99(lab: Cluster) -> None:
    silences: list[float] = []
    for round_ in range(20):
        host = lab.fleet.gateways[round_ % len(lab.fleet.gateways)]
        router = lab.fleet.routers_of(lab.fleet.site(host))[0]
        with lab.load() as load:
            until(lambda: min(lab.records(one) for one in lab.fleet.gateways) > 200, "traffic over all pairs")
            lab.signal(host, signal.SIGSTOP)
            try:
                until(lambda: lab.uses(router).get(host) == "down", f"{host} is out of use")  # noqa: B023
                lab.until_health(host, "down", seconds=SHOWN_S)
            finally:
                lab.signal(host, signal.SIGCONT)
            until(lambda: set(lab.uses(router).values()) == {"up"}, f"{host} is in use again")  # noqa: B023
            silences += load.end().silence_s
            assert load.resets == 0
        lab.until_health(host, "up")
    silences.sort()
    p50, p99 = (silences[int(len(silences) * share)] for share in (0.5, 0.99))
    print(f"silence of {len(silences)} flows: p50 {p50:.3f} s, p99 {p99:.3f} s, longest {silences[-1]:.3f} s")
    assert p99 < GAP_S


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_the_flows_of_a_host_that_is_gone_go_by_the_others_and_it_comes_back(lab: Cluster) -> None:
    """The last of these tests: its host is made anew without what the lab would know of it."""
    host = "gw1"
    with lab.load() as load:
        until(lambda: min(lab.records(one) for one in lab.fleet.gateways) > 200, "traffic over all pairs")
        inside = in_network_of(Path("/run/netns") / lab.fleet.ns(host))
        lab.signal(host, signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", lab.fleet.ns(host)], check=True)
        end(inside)
        lab.until_uses("router1", gw1="down", gw2="up")
        lab.until_health(host, "down", seconds=SHOWN_S)
        before = lab.records("gw2")
        until(lambda: lab.records("gw2") > before + 500, "all flows by the other one")
        load.end()
    assert max(load.silence_s) < GAP_S_MAX, load.silence_s
    assert load.resets == 0
