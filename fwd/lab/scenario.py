"""Scenarios: each is given what stands, does something to it, and returns figures; a row tells what came of it.

A row has a name, whether it passed, figures, seconds. A scenario fails by an exception, whose text is its reason.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

from fwd.lab.world import LabError

SCHEMA: Final = 1
Figures = dict[str, Any]
Row = dict[str, Any]
_LOG_CHARACTERS = 3000


class Failed(Exception):
    """A scenario did not go as it must."""


FAILURES: Final = (Failed, LabError, OSError, subprocess.SubprocessError)


class Named(Protocol):
    """Whatever is chosen by its name."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)
B = TypeVar("B")


@dataclass(frozen=True)
class Scenario(Generic[B]):
    """One scenario, by name, on a bed of its kind: gives its figures."""

    name: str
    check: Callable[[B], Figures]


def chosen(scenarios: Sequence[N], only: str) -> list[N]:
    """Return those with `only` in their name. Raises LabError where there is none."""
    if found := [one for one in scenarios if only in one.name]:
        return found
    raise LabError(f"no scenario has {only!r} in its name")


@contextlib.contextmanager
def row(name: str, failures: tuple[type[Exception], ...] = FAILURES, **about: Any) -> Iterator[Row]:
    """Give a row, whose figures the block fills in; one of `failures` is its reason, any other passes through."""
    found: Row = {"name": name, **about, "passed": True, "figures": {}}
    start_s = time.monotonic()
    try:
        yield found
    except failures as error:
        found |= {"passed": False, "reason": str(error)}
    found["seconds"] = round(time.monotonic() - start_s, 1)


@contextlib.contextmanager
def logged(found: Row, read: Callable[[], Mapping[str, str]]) -> Iterator[None]:
    """Keep the ends of the logs in the row when the block fails, while there are any to read."""
    try:
        yield
    except FAILURES:
        with contextlib.suppress(*FAILURES):  # the reason is the scenario's, whatever becomes of the logs
            found["logs"] = {name: text[-_LOG_CHARACTERS:] for name, text in read().items()}
        raise


def write(out: Path, rows: Sequence[Row], **about: Any) -> None:
    """Write all rows as JSON, and what they are `about`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"schema": SCHEMA, **about, "scenarios": rows}, indent=1) + "\n")
