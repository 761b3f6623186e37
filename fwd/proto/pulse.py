"""Whether a member's path works: small echoes, answered by the far member inside the SA, while there is traffic.

    sends something  ─▶ an echo every ECHO_S, until one is answered and nothing was sent since
    MISSES unanswered in a row  ─▶ down; asking goes on  ─▶ the first answer: up

An echo is missed once it has gone without an answer for as long as answers take, and for ECHO_S at least. Silence alone
proves nothing, so a member that has nothing to send does not ask. A loop that was late judges nobody: the answers may
lie unread in its socket. A path that answers right after it was given up was lossy, not down: it is given up later the
next time, so that flows do not go to and fro. Refuses: answers to what was not asked.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from fwd.proto.echo import CHECK_FIRST

ECHO_S: Final = 0.1
MISSES: Final = 3
MISSES_MAX: Final = 24
LATE_S: Final = 0.05  # after an echo was due: the loop did not run
DOWN_ECHO_S: Final = 0.5  # between echoes on a path that is down
FALSE_ALARM_S: Final = 0.5  # a path that is up again so soon was not down
CALM_S: Final = 60.0  # without a false alarm, and it is given up as early as any other
LOSS_ECHOES: Final = 100  # the last ones, over which loss is told
LOSS_S: Final = 20.0  # and none that is older
_RTT_SHARE: Final = 1.5  # of the longest time that an answer took lately: then it is missed
_RTT_DECAY: Final = 0.9
_HELD_MAX: Final = 64
_FIRST: Final = 2**31  # numbers below are those of echoes that ask for a size (path.py)


class Pulse:
    """One member's path. `up` says whether the far side answers."""

    def __init__(self) -> None:
        self.up = True
        self._number = 0
        self._sent = False  # something since the last echo
        self._asked_at = float("-inf")  # the last echo
        self._waiting: dict[int, float] = {}  # echoes since the one that was answered last, and when they were sent
        self._judged_from = float("-inf")  # those from before count for nothing
        self._rtt_s = 0.0
        self._misses = MISSES  # in a row, that it takes to be down
        self._down_at = self._alarm_at = float("-inf")
        self._settled: deque[tuple[float, bool]] = deque(maxlen=LOSS_ECHOES)  # when sent; whether answered

    @property
    def knows_of_sent(self) -> bool:
        """Whether records were sent since the last echo."""
        return self._sent

    def sent(self) -> bool:
        """Records were sent; returns whether they are the first since the last echo."""
        first = not self._sent
        self._sent = True
        return first

    def answered(self, number: int, now: float) -> bool:
        """An echo reply came; returns whether the path is up again by it."""
        at = self._waiting.get(number)
        if at is None:
            return False

        # What was asked before it is settled, too. Of a time in which the loop was late nobody knows how long it took.
        settled = [(one, sent_at) for one, sent_at in self._waiting.items() if self._judged_from <= sent_at <= at]
        self._settled.extend((sent_at, one == number) for one, sent_at in settled)
        self._waiting = {later: sent_at for later, sent_at in self._waiting.items() if sent_at > at}
        if at >= self._judged_from and not self._is_late(now):
            self._rtt_s = max(now - at, self._rtt_s * _RTT_DECAY)
        if self.up:
            return False

        self.up = True
        if now <= self._down_at + FALSE_ALARM_S:
            self._misses, self._alarm_at = min(2 * self._misses, MISSES_MAX), now
        return True

    def poll(self, now: float) -> int | None:
        """The number of an echo that is due; call at `due_at`, at the latest."""
        due = self.due_at()
        if due is None or now < due:
            return None
        if self._waiting and self._is_late(now):
            self._judged_from = now
        if self._misses > MISSES and now >= self._alarm_at + CALM_S:
            self._misses = MISSES

        # An answer that takes longer than ever is late, and not missed.
        patience_s = max(ECHO_S, self._rtt_s * _RTT_SHARE)
        missed = sum(at >= self._judged_from and at + patience_s <= now for at in self._waiting.values())
        if self.up and missed >= self._misses:
            self.up, self._down_at = False, now

        self._sent = False
        self._asked_at = now
        self._number = (self._number + 1) % (CHECK_FIRST - _FIRST)  # those above say something else (echo.py)
        self._waiting[_FIRST + self._number] = now
        while len(self._waiting) > _HELD_MAX:
            del self._waiting[next(iter(self._waiting))]
        return _FIRST + self._number

    def due_at(self) -> float | None:
        """When the next echo is due; None: there is none unless something is sent."""
        if not self.up and self._asked_at >= self._down_at + FALSE_ALARM_S:
            return self._asked_at + DOWN_ECHO_S
        return self._asked_at + ECHO_S if self._sent or self._waiting else None

    def loss(self, now: float) -> float:
        """Share of the echoes of late that went unanswered while later ones were answered."""
        lately = [answered for at, answered in self._settled if at > now - LOSS_S]
        return 1 - sum(lately) / len(lately) if lately else 0.0

    @property
    def rtt_s(self) -> float:
        """The longest time that an answer took lately; 0: none has come."""
        return self._rtt_s

    def next_timeout(self, now: float) -> float:
        """Seconds until `poll` may have something; infinite: it will not, unless something is sent."""
        due = self.due_at()
        return float("inf") if due is None else max(0.0, due - now)

    def trust(self) -> None:
        """Nobody answers echoes here: the path counts as up."""
        self.up = True
        self._waiting.clear()

    def _is_late(self, now: float) -> bool:
        due = self.due_at()
        return due is not None and now > due + LATE_S
