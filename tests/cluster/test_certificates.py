"""Certificates that end soon are renewed while traffic flows, or have their grace while the controller is away; a
gateway that is deleted is let in nowhere.
"""

from __future__ import annotations

import time

import pytest
from clusterkit import Cluster, MakeFleet, until

from fwd.lab.fleet.plan import CONTROLLER

REFUSED_S = 20.0  # 5 s, and a busy machine's delay


def ends(lab: Cluster) -> dict[str, int]:
    """When the certificate of each gateway's IKE ends."""
    return {host: int(lab.status(host)["controller"]["ike_until"]) for host in lab.fleet.gateways}


@pytest.mark.parametrize(
    ("lifetime_s", "renewals"), [(10, 3), pytest.param(60, 10, marks=pytest.mark.long)], ids=["short", "long"]
)
@pytest.mark.alone
@pytest.mark.timeout(900)
def test_certificates_that_end_soon_are_renewed_again_and_again_without_a_gap(
    fleets: MakeFleet, lifetime_s: int, renewals: int
) -> None:
    lab = fleets(2, 2, peered=True, keys={"certificate_lifetime": lifetime_s})
    with lab.load() as load:
        for _ in range(renewals):
            before = ends(lab)
            until(
                lambda before=before: all(end > before[host] for host, end in ends(lab).items()),  # type: ignore[misc]
                "all certificates are renewed", 60.0 + lifetime_s,
            )  # fmt: skip
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)
    assert all(lab.ready(host) for host in lab.fleet.gateways)


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_past_the_end_of_all_certificates_gateways_carry_and_one_that_is_started_anew_does_too(
    fleets: MakeFleet,
) -> None:
    lab = fleets(2, 2, peered=True, keys={"certificate_lifetime": 10})
    (far,) = lab.partners("gw2")
    with lab.load() as load:
        lab.stop(CONTROLLER)
        until(lambda: max(ends(lab).values()) + 1 < time.time(), "all certificates are over")
        for host in (far, "gw2"):
            lab.stop(host)
            lab.until_uses("router1", gw1="up", gw2="down")
            lab.start(host)
            lab.wait_carrying("gw2", far)
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0)
    for host, other in (("gw2", far), (far, "gw2")):
        said = [line for line in lab.status(host)["warnings"] if "is over since" in line]
        assert any("this gateway's certificate" in line and "until" in line for line in said), said
        assert any(f"far gateway's certificate (CN={other}" in line and "until" in line for line in said), said
    lab.start_controller()
    until(lambda: min(ends(lab).values()) > time.time(), "all are renewed")


@pytest.mark.alone
@pytest.mark.timeout(180)
def test_a_gateway_that_is_deleted_and_does_not_know_it_is_refused_by_all(fleets: MakeFleet) -> None:
    lab = fleets(3, 2, peered=True)
    (far,) = lab.partners("gw2")
    with lab.load() as load:
        with lab.cut_from_controller("gw2"):
            lab.api.change("clusters", "vpc1-all", gateways=["gw1", "gw3"])
            lab.api.delete("gateways", "gw2")
            until(lambda: not lab.ready("gw2"), "nobody talks to it", REFUSED_S)
            until(lambda: lab.ready(far), f"{far} has another partner")
            assert lab.status("gw2")["peerings"], "it has not heard of it"
            assert {one["state"] for one in lab.peering("gw2")["far"]} != {"up"}
        until(lambda: "revoked" in lab.status("gw2")["controller"]["error"], "the controller refuses it, too", 90.0)
        load.end()
    assert (load.reordered, load.resets) == (0, 0)
    assert load.lost == 0
