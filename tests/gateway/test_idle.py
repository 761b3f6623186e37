"""A gateway at rest rests, whatever it has carried before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gwkit import PORT, MakePair, until

from fwd.bench.cpu import CpuTime

pytestmark = pytest.mark.alone
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_no_process_spins_after_traffic(module_pairs: MakePair, payload: str) -> None:
    pair = module_pairs([{"payload": payload}])
    assert pair.ping(count=5)
    pair.wait_quiet()
    time.sleep(0.5)  # longer than any silence that makes a member ask
    before = {host: {name: CpuTime.of(pid).total_s for name, pid in pair.pids(host).items()} for host in ("gw1", "gw2")}
    time.sleep(1.0)
    for host, processes in before.items():
        busy = {name: CpuTime.of(pid).total_s - processes[name] for name, pid in pair.pids(host).items()}
        assert max(busy.values()) < 0.5, busy


REST_WATCHED_S = 4.0
WAKES_MAX = {"supervisor": 60, "keyd": 60, "agent": 8}  # of a member or a demux: WAKES_MAX_OTHERS
WAKES_MAX_OTHERS = 8


def wakes(pid: int) -> int:
    """How often a process has blocked, and so has woken up."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_processes_with_nothing_to_do_block(module_pairs: MakePair, payload: str) -> None:
    """Turns are counted, not time: a slow machine makes fewer."""
    pair = module_pairs([{"payload": payload}], start=False)
    pair.answer_routers()  # of whom there is none
    pair.start()
    assert pair.ping(count=5)
    pair.wait_quiet()
    time.sleep(3.0)  # until a second without traffic is over, with room for a slow machine
    pids = {host: {**pair.pids(host), "supervisor": pair.running[host].pid} for host in ("gw1", "gw2")}
    before = {host: {name: wakes(pid) for name, pid in found.items()} for host, found in pids.items()}
    time.sleep(REST_WATCHED_S)
    for host, found in pids.items():
        woken = {name: wakes(pid) - before[host][name] for name, pid in found.items()}
        too_often = {n: count for n, count in woken.items() if count > WAKES_MAX.get(n, WAKES_MAX_OTHERS)}
        assert not too_often, woken


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
