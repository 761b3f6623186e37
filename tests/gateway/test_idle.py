"""A gateway at rest rests, whatever it has carried before."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from gwkit import PORT, MakePair, Pair, until

from fwd.bench.cpu import CpuTime

REST_WATCHED_S = 4.0
WAKES_MAX = {"supervisor": 60, "keyd": 60, "agent": 8}  # of a member or a demux: WAKES_MAX_OTHERS
WAKES_MAX_OTHERS = 8


def wakes(pid: int) -> int:
    """How often a process has blocked, and so has woken up."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


PAYLOADS = ("superpacket", "esp")


@dataclass(frozen=True)
class Watched:
    """What a process did while it was watched."""

    wakes: int
    cpu_s: float


def watched(pair: Pair) -> dict[str, Watched]:
    """What each process has done so far."""
    pids = {f"{host} {name}": pid for host in ("gw1", "gw2") for name, pid in pair.pids(host).items()}
    pids |= {f"{host} supervisor": pair.running[host].pid for host in ("gw1", "gw2")}
    return {name: Watched(wakes(pid), CpuTime.of(pid).total_s) for name, pid in pids.items()}


@pytest.fixture(scope="module")
def at_rest(module_pairs: MakePair) -> dict[str, dict[str, Watched]]:
    """What the processes of pairs that have carried a little do when there is nothing to do, by payload."""
    pairs = {payload: module_pairs([{"payload": payload}], start=False) for payload in PAYLOADS}
    for pair in pairs.values():
        pair.answer_routers()  # of whom there is none
        pair.start()
        assert pair.ping(count=5)
        pair.wait_quiet()
    time.sleep(3.0)  # until a second without traffic is over, with room for a slow machine
    before = {payload: watched(pair) for payload, pair in pairs.items()}
    time.sleep(REST_WATCHED_S)
    after = {payload: watched(pair) for payload, pair in pairs.items()}
    return {
        payload: {
            name: Watched(one.wakes - old[name].wakes, one.cpu_s - old[name].cpu_s)
            for name, one in after[payload].items()
        }
        for payload, old in before.items()
    }


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_process_spins_after_traffic(at_rest: dict[str, dict[str, Watched]], payload: str) -> None:
    assert max(process.cpu_s for process in at_rest[payload].values()) < 0.5, at_rest


@pytest.mark.parametrize("payload", PAYLOADS)
def test_processes_with_nothing_to_do_block(at_rest: dict[str, dict[str, Watched]], payload: str) -> None:
    """Turns are counted, not time: a slow machine makes fewer."""
    often = {name: process.wakes for name, process in at_rest[payload].items()}
    too_often = {n: count for n, count in often.items() if count > WAKES_MAX.get(n.split()[1], WAKES_MAX_OTHERS)}
    assert not too_often, often


def test_members_whose_far_gateway_is_away_wait_and_none_is_replaced(pairs: MakePair) -> None:
    """Whatever comes for them meanwhile: their demux has rung their bells, and a stranger sends to their ports."""
    pair = pairs(start=False, keys={"source": "psk"})
    pair.secret = os.urandom(32)
    pair.launch("gw1")
    until(lambda: pair.log("gw1").count("event=member.waits") == 2, 30.0, "both members wait")
    pair.topology.run("gw2", ["bash", "-c", f"echo stranger >/dev/udp/{pair.topology.outer('gw1')}/{PORT}"])
    before = {m["pid"] for m in pair.peering("gw1")["members"]}
    time.sleep(2.0)  # longer than any hang is borne
    members = pair.peering("gw1")["members"]
    assert {m["pid"] for m in members} == before
    assert [(m["state"], m["restarts"], m["spi_out"]) for m in members] == [("running", 0, None)] * 2
    assert "hangs" not in pair.log("gw1")
    assert pair.log("gw1").count("event=member.waits") == 2
    assert not pair.ready("gw1")
