"""The clock that the deadlines of SAs are held against: nobody sets it, and it counts through a suspend."""

from __future__ import annotations

import time


def boot_s() -> float:
    """Seconds of CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_ms() -> int:
    """Milliseconds of CLOCK_BOOTTIME."""
    return boot_ns() // 1_000_000
