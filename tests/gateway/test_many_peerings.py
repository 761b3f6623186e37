"""Many peerings on one gateway: idle they cost little, with the far sides away and with all there; the status of them
is quick, and they come up together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gwkit import Json, MakePair, Pair, until

from fwd.agent.client import query
from fwd.datapath.shared import REST_MAX_S
from fwd.keyd.pairs import SPARES

LIMIT_S = 60.0  # on a machine that does other things, too
UP_S, STATUS_S, SHARE = 20.0, 0.5, 0.02  # on one that does not
FIRST = {"gw1": 100, "gw2": 180}
WATCHED_S = REST_MAX_S  # all that rest turn once in it
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def many(peerings: int, members: int) -> list[Json]:
    """Peerings between the same two gateways, told apart by IKE's port."""
    return [
        {
            "subnets": {host: [f"10.{first + i}.0.0/24"] for host, first in FIRST.items()},
            "tun": f"fwd{i}",
            "members": members,
            "port": 10000 + i * members,
            "keys": {host: {"ike_port": 1000 + i} for host in ("gw1", "gw2")},
        }
        for i in range(peerings)
    ]


def made(pairs: MakePair, peerings: int, members: int, *, executed: bool = False) -> Pair:
    """The lab with an address in each subnet, and gw1 alone. `executed`: not forked, for figures."""
    pair = pairs(many(peerings, members), start=False, keys={"source": "psk"})
    if executed:
        pair.nursery = None
    for host, first in FIRST.items():
        adds = [f"ip addr add 10.{first + i}.0.1/24 dev lan" for i in range(peerings)]
        pair.topology.run(host, ["sh", "-c", "; ".join(adds)])
    pair.secret = os.urandom(32)
    pair.launch("gw1")
    until(lambda: pair.log("gw1").count("event=member.waits") >= peerings * members, 3 * LIMIT_S, "all members wait")
    return pair


def cpu_s(pair: Pair, host: str) -> float:
    """What the whole process tree of a gateway has used so far, those included that have ended."""
    supervisor = pair.running[host].pid
    pids = [int(word) for word in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
    used = 0
    for pid in (supervisor, *pids):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used += sum(int(field) for field in fields[11:15])
    return used / _TICKS_PER_S


def share_at_rest(pair: Pair, host: str) -> float:
    """How much of a core a gateway uses that has nothing to do."""
    before, began = cpu_s(pair, host), time.monotonic()
    time.sleep(WATCHED_S)
    return (cpu_s(pair, host) - before) / (time.monotonic() - began)


def status_s(pair: Pair, host: str) -> float:
    """The best of some: what else runs on the machine is no fault of the status."""
    took = []
    for _ in range(5):
        began = time.monotonic()
        query(pair.control(host))
        took.append(time.monotonic() - began)
    return min(took)


def all_up(pair: Pair) -> bool:
    """A look twice a second: at many peerings it costs what they need to come up."""
    time.sleep(0.5)
    return all(pair.ready(host) for host in ("gw2", "gw1"))


def wait_settled(pair: Pair, sas: int) -> None:
    """Until keys are made no more: there are as many Child SAs as there are to be, and they stay the same."""
    seen: list[set[str]] = [set(), set()]

    def are_the_same() -> bool:
        time.sleep(2.0)  # both sides ask for spares, and each may not know yet what the other asks for
        peerings = query(pair.control("gw1"))["peerings"]
        found = {child["spi_in"] for one in peerings for sa in one["ike_sas"] for child in sa["children"]}
        seen[:] = seen[1], found
        return len(found) >= sas and seen[0] == found

    until(are_the_same, 5 * UP_S, "keys are there and stay")


def test_some_peerings_come_up_together(pairs: MakePair) -> None:
    """The short form, without figures: those are for a machine that does nothing else."""
    pair = made(pairs, peerings=6, members=2)
    pair.launch("gw2")
    until(lambda: all_up(pair), LIMIT_S, "all peerings of both")
    assert pair.status("gw1")["not_ready"] == []
    pair.wait_quiet()
    assert len(query(pair.control("gw1"))["peerings"]) == 6


@pytest.mark.long
@pytest.mark.timeout(600)
def test_sixty_four_peerings_of_four_members(pairs: MakePair) -> None:
    pair = made(pairs, peerings=64, members=4, executed=True)
    time.sleep(5.0)
    away, asked = share_at_rest(pair, "gw1"), status_s(pair, "gw1")
    print(f"far sides away: {away:.2%} of a core, status in {asked:.3f} s")

    began = time.monotonic()
    pair.launch("gw2")
    until(lambda: all_up(pair), 5 * UP_S, "all peerings of both")
    up_s = time.monotonic() - began
    wait_settled(pair, 64 * 4 * (1 + SPARES))
    time.sleep(6.0)  # who has nothing to do any more needs a second without traffic to know it, and keyd some
    there = {host: (share_at_rest(pair, host), status_s(pair, host)) for host in ("gw1", "gw2")}
    print(f"up in {up_s:.1f} s; all there: {there}")

    assert away < SHARE
    assert asked < STATUS_S
    assert up_s < UP_S
    assert all(share < SHARE and took_s < STATUS_S for share, took_s in there.values()), there
