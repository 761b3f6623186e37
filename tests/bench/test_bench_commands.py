"""`fwd bench` with made-up parts: what it stores, what it says, and its exit status."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from samples import PARTS, results, spread, store

from fwd import cli
from fwd.bench import commands, plots, targets
from fwd.bench.result import Plan
from fwd.lab.world import LabError

Json = dict[str, Any]
DRAW = plots.draw
OWN = Path(__file__).parents[2] / targets.PATH
HEAD = ("schema", "part", "quick", "environment", "seconds")


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither root nor the machine's own lock."""
    monkeypatch.setattr(commands, "why_not", lambda: None)
    monkeypatch.setattr(commands, "LOCK", tmp_path / "lock")


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants them has `draw` back: to draw takes seconds."""
    monkeypatch.setattr(plots, "draw", lambda out, results: [])


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """Puts a made-up part in the place of a real one; returns the list of its calls."""

    def make(name: str, run: Callable[[Plan], Json] | None = None, **changed: Any) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def fake(plan: Plan, *extra: Any) -> Json:
            calls.append((plan, *extra))
            plan.step(1, 2, "half way")
            if run:
                return run(plan)
            return {k: v for k, v in results()[name].items() if k not in HEAD} | changed

        monkeypatch.setitem(sys.modules, f"fwd.bench.{name}", SimpleNamespace(run=fake))
        return calls

    return make


def bench(*words: str | Path) -> int:
    return cli._exit_status(["bench", *map(str, words)])


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Exit status 2, one line, with these words in it."""

    def check(status: int, *words: str) -> None:
        told = capfd.readouterr()
        assert status == 2
        assert told.err.count("\n") == 1, told.err
        for word in words:
            assert word in told.err

    return check


@pytest.mark.slow
def test_all_parts_in_their_order(
    part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "draw", DRAW)
    calls = {name: part(name) for name in PARTS}
    assert bench("--out", tmp_path / "b", "--wireguard-go", sys.executable) == 0
    assert [len(of) for of in calls.values()] == [1] * len(PARTS)
    assert calls["peers"][0][1] == [Path(sys.executable).resolve()]
    assert len(calls["micro"][0]) == 1
    for name in PARTS:
        stored = json.loads((tmp_path / "b" / f"{name}.json").read_text())
        assert (stored["schema"], stored["part"], stored["quick"]) == (2, name, False)
        assert stored["environment"]["cores"] == os.cpu_count()
    made = {path.name for path in (tmp_path / "b").iterdir()}
    assert {"report.md", "peers.svg", "peers.png", "scale.svg", "scale.png"} <= made
    printed = capfd.readouterr().out
    assert sum(line.endswith("  ok") for line in printed.splitlines()) == len(targets.load(OWN)) - 3 + 8 + 8 + 5
    assert "SHORT" not in printed


def test_a_part_alone_is_judged_alone(part: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b"
    bad = results()["profile"] | {"demux_share": spread(0.5, "share")}
    store(out, profile=bad)
    part("micro")
    assert bench("micro", "--out", out) == 0
    assert "demux" not in capfd.readouterr().out
    assert "**SHORT**" in (out / "report.md").read_text()


def test_what_falls_short_is_marked_and_is_status_1(
    part: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    part("profile", demux_share=spread(0.5, "share"))
    assert bench("profile", "--out", tmp_path) == 1
    lines = [line for line in capfd.readouterr().out.splitlines() if line.endswith("SHORT")]
    assert len(lines) == 1
    assert "demux's share" in lines[0]
    assert "0.5 (0.475 to 0.525)" in lines[0]
    assert "below 0.2" in lines[0]
    assert bench("report", "--out", tmp_path) == 1


def test_a_quick_run_is_not_held_against_targets(part: Any, tmp_path: Path) -> None:
    calls = part("profile", demux_share=spread(0.5, "share"))
    assert bench("profile", "--quick", "--out", tmp_path) == 0
    assert calls[0][0].quick


@pytest.mark.parametrize("quick", [["--quick"], []])
def test_a_result_that_is_not_whole_is_status_1(
    quick: list[str], part: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    part("failover", received_mbps=float("nan"))
    assert bench("failover", *quick, "--out", tmp_path) == 1
    assert "failover: received_mbps: nan is no number" in capfd.readouterr().out


def test_report_runs_nothing(part: Any, tmp_path: Path) -> None:
    calls = [part(name) for name in PARTS]
    store(tmp_path / "b")
    assert bench("report", "--out", tmp_path / "b") == 0
    assert not any(calls)
    (tmp_path / "b/micro.json").unlink()
    assert bench("report", "--out", tmp_path / "b") == 0
    assert "not run" in (tmp_path / "b/report.md").read_text()


def test_a_report_on_nothing_makes_nothing(refused: Any, tmp_path: Path) -> None:
    refused(bench("report", "--out", tmp_path / "b"), "no results")
    assert not (tmp_path / "b").exists()


def test_without_matplotlib_there_is_a_report(
    part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    part("scale")
    assert bench("scale", "--out", tmp_path) == 0
    assert capfd.readouterr().err == "fwd bench: no plots: matplotlib is not there: pip install 'fwd[bench]'\n"
    assert {path.suffix for path in tmp_path.glob("[rs]*")} == {".json", ".md"}


def test_without_targets_there_is_no_verdict(
    part: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(targets, "default_path", lambda: None)
    part("profile", demux_share=spread(0.5, "share"))
    assert bench("profile", "--out", tmp_path) == 0
    assert "no verdict" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "reasons"),
    [
        (["nope"], ["nope"]),
        (["--nope"], ["--nope"]),
        (["--out"], ["--out"]),
        (["peers", "--wireguard-go", "/nope"], ["/nope", "not an executable"]),
        (["micro", "--wireguard-go", sys.executable], ["only the part peers"]),
        (["--targets", "/nope"], ["/nope", "No such file"]),
        (["micro", "--out", "/dev/null/x"], ["/dev/null/x", "Not a directory"]),
        (["report"], ["no results", "run `fwd bench` first"]),
    ],
)
def test_what_a_user_gets_wrong(words: list[str], reasons: list[str], part: Any, refused: Any, tmp_path: Path) -> None:
    calls = [part(name) for name in PARTS]
    where: list[str | Path] = [] if "--out" in words else ["--out", tmp_path]
    refused(bench(*words, *where), *reasons)
    assert not any(calls)


def test_a_result_that_is_no_json(refused: Any, tmp_path: Path) -> None:
    store(tmp_path)
    (tmp_path / "scale.json").write_text('{"schema": 2')
    refused(bench("report", "--out", tmp_path), "scale.json", "not JSON")


def test_what_a_part_needs_is_said_in_one_line(part: Any, refused: Any, tmp_path: Path) -> None:
    def fail(_: Plan) -> Json:
        raise LabError("the command charon is missing: install strongswan-charon")

    part("peers", fail)
    later = part("scale")
    refused(bench("peers", "scale", "--out", tmp_path), "charon is missing")
    assert not later


def test_without_root_only_memory_is_measured(
    part: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "why_not", lambda: "network namespaces need root")
    part("micro")
    part("failover")
    assert bench("micro", "--out", tmp_path) == 0
    refused(bench("failover", "--out", tmp_path), "need root")


def test_two_at_once_are_refused(part: Any, refused: Any, tmp_path: Path) -> None:
    calls = part("failover")
    with commands.LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused(bench("failover", "--out", tmp_path), "another `fwd bench` runs")
    assert not calls
    assert bench("failover", "--out", tmp_path) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_unwind(number: signal.Signals, status: int, part: Any, tmp_path: Path) -> None:
    unwound = []

    def run(_: Plan) -> Json:
        try:
            signal.raise_signal(number)
        finally:
            unwound.append(True)
        raise AssertionError("not reached")

    before = signal.getsignal(signal.SIGTERM)
    part("failover", run)
    if number == signal.SIGTERM:
        with pytest.raises(SystemExit) as ended:
            bench("failover", "--out", tmp_path)
        assert ended.value.code == status
    else:
        assert bench("failover", "--out", tmp_path) == status
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) == before
    assert not (tmp_path / "failover.json").exists()
