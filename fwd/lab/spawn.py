"""Starting a process that outlives whoever started it, its output in a new log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fwd.lab.processes import Process


def spawn(argv: Sequence[str], log: Path, *, given: int | None = None) -> Process:
    """Start a process. `given`: a descriptor that it gets as number 3.

    posix_spawn rather than subprocess: nobody here keeps a handle on the process, or means to wait for it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    if given is not None:
        actions.append((os.POSIX_SPAWN_DUP2, given, 3))
    pid = os.posix_spawnp(argv[0], list(argv), os.environ, file_actions=actions, setsid=True)
    return Process.of(pid) or Process(pid, 0)
