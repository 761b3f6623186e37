"""Whether a gateway can be reached, as its probes tell: pure.

A gateway is down when nothing was heard since a probe that was sent MISSES intervals ago, and up again after HITS
answers in a row. That counts only while the router's own loop is on time: one that was late has not waited, it has
slept.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fwd.proto.probe import Answer

EVERY_S: Final = 0.1
MISSES: Final = 3
HITS: Final = 10
LATE_S: Final = 0.05  # a loop that is later than that has no say
SILENCE_S: Final = EVERY_S * (MISSES - 0.5)  # the half is for a loop that is a little early
WINDOW: Final = 30  # probes over which loss is told
NEW: Final = 30  # probes after which one that has just been named, and does not answer, is missed


class Reach:
    """Whether one gateway can be reached, as its probes tell. It counts as down until HITS have been answered."""

    def __init__(self) -> None:
        self.up = False
        self.said: Answer | None = None  # by the last answer
        self.heard_at = float("-inf")
        self.rtt_s: float | None = None
        self.judged = False  # it was up, or has had its time to come up
        self._left = NEW
        self._asked: dict[bytes, float] = {}  # nonces that wait for an answer, and when they were sent; oldest first
        self._hits = 0
        self._window: deque[bool] = deque(maxlen=WINDOW)

    def ask(self, nonce: bytes, now: float) -> None:
        """Note that a probe is sent now, and look what has become of those before."""
        for missed, at in [(one, at) for one, at in self._asked.items() if now - at >= SILENCE_S]:
            del self._asked[missed]
            self._window.append(False)
            self._hits = 0
            self.up = self.up and self.heard_at > at
        self._asked[nonce] = now
        self._left = max(0, self._left - 1)
        self.judged |= not self._left

    def hear(self, answer: Answer, now: float) -> bool:
        """Take an answer; False: it answers nothing that was asked, or comes too late."""
        sent_at = self._asked.pop(answer.nonce, None)
        if sent_at is None:
            return False
        self.said, self.heard_at, self.rtt_s = answer, now, now - sent_at
        self._window.append(True)
        self._hits += 1
        if not self.up and self._hits >= HITS:
            self.up = self.judged = True
            self._window.clear()  # what was missed while it was down, or just starting, is no loss of one that is up
        return True

    def void(self) -> None:
        """Forget what is unanswered: the router itself was late."""
        self._asked.clear()

    def lose(self) -> None:
        """Take it for down: the kernel says that nobody is there."""
        self.up, self._hits = False, 0
        self.void()

    @property
    def loss(self) -> float:
        """Share of the last WINDOW probes that went unanswered."""
        return 1 - sum(self._window) / len(self._window) if self._window else 0.0
