"""SIGHUP while traffic flows: no process is killed for it, and no SA is touched that the change does not name."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import pytest
from gwkit import Json, MakePair, Pair, until
from test_reload import ONE, TWO

from fwd.lab.topology import GATEWAYS

SECOND: dict[str, Any] = {**TWO, "members": 3}
OF_TWO = {"ike_port": 501}


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """One peering with IKE; the clients have addresses in the subnets of another."""
    pair = module_pairs(start=False, keys={"source": "psk", "grace": 30})
    pair.add_second_subnets()
    pair.peerings = [ONE]
    return pair.start()


def second(peering: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    own = {"gw1": {**OF_TWO, **keys}, "gw2": {**OF_TWO, **keys}}
    if "local_id" in keys:
        own["gw2"] |= {"local_id": keys["remote_id"], "remote_id": keys["local_id"]}
    return {**SECOND, **(peering or {}), "keys": own}


def apply(pair: Pair, *peerings: dict[str, Any]) -> None:
    pair.peerings = list(peerings)
    for host in GATEWAYS:
        pair.write_config(host)
    pair.reload(*GATEWAYS)


def lives(pair: Pair) -> dict[str, dict[str, int]]:
    """Every process of the first peering, keyd and the agent."""
    return {host: pair.pids(host) for host in GATEWAYS}


def descriptors(pair: Pair) -> list[int]:
    return [len(os.listdir(f"/proc/{pair.pids(host)['keyd']}/fd")) for host in GATEWAYS]


def processes(peering: Json) -> list[int]:
    return [member["pid"] for member in peering["members"]]


def children(peering: Json) -> set[str]:
    return {child["spi_in"] for sa in peering["ike_sas"] for child in sa["children"]}


def settled_children(pair: Pair) -> set[str]:
    """Those that stay: both sides ask for spares, and each may not know yet what the other asks for."""
    seen, since = set[str](), time.monotonic()

    def are_the_same() -> bool:
        nonlocal seen, since
        if (now := children(pair.peering("gw1"))) != seen:
            seen, since = now, time.monotonic()
        return len(seen) >= 6 and time.monotonic() - since > 2.0

    until(are_the_same, 30.0, "spares")
    return seen


def ike_spi(peering: Json) -> str | None:
    return peering["ike_sas"][0]["spi_i"] if peering["ike_sas"] else None


def ike_spis(peering: Json) -> set[str]:
    return {sa["spi_i"] for sa in peering["ike_sas"]}


def test_peerings_come_change_and_go_beside_traffic(pair: Pair) -> None:
    until(lambda: pair.ping("-I", "10.1.0.10", to="10.2.0.10"), what="first ping")
    spis = settled_children(pair)
    before, held = lives(pair), descriptors(pair)
    sa = ike_spi(pair.peering("gw1"))
    with pair.probes(pair.flow_ports(2)) as got:
        for _ in range(2):
            apply(pair, ONE, second())
            until(lambda: pair.ping("-I", "10.11.0.10", to="10.12.0.10"), 20.0, "the second peering carries")
            pair.wait_ready()
            theirs, members = ike_spi(pair.peering("gw1", 1)), processes(pair.peering("gw1", 1))

            # What is live touches nothing of it either; another identity has both authenticate anew.
            apply(pair, ONE, second({"rekey_time": 600, "life_time": 700}, dpd_delay=3, mobility="none"))
            assert ike_spi(pair.peering("gw1", 1)) == theirs
            apply(pair, ONE, second(local_id="one", remote_id="two"))
            until(lambda old=theirs: ike_spi(pair.peering("gw1", 1)) not in (None, old), 20.0, "another IKE SA")  # type: ignore[misc]
            assert processes(pair.peering("gw1", 1)) == members

            # And what must be set up anew is that peering's affair.
            apply(pair, ONE, second({"payload": "superpacket", "port": 4700}, ike_port=502))
            until(lambda: pair.ping("-I", "10.11.0.10", to="10.12.0.10"), 20.0, "it carries in another way")
            apply(pair, ONE)
            assert len(pair.status("gw1")["peerings"]) == 1
    assert sum(arrived.lost for arrived in got.values()) == 0
    assert lives(pair) == before
    assert ike_spi(pair.peering("gw1")) == sa
    assert children(pair.peering("gw1")) <= spis
    assert descriptors(pair) == held, "nothing is left of it"


def test_a_subnet_becomes_a_part_or_the_whole_of_another_beside_traffic(pair: Pair) -> None:
    """The guard of the part stood for a moment where its packets were to go by the route of the whole."""
    whole, part = ONE["subnets"]["gw2"], ["10.2.0.0/26"]
    apply(pair, ONE)
    until(lambda: pair.ping("-I", "10.1.0.10", to="10.2.0.10"), what="first ping")
    with pair.probes(pair.flow_ports(2)) as got:
        for subnets in (part, whole, part, whole):
            apply(pair, {"subnets": {**ONE["subnets"], "gw2": subnets}})
            pair.wait_ready()
    assert sum(arrived.lost for arrived in got.values()) == 0


def test_the_peer_of_a_peering_that_goes_is_told(pair: Pair) -> None:
    apply(pair, ONE, second())
    until(lambda: pair.ping("-I", "10.11.0.10", to="10.12.0.10"), 20.0, "the second peering carries")
    pair.peerings = [ONE]
    pair.write_config("gw1")
    pair.reload("gw1")
    until(lambda: not pair.peering("gw2", 1)["ike_sas"], what="no IKE SA at the peer")
    pair.write_config("gw2")
    pair.reload("gw2")


@pytest.mark.parametrize("name", ["keyd", "agent"])
def test_who_dies_is_forked_with_all_that_there_is_by_then(pair: Pair, name: str) -> None:
    apply(pair, ONE, second())
    for host in GATEWAYS:
        pair.wait_replaced(host, name, pair.kill(host, name), 20.0)
        assert len(pair.status(host)["peerings"]) == 2
    apply(pair, ONE)
    assert len(pair.status("gw1")["peerings"]) == 1
    pair.wait_ready()
    assert pair.ping("-I", "10.1.0.10", to="10.2.0.10")


def test_a_whole_set_of_random_changes_is_not_seen_beside_them(pair: Pair) -> None:
    random_changes(pair, seed=1, count=6)


@pytest.mark.long
def test_fifty_random_changes_are_not_seen_beside_them(pair: Pair) -> None:
    random_changes(pair, seed=50, count=50)


def random_changes(pair: Pair, seed: int, count: int) -> None:
    """Change the second peering, or take it away, while probes go through the first."""
    dice = random.Random(seed)
    apply(pair, ONE)
    pair.wait_ready()
    before, held = lives(pair), descriptors(pair)
    spis, sas = settled_children(pair), ike_spis(pair.peering("gw1"))
    with pair.probes(pair.flow_ports(2), seconds=600.0) as got:
        for _ in range(count):
            if dice.random() < 0.2:
                apply(pair, ONE)
                continue
            peering = {"members": dice.choice([1, 3]), "payload": dice.choice(["esp", "superpacket"])}
            keys: dict[str, Any] = {"dpd_delay": dice.choice([2, 10]), "ike_port": dice.choice([501, 502])}
            if dice.random() < 0.5:
                keys |= {"local_id": f"a{dice.randrange(3)}", "remote_id": f"b{dice.randrange(3)}"}
            apply(pair, ONE, second({**peering, "rekey_time": dice.choice([60, 3600])}, **keys))
            until(lambda: pair.ping("-I", "10.11.0.10", "-W", "0.3", to="10.12.0.10"), 30.0, "the second carries")
        apply(pair, ONE)
    assert sum(arrived.lost for arrived in got.values()) == 0
    assert lives(pair) == before
    assert set() < ike_spis(pair.peering("gw1")) <= sas, "that of a keyd which was killed before may have ended since"
    assert children(pair.peering("gw1")) <= spis
    assert descriptors(pair) == held
