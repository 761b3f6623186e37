"""Waiting until something has come about, which is in vain once a process that it needs has ended.

Refuses (`LabError`, one line): what does not come about in time, or not any more. The line has the last words of the
processes that were needed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fwd.lab.processes import Process
from fwd.lab.world import LabError

T = TypeVar("T")
_POLL_S = 0.02


@dataclass(frozen=True)
class Daemon:
    """A process that something needs, and where its output goes."""

    name: str
    process: Process
    log: Path

    @classmethod
    def of(cls, name: str, child: subprocess.Popen[Any], log: Path) -> Daemon:
        return cls(name, Process.of(child.pid) or Process(child.pid, 0), log)

    def last_words(self) -> str:
        """The last line that it has logged."""
        lines = self.log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "it logged nothing")


def until(condition: Callable[[], T], what: str = "", seconds: float = 15.0, needed: Iterable[Daemon] = ()) -> T:
    """Wait for the first true value that `condition` gives; while they live, if any are `needed` for it."""
    needed = list(needed)
    deadline_s = time.monotonic() + seconds
    while not (value := condition()):
        for one in needed:
            if not one.process.alive():
                raise LabError(f"{one.name} has ended: {one.last_words()}; waited for: {what}")
        if time.monotonic() > deadline_s:
            words = "".join(f"; {one.name}: {one.last_words()}" for one in needed)
            raise LabError(f"not within {seconds:g} s: {what or condition}{words}")
        time.sleep(_POLL_S)
    return value
