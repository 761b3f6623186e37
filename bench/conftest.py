"""Benchmarks by pytest-benchmark of what `fwd bench` measures in memory; the bench itself is fwd/bench."""

from __future__ import annotations

import statistics

import pytest

_ratios: list[tuple[str, list[float]]] = []


@pytest.fixture
def floors(request: pytest.FixtureRequest):
    """Keeps the ratios of floor to ours, for the table at the end."""
    return lambda ratios: _ratios.append((request.node.name, sorted(ratios)))


def pytest_terminal_summary(terminalreporter) -> None:
    if _ratios:
        terminalreporter.section("speed as a share of the floor, timed in turns (median, 10th to 90th percentile)")
        for name, ratios in _ratios:
            low, high = ratios[len(ratios) // 10], ratios[-len(ratios) // 10]
            terminalreporter.write_line(f"{name:24} {statistics.median(ratios):.2f}  ({low:.2f} to {high:.2f})")
