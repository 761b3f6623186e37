"""A question that a short-lived child without rights answers, while the supervisor goes on with its loop.

The child inherits what it is asked about, writes its answer to a pipe, and ends. Refused, as UserError of one line: an
answer that does not come within DEADLINE_S. What it says is for whoever asked to read, as a stranger's word.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable
from typing import Final

from fwd.proto.errors import UserError

DEADLINE_S: Final = 10.0
_PIECE_BYTES: Final = 1 << 20  # that are taken in one turn


class Asked:
    """The child, from its fork to its end. `act` is what it does: it is given the descriptor to answer by, and the
    supervisor's pid."""

    def __init__(self, act: Callable[[int, int], None], octets_max: int, now: float) -> None:
        near, far = os.pipe()
        os.set_blocking(near, False)
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(near)
            os.close(far)
            raise
        if self._pid == 0:
            try:
                act(far, parent)
            finally:
                os._exit(0)
        os.close(far)
        self._near = near
        self._until = now + DEADLINE_S
        self._octets_max = octets_max
        self._said = bytearray()
        self._is_reaped = False

    def said(self, now: float) -> bytes | None:
        """Return the answer once it is here; None: not yet. Raises UserError."""
        with contextlib.suppress(BlockingIOError):
            if data := os.read(self._near, _PIECE_BYTES):
                self._said += data
                if len(self._said) <= self._octets_max:
                    return None
            return bytes(self._said)
        if now >= self._until:
            raise UserError(f"it could not be read within {DEADLINE_S:.0f} s")
        return None

    def wait(self, seconds: float) -> None:
        """Wait for more of the answer."""
        poll = select.poll()
        poll.register(self._near, select.POLLIN)
        poll.poll(seconds * 1000)

    def end(self) -> None:
        """End the child; `is_gone` tells when that is done."""
        if self._near >= 0:
            os.close(self._near)
            self._near = -1
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)

    @property
    def has_ended(self) -> bool:
        """Whether nobody listens to the child any more."""
        return self._near < 0

    def is_gone(self) -> bool:
        """Whether nothing is left of the child."""
        if not self._is_reaped:
            pid, _ = os.waitpid(self._pid, os.WNOHANG)
            self._is_reaped = pid != 0
        return self._is_reaped


def say(far: int, *parts: bytes) -> None:
    """Write an answer; for the child."""
    data = memoryview(b"".join(parts))
    while data:
        data = data[os.write(far, data) :]
