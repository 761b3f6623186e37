"""How large a packet a member's path takes (ARCHITECTURE, "Paths"; RFC 8899's idea, on echoes of our own).

A *round* asks with two echoes, a small one and one of the full size, up to TRIES times. The full one answered: all is
well. Only the small one: the path takes less than was thought, the next smaller size is tried. None: that says nothing
of sizes, and asking goes on; whether the path works at all is pulse.py's. Silence alone proves nothing, so a round
starts only after sending without hearing. Requests of the far side do not count as heard: they say nothing of what it
hears. What the kernel says of the path is a hint,
since one forged ICMP message makes it say so (RFC 8899 §4.6): it is asked about, and believed if the full echo fails.
Refuses: answers to what was not asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SILENCE_S: Final = 0.3
TRY_S: Final = 0.15
TRIES: Final = 3
VAIN_TRY_S: Final = 0.5  # after TRIES of which no echo was answered
CHECK_S: Final = 10.0  # while sending, the full size is confirmed this often
RAISE_S: Final = 600.0  # after shrinking, the first size is tried again this often
PLATEAUS: Final = (8900, 4464, 2002, 1492, 1460, 1420, 1400, 1380, 1340, 1280, 1200, 1100, 1006, 900, 800, 700, 576)

_NUMBERS = 2**31 - 2  # of echoes: even, so that no number is above it; those above are the pulse's


@dataclass(frozen=True, slots=True)
class Echo:
    """An echo to be sent: as large as the path is thought to take, or as small as can be."""

    number: int
    mtu_bytes: int  # 0: small


class PathMonitor:
    """One member's path. `mtu_bytes` is in force."""

    def __init__(self, mtu_bytes: int, now: float, ceiling_bytes: int = 0) -> None:
        """`ceiling_bytes`: what the path should take, where a predecessor or the kernel has found less.

        Then the first `poll` asks whether it does by now.
        """
        self.mtu_bytes = mtu_bytes
        self._ceiling = ceiling_bytes or mtu_bytes
        self._number = 0
        self._sent = False  # something since the last time anything was heard
        self._unchecked = False  # something was sent since the full size was confirmed last
        self._quiet_since = now
        self._checked = now - CHECK_S
        self._raised = now - RAISE_S
        self._probe = mtu_bytes  # the size that the running round asks for
        self._tries = 0  # 0: no round is running
        self._try_at = 0.0
        self._small_ok = False
        self._asked: dict[int, int] = {}  # echo number → size, of the running round
        self._hint = 0  # what the kernel says that the path takes; 0: nothing less than what is in force
        self._hints_from = now  # before that the kernel is not believed: an echo has just contradicted it

    def sent(self, now: float) -> None:
        """Records were sent."""
        self._unchecked = True
        if not self._sent:
            self._sent = True
            self._quiet_since = now

    def heard(self, now: float) -> None:
        """An authenticated packet came that is not an echo request."""
        self._sent = False
        self._quiet_since = now

    def answered(self, number: int, now: float) -> None:
        """An echo reply came."""
        size = self._asked.pop(number, None)
        if size is None:
            return
        self.heard(now)
        if size == 0:
            self._small_ok = True
        else:
            if self._hint:
                self._hints_from = now + CHECK_S
            self.mtu_bytes = size
            self._finish(now)

    def check(self, now: float) -> None:
        """The path is up again: the next `poll` asks whether it still takes the full size."""
        self._tries, self._unchecked, self._checked = 0, True, now - CHECK_S

    def too_big(self, mtu_bytes: int, now: float) -> None:
        """Take the kernel's hint that the path is smaller: the next `poll` asks whether it is."""
        if 0 < mtu_bytes < self.mtu_bytes and now >= self._hints_from:
            self._hint = mtu_bytes

    def follow(self, mtu_bytes: int) -> None:
        """Believe the kernel, up and down: of a peer that answers no echo nobody knows better. 0: it does not know."""
        if mtu_bytes > 0:
            self.mtu_bytes = min(mtu_bytes, self._ceiling)

    def poll(self, now: float) -> list[Echo]:
        """Echoes that are due; call on every turn of the loop, and at `next_timeout` at the latest."""
        if self._tries:
            return self._next_try(now) if now >= self._try_at else []
        if self._hint:
            return self._start(self.mtu_bytes, now)
        silent = self._sent and now - self._quiet_since >= SILENCE_S
        if silent or (self._unchecked and now - self._checked >= CHECK_S):
            return self._start(self.mtu_bytes, now)
        if self.mtu_bytes < self._ceiling and now - self._raised >= RAISE_S:
            self._raised = now
            return self._start(self._ceiling, now)
        return []

    def next_timeout(self, now: float) -> float:
        """Seconds until `poll` may have something; infinite: it will not, unless something is sent."""
        if self._tries:
            return max(0.0, self._try_at - now)
        if self._hint:
            return 0.0
        times = [self._quiet_since + SILENCE_S] if self._sent else []
        times += [self._checked + CHECK_S] if self._unchecked else []
        times += [self._raised + RAISE_S] if self.mtu_bytes < self._ceiling else []
        return max(0.0, min(times, default=float("inf")) - now)

    def _start(self, size: int, now: float) -> list[Echo]:
        self._probe, self._tries, self._small_ok = size, 0, False
        self._asked.clear()
        return self._next_try(now)

    def _finish(self, now: float) -> None:
        self._tries = self._hint = 0
        self._checked = now
        self._unchecked = False
        self._asked.clear()

    def _next_try(self, now: float) -> list[Echo]:
        if self._tries >= TRIES and self._small_ok:
            return self._shrink(now)
        self._try_at = now + (TRY_S if self._tries < TRIES else VAIN_TRY_S)
        self._tries = min(self._tries + 1, TRIES)
        echoes = [Echo(self._number + 1, 0), Echo(self._number + 2, self._probe)]
        self._number = (self._number + 2) % _NUMBERS
        for echo in echoes:
            self._asked[echo.number] = echo.mtu_bytes
        while len(self._asked) > 2 * TRIES:
            del self._asked[next(iter(self._asked))]
        return echoes

    def _shrink(self, now: float) -> list[Echo]:
        """The small echoes were answered, those of `_probe` bytes were not."""
        if self._probe > self.mtu_bytes:  # a raise that the path does not take
            self._finish(now)
            return []
        hint, self._hint = self._hint, 0
        smaller = hint if 0 < hint < self._probe else next((p for p in PLATEAUS if p < self._probe), None)
        if smaller is None:
            self._finish(now)
            return []
        self.mtu_bytes = smaller
        self._raised = now
        return self._start(smaller, now)
