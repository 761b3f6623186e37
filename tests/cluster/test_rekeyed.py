"""A peering whose tunnels have new keys by an operation of the controller, while traffic flows."""

from __future__ import annotations

import pytest
from clusterkit import Cluster, MakeFleet, until

from fwd.supervise.link import REKEY_S


def spis(lab: Cluster) -> dict[str, set[str]]:
    """By gateway the SAs on which its members send."""
    return {
        host: {
            str(one["spi_out"])
            for peering in lab.status(host)["peerings"]
            for one in peering["members"]
            if one["spi_out"]
        }
        for host in lab.fleet.gateways
    }


def renewed(lab: Cluster, before: dict[str, set[str]]) -> bool:
    """Whether every member of all gateways sends on another SA than before."""
    return all(now.isdisjoint(before[host]) and len(now) == len(before[host]) for host, now in spis(lab).items())


@pytest.mark.alone
@pytest.mark.timeout(300)
def test_all_tunnels_of_a_peering_have_new_keys_and_nothing_is_lost(fleets: MakeFleet) -> None:
    lab = fleets(3, 2, peered=True)
    lab.api.change("clusters", "vpc1-all", gateways=["gw2", "gw3"])
    until(lambda: not lab.partners("gw1") and not lab.status("gw1")["peerings"], "gw1 has left a partner that had two")
    lab.wait_carrying("gw2", "gw3", "gw4", "gw5")
    (peering,) = (one["name"] for one in lab.api.items("peerings"))

    def done(made: dict[str, str]) -> bool:
        return bool(lab.api.get(f"operations/{made['operation']}")["result"] == "done")

    with lab.load() as load:
        before = spis(lab)
        first = lab.api.ask("POST", f"peerings/{peering}/rekey")
        until(lambda: done(first), "the operation is done")
        assert renewed(lab, before), "all of it is new by then"
        load.end()
    assert (load.lost, load.reordered, load.resets) == (0, 0, 0), max(load.silence_s)

    # Once more at once: the gateways hear of it, and take their time.
    after = spis(lab)
    second = lab.api.ask("POST", f"peerings/{peering}/rekey")
    until(lambda: done(second), "it is done once more", REKEY_S + 60.0)
    assert renewed(lab, after), "all of it is new once more"
