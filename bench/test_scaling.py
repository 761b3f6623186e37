"""Throughput by number of members, as `fwd bench scale` measures it: how long so many octets take, grouped by members.

The line-limited runs need root, for the lab.
"""

from __future__ import annotations

import time

import pytest

from fwd.bench import cores, line
from fwd.lab.topology import why_not

CARRIED = {"sealed": 200_000_000, "opened": 100_000_000}
LINE_BYTES = 5_000_000
ROUNDS = 5


@pytest.mark.parametrize("what", CARRIED)
@pytest.mark.parametrize("members", cores.counts())
def test_core_limited(benchmark, members: int, what: str) -> None:
    """One demux and so many members in memory, each pinned to a core."""
    benchmark.group = f"{members} members"
    with cores.running(members, opens=what == "opened") as load:
        benchmark.pedantic(load.carry, (CARRIED[what],), rounds=ROUNDS, warmup_rounds=1)
    _tell_rate(benchmark, CARRIED[what])


@pytest.mark.parametrize("members", line.MEMBERS)
def test_line_limited(benchmark, members: int) -> None:
    """ESP packets over a line that caps each member's 5-tuple."""
    if reason := why_not():
        pytest.skip(reason)
    benchmark.group = f"{members} members"

    def carry(octets: int) -> None:
        wanted = line.sent_bytes(topology) + octets
        while line.sent_bytes(topology) < wanted:
            time.sleep(0.005)

    with line.loaded(members, 10.0) as topology:
        benchmark.pedantic(carry, (LINE_BYTES,), rounds=ROUNDS)
    _tell_rate(benchmark, LINE_BYTES)


def _tell_rate(benchmark, octets: int) -> None:
    if benchmark.stats:
        benchmark.extra_info["mbit_per_s"] = octets * 8 / benchmark.stats.stats.median / 1e6
