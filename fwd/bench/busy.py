"""Another program's load beside what is measured: a process that is busy for half of each 10 ms, on whichever core."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SHARE: Final = 0.5  # of a core
_PERIOD_S = 0.01


@contextmanager
def half_a_core() -> Iterator[int]:
    """Half a core is taken until the block ends; gives the pid of who takes it."""
    process = multiprocessing.get_context("fork").Process(target=_work, daemon=True)
    process.start()
    try:
        yield process.pid or 0
    finally:
        process.kill()
        process.join()


def _work() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    while True:
        until = time.perf_counter() + SHARE * _PERIOD_S
        while time.perf_counter() < until:
            pass
        time.sleep((1 - SHARE) * _PERIOD_S)
