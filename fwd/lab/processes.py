"""Processes that outlive whoever started them, told apart by pid and start time.

A pid alone may have been reused by the time somebody signals it, so every signal goes through a pidfd that
was opened first and checked afterwards. Nothing here looks a process up by its name.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process; `start_ticks` is field 22 of /proc/PID/stat."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now, or None if it is gone or a zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The name stands in parentheses and may itself contain spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        return Process.of(self.pid) == self

    def pidfd(self) -> int | None:
        """A descriptor of exactly this process, readable once it is dead; None if it already is."""
        try:
            fd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return fd
        os.close(fd)
        return None


def in_network_of(namespace: Path) -> list[Process]:
    """All processes but this one whose network namespace is the one bound at `namespace`."""
    wanted = namespace.stat()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            network = (entry / "ns/net").stat()
            process = Process.of(int(entry.name))
            if process and (network.st_dev, network.st_ino) == (wanted.st_dev, wanted.st_ino):
                found.append(process)
    return found


def end(processes: Iterable[Process], grace_s: float = 5.0) -> None:
    """End them: SIGTERM, up to `grace_s` to leave, then SIGKILL. Returns when they are dead."""
    open_fds = [fd for process in processes if (fd := process.pidfd()) is not None]
    try:
        waiting = set(open_fds)
        for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
            for fd in waiting:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(fd, number)
            waiting = _wait(waiting, patience_s)
    finally:
        for fd in open_fds:
            os.close(fd)


def _wait(pidfds: set[int], patience_s: float) -> set[int]:
    """Wait until all are dead or patience ends; returns those still alive."""
    poll = select.poll()
    for fd in pidfds:
        poll.register(fd, select.POLLIN)
    alive = set(pidfds)
    deadline_s = time.monotonic() + patience_s
    while alive and (left_s := deadline_s - time.monotonic()) > 0:
        for fd, _ in poll.poll(left_s * 1000):
            poll.unregister(fd)
            alive.discard(fd)
    return alive
