"""Single steps of the data path, each beside its floor: fwd/bench/micro.py has them, and says what the floors are."""

from __future__ import annotations

import statistics

import pytest

from fwd.bench import micro

ROUNDS = 60
AT_LEAST = {"seal": 0.85, "open": 0.75}  # of the bare calls


@pytest.mark.parametrize("name", micro.pairs())
def test_step(benchmark, floors, name: str) -> None:
    pair = micro.pairs()[name]
    before = pair.before
    if before is None:
        benchmark(pair.ours)
    else:
        benchmark.pedantic(pair.ours, setup=lambda: before() and None, rounds=500, warmup_rounds=10)
    ours_us, floor_us = micro.timed(pair, ROUNDS)
    ratios = [floor / ours for floor, ours in zip(floor_us, ours_us, strict=True)]
    floors(ratios)
    benchmark.extra_info["of_floor"] = statistics.median(ratios)
    assert statistics.median(ratios) >= AT_LEAST.get(name, 0)
