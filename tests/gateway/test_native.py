"""Gateways whose outer addresses are inside each other's subnets, as in VPCs that are joined without the Internet."""

from __future__ import annotations

from typing import Any

import pytest
from gwkit import Json, MakePair, Pair, until
from test_supervisor import MARKER, crash, pinging

SUBNETS = {"gw1": ["10.1.0.0/24"], "gw2": ["10.2.0.0/24"]}
FAR = {"gw1": "10.2.0.1", "gw2": "10.1.0.1"}
ESP = {"payload": "esp", "members": 2}


class Native(Pair):
    """A pair whose tunnels are between their addresses in the LAN: the default route leads from one to the other."""

    def _peering(self, host: str, pairing: Any, index: int, table: Any) -> Json:
        other = "gw2" if host == "gw1" else "gw1"
        addresses = {"local_addrs": FAR[other], "remote_addrs": FAR[host], "native": True, "subnets": SUBNETS}
        return dict(super()._peering(host, pairing, index, {**table, **addresses}))


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Native:
    found = module_pairs(kind=Native, keys={"source": "psk"}, peerings=[{"name": "a-b"}])
    assert isinstance(found, Native)
    found.outer = list(FAR.values())
    return found


def past(pair: Pair, host: str = "gw1") -> str:
    """How the host reaches the far gateway."""
    return pair.topology.run(host, ["ip", "route", "get", FAR[host]], check=False).stdout


def test_traffic_passes_and_nothing_leaves_in_the_clear(pair: Native) -> None:
    assert until(lambda: pair.ping(), 30.0)
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        assert pair.ping(count=5)
        assert not pair.ping(to=FAR["gw1"]), "the far gateway's own address is not behind the tunnel"
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert " dev wan" in past(pair)


def test_a_big_transfer_passes_both_ways(pair: Native) -> None:
    assert pair.tcp() > 1
    assert pair.tcp(reverse=True) > 1


def test_the_way_past_the_tunnel_is_restored_and_follows_the_hosts_own(pair: Native) -> None:
    pair.topology.run("gw1", ["ip", "route", "del", f"{FAR['gw1']}/32"])
    until(lambda: " dev wan" in past(pair), 15.0, "restored")
    assert until(lambda: pair.ping(), 30.0)

    # Without a way the tunnel is no way either: its own packets never go into it.
    default = pair.topology.run("gw1", ["ip", "route", "show", "default"]).stdout.strip()
    pair.topology.run("gw1", ["ip", "route", "del", "default"])
    pair.topology.run("gw1", ["ip", "route", "del", f"{FAR['gw1']}/32"])
    until(lambda: not pair.ready("gw1"), 30.0, "told")
    pair.topology.run("gw1", ["ip", "route", "add", *default.split()])
    until(lambda: " dev wan" in past(pair), 15.0, "the way is back")
    pair.wait_ready()
    assert until(lambda: pair.ping(), 30.0)


def test_what_a_crash_leaves_is_taken_over_and_a_clean_stop_takes_it_away(pair: Native) -> None:
    """The last of these tests."""
    crash(pair, "gw1")
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        assert not pair.ping(count=2)
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    pair.launch("gw1")
    pair.wait_ready("gw1")
    assert until(lambda: pair.ping(), 30.0)
    assert pair.stop("gw1") == 0
    assert FAR["gw1"] not in pair.topology.run("gw1", ["ip", "route", "show"]).stdout
