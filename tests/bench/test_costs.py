"""Every step of a record's way has a cost, in every form that runs here, and costs tell what is at work."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from fwd.bench import costs, kernelcost, paper, sanity
from fwd.bench.result import Plan
from fwd.lab.world import LabError


@pytest.mark.netns
@pytest.mark.alone
def test_a_quick_run_is_whole_and_sane(tmp_path: Path) -> None:
    steps: list[tuple[int, int, str]] = []
    body = costs.run(Plan(True, tmp_path, lambda *step: steps.append(step)))
    assert steps[-1][0] == steps[-1][1]
    assert list(body["forms"]) == costs.forms_here()
    head = {"schema": 1, "part": "costs", "quick": True, "seconds": 1.0, "environment": {"cores": 2}}
    assert not sanity.faults({**head, **body})
    for form in body["forms"].values():
        assert list(form["steps"]) == list(paper.STEPS)


def test_a_process_that_measures_and_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(LabError, match="costs: the data path in memory: no reason given"):
        costs._in_its_own("pure", quick=True)


@pytest.mark.netns
def test_a_kernel_that_does_not_forward_is_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernelcost, "_sysctl", lambda setting: None)
    with pytest.raises(LabError, match="the kernel takes cannot be measured: 8 records of 62 octets went to"):
        kernelcost.measure(1, costs.BURSTS)
