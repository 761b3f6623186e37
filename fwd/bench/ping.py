"""Round-trip times with ping(8), every 11 ms: p50 and p99 of those that were answered, and the share that was not."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from fwd.lab.topology import Topology
from fwd.lab.world import LabError

INTERVAL_S: Final = 0.011  # below 10 ms ping itself keeps a core busy, and so the others awake
_LAST_WAIT_S = 1
_TIME = re.compile(r"icmp_seq=(\d+) .*time=([\d.]+) ms$", re.MULTILINE)


@dataclass(frozen=True)
class Pings:
    """What came of one run."""

    p50_ms: float
    p99_ms: float
    unanswered: float  # share


def run(topology: Topology, count: int) -> Pings:
    """From client1 to client2. Raises LabError if none is answered."""
    argv = ["ping", "-n", "-i", f"{INTERVAL_S:g}", "-c", str(count), "-W", str(_LAST_WAIT_S)]
    argv.append(topology.address("client2"))
    try:
        done = topology.run("client1", argv, check=False, timeout=count * INTERVAL_S + 10)
    except subprocess.TimeoutExpired:
        raise LabError("ping did not end in time") from None
    return evaluate(times_ms(done.stdout), count)


def times_ms(output: str) -> list[float]:
    """The times in ping's output, one for each number; of a duplicated answer the first."""
    answers: dict[str, float] = {}
    for number, time_ms in _TIME.findall(output):
        answers.setdefault(number, float(time_ms))
    return list(answers.values())


def evaluate(answered_ms: Sequence[float], sent: int) -> Pings:
    if not answered_ms:
        raise LabError("no ping is answered")
    p50_ms, p99_ms = np.percentile(answered_ms, (50, 99))
    return Pings(float(p50_ms), float(p99_ms), 1 - len(answered_ms) / sent)
