"""Stacks → stages, on the data path's own source: what the table names must be there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fwd
from fwd.bench import profile, stages
from fwd.bench.cpu import CpuTime
from fwd.bench.profile import Usage
from fwd.bench.stages import Stage

ROOT = Path(fwd.__file__).parent
HOT = sorted([*(ROOT / "datapath").glob("*.py"), *(ROOT / "proto").glob("*.py")])
OUTER = "main (fwd/cli.py:29);Member.run (fwd/datapath/member.py:1);"


def functions(file: Path) -> dict[str, ast.FunctionDef]:
    return {
        node.name: node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
    }  # fmt: skip


def frame(file: str, function: str, line: int | None = None) -> str:
    first = functions(ROOT / file)[function].lineno if line is None else line
    return f"Some.{function} (fwd/{file}:{first})"


def test_the_table_names_files_and_functions_that_are_there() -> None:
    for file in stages.FILES:
        assert (ROOT / file).is_file(), file
    for file, function in stages.FUNCTIONS:
        assert function in functions(ROOT / file), f"{file} has no {function}"


@pytest.mark.parametrize(("call", "stage"), stages.CALLS, ids=[call for call, _ in stages.CALLS])
def test_system_calls_are_told_by_what_the_line_calls(call: str, stage: Stage) -> None:
    found = [
        (str(file.relative_to(ROOT)), number)
        for file in HOT
        for number, text in enumerate(file.read_text().splitlines(), 1)
        if call in text and "def " not in text
    ]
    assert found, f"nothing in the data path calls {call}"
    for file, line in found:
        assert stages.stage_of(f"{OUTER}Some.function (fwd/{file}:{line})") == stage


@pytest.mark.parametrize(
    ("file", "function", "name"),
    [
        ("proto/burst.py", "seal_burst", "seal"),
        ("proto/burst.py", "open_burst", "open"),
        ("proto/compiled.py", "seal_records", "seal"),
        ("proto/compiled.py", "open_burst", "open"),
        ("proto/replay.py", "commit", "replay window"),
        ("proto/reassembly.py", "take_rows", "reassemble"),
        ("proto/flow.py", "flow_hash", "check and hash"),
        ("proto/aggfrag.py", "write_offsets", "framing"),
        ("proto/burst.py", "lay_record", "ring copy"),
        ("datapath/counters.py", "publish", "counters"),
    ],
)
def test_stages_of_functions(file: str, function: str, name: str) -> None:
    assert stages.stage_of(OUTER + frame(file, function)).name == name


def test_the_innermost_frame_of_the_data_path_counts() -> None:
    inner = ";searchsorted (numpy/_core/fromnumeric.py:1501)"
    assert stages.stage_of(OUTER + frame("proto/aggfrag.py", "write_offsets") + inner) == stages.FRAMING
    absolute = frame("proto/burst.py", "seal_burst").replace("(fwd/", "(/opt/x/fwd/")
    assert stages.stage_of(OUTER + absolute) == stages.SEAL
    assert stages.stage_of("main (fwd/cli.py:29);_child (fwd/supervise/children.py:99)") == stages.OTHER
    assert stages.stage_of("") == stages.OTHER


def test_samples_are_counted() -> None:
    seal, check = (frame("proto/burst.py", "seal_burst"), frame("proto/flow.py", "flow_hash"))
    counted = stages.count([f"{OUTER}{seal} 30\n", f"{OUTER}{check} 5\n", f"{seal} 10\n"])
    assert counted == {stages.SEAL: 40, stages.CHECK_OUT: 5}


def test_shares_leave_the_waiting_out_and_times_are_per_record_of_the_stage() -> None:
    used = Usage(CpuTime(1.5, 0.5), {"out": 1000, "in": 3000}, 0)
    told = profile.stage_rows({stages.SEAL: 60, stages.OPEN: 30, stages.LOOP: 10, stages.WAIT: 100}, used)
    assert (told["samples"], told["waiting"]) == (200, 0.5)
    rows = {row["stage"]: (row["share"], row["us_per_record"]) for row in told["stages"]}
    assert rows == {
        "seal": (0.6, pytest.approx(1200.0)),
        "open": (0.3, pytest.approx(200.0)),
        "loop": (0.1, pytest.approx(50.0)),
    }
    idle = profile.stage_rows({stages.OPEN: 1}, Usage(CpuTime(1, 1), {"out": 5, "in": 0}, 0))
    assert "us_per_record" not in idle["stages"][0]
    assert profile.stage_rows({}, used)["stages"] == []


def test_the_sampler_says_why_it_may_not_look(tmp_path: Path) -> None:
    tool = stages.sampler()
    assert tool is not None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(OSError, match=r"^py-spy: "):
            stages.sample(tool, process.pid, 1, tmp_path / "samples")


def test_cpu_time_grows_with_work() -> None:
    before, deadline = CpuTime.of(os.getpid()), time.monotonic() + 10
    while (CpuTime.of(os.getpid()) - before).total_s < 0.05:
        assert time.monotonic() < deadline
    with pytest.raises(OSError):  # noqa: PT011
        CpuTime.of(2**22 + 1)
