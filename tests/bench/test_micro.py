"""The pairs do what they say; a floor is never slower than what stands on it by much, and a slower seam shows."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from fwd.bench import micro, sanity
from fwd.bench.result import Plan, write
from fwd.bench.rig import Path as DataPath
from fwd.bench.rig import Record
from fwd.datapath.counters import MemberCounter
from fwd.proto.burst import open_burst, seal_burst
from fwd.proto.drops import DropReason


def test_a_quick_run_is_whole_and_sane(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    body = micro.run(Plan(True, tmp_path, lambda *step: steps.append(step)))
    assert steps[-1][0] == steps[-1][1] == len(body["pairs"])
    write(Plan(True, tmp_path, lambda *step: None), "micro", body, 0.1)
    assert not sanity.faults({"schema": 1, "part": "micro", "quick": True, "seconds": 1.0,
                              "environment": {"cores": 2}, **body})  # fmt: skip


@pytest.mark.parametrize("name", ["seal", "open"])
def test_another_implementation_stands_beside_ours(name: str) -> None:
    def slower_seal(*arguments: Any) -> int:
        time.sleep(0.001)
        return seal_burst(*arguments)

    def slower_open(*arguments: Any) -> Any:
        time.sleep(0.001)
        return open_burst(*arguments)

    ours_us, floor_us = micro.timed(micro.pairs(slower_seal, slower_open)[name], 2)
    assert min(ours_us) > 1000 > min(floor_us)


def test_an_open_that_delivers_nothing_is_no_result() -> None:
    pair = micro.pairs(unseal=lambda *arguments: range(1, 1 + micro.ROWS))["open"]
    with pytest.raises(RuntimeError, match="one record of 63,096 octets was sealed"):
        micro.timed(pair, 1)


@pytest.mark.parametrize(("ip_bytes", "count"), [(65_000, 1), (65_000, 2), (1500, 20), (52, 1), (52, 20)])
def test_the_path_in_memory_delivers_what_is_put_in(ip_bytes: int, count: int) -> None:
    path, record = DataPath(), Record(ip_bytes)
    for _ in range(3):
        path.put(record, count)
        while path.work():
            path.receive()
    counters = path.member.counters.read()
    assert counters[MemberCounter.OUT_RECORDS] == counters[MemberCounter.IN_RECORDS_OK] == 3 * count
    assert counters[MemberCounter.IN_BYTES] == 3 * count * ip_bytes
    assert not any(counters[reason] for reason in DropReason)
    path.close()
