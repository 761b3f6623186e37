"""What is done with an exception that no code has foreseen: it costs the burst in which it came, never the process.

Who catches one counts what it has lost as `internal_error…`, puts its own state in order and goes on. The same record
would come again after a restart, so dying would let whoever finds a bug stop the gateway with one packet a second.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from fwd.proto.logged import event

EVERY_S: Final = 1.0
reraise = False  # set by tests: there an exception is a failure

log = logging.getLogger(__name__)


class Barrier:
    """Tells of one process's exceptions, with a traceback, at most once in EVERY_S; and of how many it did not tell."""

    def __init__(self) -> None:
        self._due = 0.0
        self._suppressed = 0

    def caught(self, step: str) -> None:
        """Tell of the exception that is being handled, which came in `step`."""
        if reraise:
            raise
        now = time.monotonic()
        if now < self._due:
            self._suppressed += 1
            return
        told = event("datapath.internal_error", step=step, suppressed=self._suppressed)
        log.exception("internal error: %s, its burst is lost; %d before not told", step, self._suppressed, extra=told)
        self._due, self._suppressed = now + EVERY_S, 0
