"""What every part of the bench gives: figures with their spread, in one versioned JSON file a part.

A result is a plain dictionary: `schema`, `part`, `quick`, `environment`, `seconds` (what the part took), and the
part's own keys. A figure is what repeated measurements say together, never a single one without its spread.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

SCHEMA: Final = 2
_LIBRARIES = ("cryptography", "numpy", "xxhash", "python-pytun")

Figure = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What every part is told: whether to be quick (schema and sanity, not speed), and how to say where it is.

    `step(done, total, what)` moves the part's progress bar.
    """

    quick: bool
    out: Path
    step: Callable[[int, int, str], None]


def figure(values: Sequence[float], unit: str) -> Figure:
    """Median, lowest and highest of repeated measurements, and the measurements themselves in their order."""
    return {
        "unit": unit,
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "values": list(values),
    }


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Ours over theirs, round by round: what drifts alike in both cancels."""
    return figure([a / b for a, b in zip(ours, theirs, strict=True)], "ratio")


def environment() -> dict[str, Any]:
    """Where this was measured."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "fwd": importlib.metadata.version("fwd"),
        "commit": _commit(),
    }


def write(plan: Plan, part: str, body: Mapping[str, Any], seconds: float) -> Path:
    """Store a part's result as PART.json; returns where."""
    plan.out.mkdir(parents=True, exist_ok=True)
    path = plan.out / f"{part}.json"
    head = {"schema": SCHEMA, "part": part, "quick": plan.quick, "environment": environment(), "seconds": seconds}
    path.write_text(json.dumps({**head, **body}, indent=1) + "\n")
    return path


def read(out: Path, part: str) -> Result | None:
    """The result of a part, or None if it has not been run (or by a fwd with another schema)."""
    try:
        result: Result = json.loads((out / f"{part}.json").read_text())
    except FileNotFoundError:
        return None
    return result if result.get("schema") == SCHEMA else None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _commit() -> str:
    """The commit of the checkout that this runs from, with `+` when it has changes; empty outside a checkout."""
    here = Path(sys.modules["fwd"].__file__ or ".").parent
    done = subprocess.run(
        ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip()
