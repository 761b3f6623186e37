"""What the kernel says of a running child: how much CPU it has used, and whether it wants to run.

The CPU clock of a process can be read whatever user it has become and wherever /proc is hidden. Its state is read from
a descriptor of /proc/PID/stat, opened before the child gives up root: under ProtectProc=invisible it cannot be opened
later. Without it only a stop is seen, since a parent is told of that by waitid; else it counts as wanting to run.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import Final

_CLOCK_OF_PROCESS: Final = 2  # CPUCLOCK_SCHED, of the whole process (clock_getcpuclockid(3))
_STAT_BYTES: Final = 512


def cpu_s(pid: int) -> float:
    """CPU time that a process has used."""
    return time.clock_gettime((~pid << 3) | _CLOCK_OF_PROCESS)


def open_state(pid: int) -> int:
    """A descriptor for `wants_cpu`; -1 if there is none to be had."""
    with contextlib.suppress(OSError):
        return os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    return -1


def wants_cpu(state_fd: int, pidfd: int) -> bool:
    """Whether a process is runnable, as far as that can be told; asleep, stopped, waiting for a disk it is not."""
    with contextlib.suppress(OSError):
        # "1234 (name) R …"; a name may hold anything.
        return os.pread(state_fd, _STAT_BYTES, 0).rpartition(b") ")[2][:1] == b"R"
    with contextlib.suppress(OSError):
        return os.waitid(os.P_PIDFD, pidfd, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None
    return True
