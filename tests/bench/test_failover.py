"""Gaps: which silence belongs to which kill, and what is told of them."""

from __future__ import annotations

import numpy as np

from fwd.bench import failover
from fwd.bench.failover import MEMBERS, Moments
from fwd.lab import probe

MS = 1_000_000


def flow(*silences: tuple[int, int], until: int = 10_000) -> probe.Ints:
    """Arrivals every ms, but for these silences from … to."""
    times = [ms for ms in range(until) if not any(start < ms < end for start, end in silences)]
    return np.array(times, np.int64) * MS


def test_the_silence_after_each_moment() -> None:
    times = flow((1000, 1120), (2500, 2530), (5200, 8000))
    at = [900 * MS, 2000 * MS, 3000 * MS, 5000 * MS, 6000 * MS]
    # In the last two the silence is longer than the second that is looked at, and began before it.
    assert probe.silences_ms(times, at, 10**9, 10_000 * MS) == [120.0, 30.0, 1.0, 2800.0, 2800.0]


def test_a_flow_that_never_came_back_or_came_late_is_silent() -> None:
    times = flow((0, 2000), (4000, 10_000))[1:]
    assert probe.silences_ms(times, [500 * MS, 4000 * MS], 10**9, 9000 * MS) == [1500.0, 5000.0]
    assert probe.silences_ms(times[:0], [500 * MS], 10**9, 9000 * MS) == [8500.0]


def test_every_kill_is_looked_for_on_its_own_member() -> None:
    moments = Moments([], [(1000 + 1000 * i) * MS for i in range(6)], 10_000 * MS)
    silent = {0: [(1001, 1101), (5001, 5205)], 1: [(2001, 2141)], 2: [], 3: [(4002, 4098), (1010, 1900)]}
    flows = [flow(*silent[member]) for member in range(MEMBERS)]
    assert failover.gaps_ms(moments, flows, 10**9) == [100.0, 140.0, 1.0, 96.0, 204.0, 1.0]


def test_percentiles() -> None:
    told = failover.distribution([float(i) for i in range(1, 101)])
    assert (told["p50"], told["p90"], told["max"]) == (50.5, 90.1, 100.0)
    assert told["p90"] < told["p99"] < told["max"]
