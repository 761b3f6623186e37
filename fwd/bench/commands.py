"""`fwd bench`: run the parts, store what they give, draw it, and hold it against the targets.

Exit status 0: all is as it must be. 1: a full run falls short of a target, or a result is not whole. 2: something that
the user can mend, in one line. Parts are imported when they run. One bench runs on a machine at a time.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fwd.bench import plots, report, result, sanity, targets
from fwd.bench.result import Plan, Result
from fwd.lab.topology import why_not
from fwd.lab.world import LabError
from fwd.proto.errors import UserError


class Part(StrEnum):
    PEERS = "peers"
    SCALE = "scale"
    MICRO = "micro"
    COSTS = "costs"
    FAILOVER = "failover"
    PROFILE = "profile"
    REPORT = "report"


PARTS: Final = tuple(part.value for part in Part if part != Part.REPORT)
IN_MEMORY: Final = ("micro",)  # needs neither root nor a lab
LOCK: Final = Path("/run/fwd-bench.lock")

app = typer.Typer(add_completion=False)


@app.command()
def bench(
    parts: Annotated[
        list[Part] | None,
        typer.Argument(
            metavar="[PART]...", help="peers, scale, micro, costs, failover, profile; or report. Default: all."
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="For schema and sanity, not for speed.")] = False,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where results go.")] = Path("build/bench"),
    wireguard_go: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Another wireguard-go binary to measure beside; may be repeated (peers)."),
    ] = None,
    targets_file: Annotated[
        Path | None, typer.Option("--targets", metavar="FILE", help="Default: bench/targets.toml of the checkout.")
    ] = None,
) -> int:
    """Measure fwd beside its peers, and how it scales; results, plots and a report. Needs root but for `micro`.

    `report` runs nothing: it makes plots and report anew from the results that are there.
    """
    only_report = parts == [Part.REPORT]
    chosen = [part for part in PARTS if part in (parts or PARTS)]
    with _clear_errors():
        binaries = _checked(wireguard_go or [], chosen)
        wanted = _targets(targets_file)
        if not only_report:
            out.mkdir(parents=True, exist_ok=True)
        console = Console()
        if not plots.available():
            typer.echo(f"fwd bench: {plots.MISSING}", err=True)
        if not only_report:
            with _alone(chosen), _ended_by_sigterm():
                _run(chosen, quick, out, {"peers": (binaries,)}, console)
        return _conclude(out, PARTS if only_report else chosen, wanted, console)


def _run(parts: Sequence[str], quick: bool, out: Path, extra: Mapping[str, tuple[Any, ...]], console: Console) -> None:
    """Run the parts one after another, each with a progress bar, and store what each gives."""
    columns = (
        TextColumn("{task.fields[part]:9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )  # fmt: skip
    modules = {part: importlib.import_module(f"fwd.bench.{part}") for part in parts}
    with Progress(*columns, console=console) as progress:
        bars = {part: progress.add_task("", start=False, total=None, part=part) for part in parts}
        for part in parts:
            progress.start_task(bars[part])
            start_s = time.monotonic()
            plan = Plan(quick, out, partial(_step, progress, bars[part]))
            body = modules[part].run(plan, *extra.get(part, ()))
            path = result.write(plan, part, body, round(time.monotonic() - start_s, 1))
            progress.update(bars[part], description=str(path))
            progress.stop_task(bars[part])


def _step(progress: Progress, bar: TaskID, done: int, total: int, what: str) -> None:
    progress.update(bar, completed=done, total=total, description=what)


def _conclude(out: Path, parts: Sequence[str], wanted: Sequence[targets.Target] | None, console: Console) -> int:
    """Plots, report and verdict: on every result that is there; the exit status is that of `parts`."""
    results = {part: found for part in PARTS if (found := _read(out, part)) is not None}
    if not results:
        raise UserError(f"{out}: no results: run `fwd bench` first")
    faults = {part: sanity.faults(found) for part, found in results.items()}
    whole = {part: found for part, found in results.items() if not faults[part]}
    drawn = plots.draw(out, whole) if plots.available() else []
    verdicts = targets.judge(wanted or [], results)
    path = report.write(out, whole, verdicts, drawn)
    mine = [verdict for verdict in verdicts if verdict.part in parts]
    for verdict, line in zip(mine, targets.lines(mine), strict=True):
        console.print(line, style="bold red" if verdict.state == "SHORT" else None, highlight=False, soft_wrap=True)
    if "costs" in parts and "costs" in whole:
        for line in report.of_costs(whole["costs"]):
            console.print(line, highlight=False, soft_wrap=True)
    found_faults = [line for part in parts for line in faults.get(part, [])]
    for line in found_faults:
        console.print(line, style="bold red", highlight=False, soft_wrap=True)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return 1 if found_faults or targets.short(mine) else 0


def _read(out: Path, part: str) -> Result | None:
    try:
        return result.read(out, part)
    except json.JSONDecodeError as error:
        raise UserError(f"{out / part}.json: not JSON: {error}: run that part again") from None


def _checked(wireguard_go: Sequence[Path], parts: Sequence[str]) -> list[Path]:
    """The binaries, if they are some and somebody will run them."""
    for path in wireguard_go:
        if "peers" not in parts:
            raise UserError(f"--wireguard-go {path}: only the part peers measures it")
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise UserError(f"--wireguard-go {path}: not an executable file")
    return [path.resolve() for path in wireguard_go]


def _targets(path: Path | None) -> list[targets.Target] | None:
    """The targets, read before anything is measured; None, and a line that says so, if there are none."""
    path = path or targets.default_path()
    if path is None:
        typer.echo(f"fwd bench: no verdict: {targets.PATH} is part of a checkout; name it with --targets", err=True)
        return None
    return targets.load(path)


@contextmanager
def _alone(parts: Sequence[str]) -> Iterator[None]:
    """Hold the machine's only bench, and refuse where the parts cannot run."""
    if all(part in IN_MEMORY for part in parts):
        yield
        return
    if reason := why_not():
        raise LabError(reason)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError("another `fwd bench` runs on this machine: two would measure one another") from None
        yield


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that no lab stays; a second one does not cut that short."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What the user can mend is one line and exit status 2."""
    try:
        yield
    except (UserError, LabError) as error:
        typer.echo(f"fwd bench: {' '.join(str(error).split())}", err=True)
    except OSError as error:
        typer.echo(f"fwd bench: {error.filename or error}: {error.strerror}", err=True)
    else:
        return
    raise typer.Exit(2)
