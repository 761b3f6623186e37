"""A gateway at rest rests, whatever it has carried before."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from gwkit import MakePair

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_no_process_spins_after_traffic(module_pairs: MakePair, payload: str) -> None:
    pair = module_pairs([{"payload": payload}])
    assert pair.ping(count=5)
    pair.wait_quiet()
    time.sleep(0.5)  # longer than any silence that makes a member ask
    before = {host: {name: cpu_s(pid) for name, pid in pair.pids(host).items()} for host in ("gw1", "gw2")}
    time.sleep(1.0)
    for host, processes in before.items():
        busy = {name: cpu_s(pid) - processes[name] for name, pid in pair.pids(host).items()}
        assert max(busy.values()) < 0.5, busy
