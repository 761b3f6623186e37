"""Scaling: the line's caps are in force member by member, and what runs in memory is the data path, whole."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from fwd.bench import busy, cores, line, pairs
from fwd.bench.cpu import CpuTime
from fwd.bench.result import Plan
from fwd.bench.scale import run
from fwd.lab.waiting import until
from fwd.lab.world import LabError


@pytest.mark.netns
@pytest.mark.alone
@pytest.mark.timeout(300)
def test_a_quick_run_has_a_point_for_each_number_of_members_and_gateways(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    body = run(Plan(True, tmp_path, lambda *step: steps.append(step)))
    assert [point["members"] for point in body["cores"]["points"]] == cores.counts()
    assert [point["members"] for point in body["line"]["points"]] == list(line.QUICK_MEMBERS)
    assert steps[-1][0] == steps[-1][1]
    assert all(a[0] <= b[0] for a, b in pairwise(steps))
    one, two = body["line"]["points"]
    assert (one["ideal_mbps"], two["ideal_mbps"]) == (100, 200)
    # Nothing passes beside the caps, whatever the load.
    assert one["share_of_ideal"]["high"] < 1.2
    assert two["share_of_ideal"]["high"] < 1.2
    assert all(0 < point["busy"]["share_of_ideal"]["high"] < 1.2 for point in (one, two))

    assert [point["pairs"] for point in body["pairs"]["points"]] == list(pairs.QUICK_PAIRS)
    one, two = body["pairs"]["points"]
    assert (one["ideal_mbps"], two["ideal_mbps"]) == (100, 200)
    assert one["share_of_ideal"]["high"] < 1.2
    assert two["share_of_ideal"]["high"] < 1.2


def test_half_a_core_is_taken_until_the_block_ends() -> None:
    with busy.half_a_core() as pid:
        until(lambda: CpuTime.of(pid).total_s > 0, "the load beside has had CPU time", 10)
    assert not os.path.exists(f"/proc/{pid}")


def test_every_member_gets_its_part() -> None:
    members = cores.counts()[-1]
    with cores.running(members, opens=True) as load:
        load.carry(20_000_000)
        carried = [path.member.counters.read()[load.counter] for path in load.paths]
    assert len(carried) == members
    assert min(carried) > 0


def test_what_runs_in_memory_is_gone_afterwards() -> None:
    with cores.running(1, opens=False) as load:
        pids = [load.demux, *load.members]
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_dead_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_CARRY_TIMEOUT_S", 0.5)
    with cores.running(1, opens=False) as load:
        os.kill(load.demux, 9)
        with pytest.raises(LabError, match="octets carried"):
            load.carry(10**12)


def test_efficiency_is_against_one_member_in_the_same_round() -> None:
    rates = {1: [cores.Rate(10.0, 0.1), cores.Rate(5.0, 0.1)], 2: [cores.Rate(18.0, 0.1), cores.Rate(10.0, 0.1)]}
    told = cores._efficiency(rates, 2)
    assert told["values"] == [0.9, 1.0]
