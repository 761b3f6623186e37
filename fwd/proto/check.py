"""A check of a member's path that a user has asked for: so many echoes at short intervals, and what came back; pure.

Beside the pulse, which asks while there is traffic, and decides: this one only counts. Its echoes have numbers of their
own. Refuses: answers to what was not asked, and a second answer.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.echo import CHECK_FIRST, MOVED

ECHOES: Final = 10
EVERY_S: Final = 0.02


class Check:
    """One member's. `run`: which of the checks that were asked for it was; the rest is of that one."""

    def __init__(self, asked: int) -> None:
        """`asked`: how many were asked for so far, which were a predecessor's."""
        self.run = asked
        self.sent = ECHOES
        self.back = 0
        self.rtts_s: list[float] = []
        self._waiting: dict[int, float] = {}
        self._next_at = 0.0

    def follow(self, asked: int, now: float) -> bool:
        """Begin anew if another one was asked for; returns whether it was."""
        if asked == self.run:
            return False
        self.run, self.sent, self.back, self.rtts_s, self._next_at = asked, 0, 0, [], now
        self._waiting.clear()
        return True

    def poll(self, now: float) -> int | None:
        """The number of an echo that is due. One that was late is followed by the next after the same time."""
        if self.sent >= ECHOES or now < self._next_at:
            return None
        number = CHECK_FIRST + (self.run * ECHOES + self.sent) % (MOVED - CHECK_FIRST)
        self.sent += 1
        self._next_at = now + EVERY_S
        self._waiting[number] = now
        return number

    def answered(self, number: int, now: float) -> bool:
        """An echo reply came; returns whether it is one of this check."""
        at = self._waiting.pop(number, None)
        if at is None:
            return False
        self.back += 1
        self.rtts_s.append(now - at)
        return True

    def next_timeout(self, now: float) -> float:
        """Seconds until `poll` has something; infinite: it will not, unless one is asked for."""
        return max(0.0, self._next_at - now) if self.sent < ECHOES else float("inf")
