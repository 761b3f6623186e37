"""The request under way on an IKE SA, and when it is sent again (RFC 7296 §2.1, §2.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from fwd.proto.ike.mobility import Path
from fwd.proto.ike.task import Task

RETRANSMIT_S: Final = 0.5
RETRANSMIT_FACTOR: Final = 1.8
RETRANSMIT_MAX_S: Final = 10.0
TRIES_MAX: Final = 7  # then the peer is dead: about 30 s after the first


@dataclass
class Request:
    """One request: its datagrams, which are sent again bit by bit, and how often they were."""

    task: Task
    message_id: int
    datagrams: list[bytes]
    path: Path | None  # where it goes; None: to where the peer is
    sent_at: float
    due: float  # when it is sent again, or given up
    tries: int = 1

    def unanswered_s(self, now: float) -> float:
        """Return for how long it has had no answer, if it was sent again to where the peer is; else 0."""
        return now - self.sent_at if self.tries > 1 and self.path is None else 0.0

    def try_again(self, now: float) -> None:
        """Count another try; each wait is longer than the one before."""
        self.due = now + min(RETRANSMIT_S * RETRANSMIT_FACTOR**self.tries, RETRANSMIT_MAX_S)
        self.tries += 1
