"""What the benchmarks share: pairs that are timed in turns, so that a drifting machine changes both alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable

import pytest

PAIR_ROUNDS = 60
PAIR_CALLS = 20
_ratios: list[tuple[str, float, float, float, float]] = []


class Pair:
    """Times `ours` and its floor `bare` round by round in turns, and keeps the ratio bare / ours of every round."""

    def __init__(self, benchmark, name: str) -> None:
        self._benchmark = benchmark
        self._name = name

    def __call__(self, ours: Callable[[], object], bare: Callable[[], object], at_least: float) -> None:
        """Benchmark `ours`; the median ratio must reach `at_least` (1: as fast as its floor)."""
        self._benchmark(ours)
        gc.disable()
        try:
            ratios = sorted(_seconds(bare) / _seconds(ours) for _ in range(PAIR_ROUNDS))
        finally:
            gc.enable()
        median, low, high = statistics.median(ratios), ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
        self._benchmark.extra_info |= {"of_bare_median": median, "of_bare_low": low, "of_bare_high": high}
        _ratios.append((self._name, median, low, high, at_least))
        assert median >= at_least, f"{self._name}: {median:.2f} of bare calls, wanted {at_least}"


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(PAIR_CALLS):
        function()
    return time.perf_counter() - start


@pytest.fixture
def pair(benchmark, request) -> Pair:
    return Pair(benchmark, request.node.name)


def pytest_terminal_summary(terminalreporter) -> None:
    if _ratios:
        terminalreporter.section("speed as a share of bare calls, timed in turns (median, 10th to 90th percentile)")
        for name, median, low, high, at_least in _ratios:
            terminalreporter.write_line(f"{name:24} {median:.2f}  ({low:.2f} to {high:.2f}), wanted {at_least:.2f}")
