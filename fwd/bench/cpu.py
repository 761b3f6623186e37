"""CPU time of processes from /proc/PID/stat (proc(5)), user and system apart; a tick is 10 ms on most machines."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class CpuTime:
    """Seconds of one process, all its threads together."""

    user_s: float
    system_s: float

    @classmethod
    def of(cls, pid: int) -> CpuTime:
        """So far. Raises OSError if there is no such process."""
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        # The name stands in parentheses and may itself contain spaces and parentheses.
        user, system = stat.rpartition(")")[2].split()[11:13]
        return cls(int(user) / _TICKS_PER_S, int(system) / _TICKS_PER_S)

    @property
    def total_s(self) -> float:
        return self.user_s + self.system_s

    def __sub__(self, other: CpuTime) -> CpuTime:
        return CpuTime(self.user_s - other.user_s, self.system_s - other.system_s)
