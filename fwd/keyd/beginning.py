"""When this side begins a connection that has no IKE SA, and by whose wish."""

from __future__ import annotations

from typing import Final

from fwd.proto.ike.causes import By

AGAIN_S: Final = 1.0  # after a connection has closed; doubles up to AGAIN_MAX_S
AGAIN_MAX_S: Final = 10.0
_WAIT_S, _WAITS_MAX = 0.5, 3  # for a peer that seems to begin


class Beginning:
    """Of one connection. `starts`: this side begins, and again whenever the connection has closed. `stopped`: a user
    has ended it, and it is to be begun by neither side.

    `at`: when it begins next; None: it need not. `by`: by whom or by what.
    """

    def __init__(self, *, starts: bool, by: By, now: float) -> None:
        self.starts = starts
        self.stopped = False
        self.at: float | None = now if starts else None
        self.by = by
        self._again_s = AGAIN_S
        self._waited = 0

    def change(self, before: str, after: str, *, begun: bool, now: float) -> None:
        """Begin, or leave that to the peer from now on, if `start_action` has changed."""
        if self.stopped:
            return
        if after != before:
            self.starts = after == "start"
            self.at = now if self.starts and not begun else None
        elif self.at is not None:
            self.at = now  # what the last attempt failed by may have changed
            self._again_s = AGAIN_S

    def is_due(self, now: float, *, begun: bool, peer_begins: bool) -> bool:
        """Whether to begin now, unless the peer is about to: its address can be forged, so wait at most three times.

        `begun`: this side has, or the peer has and has proved who it is.
        """
        if self.at is None and self.starts and not begun:
            self.at = now + self._again_s  # our attempt gave way to the peer's, and that has come to nothing
        if self.at is None or now < self.at:
            return False
        if peer_begins and self._waited < _WAITS_MAX:
            self._waited += 1
            self.at = now + _WAIT_S
            return False
        self._waited = 0
        self.at = None
        return True

    def established(self) -> None:
        """There is an IKE SA."""
        self.at = None
        self.by = By.START
        self._again_s = AGAIN_S

    def closed(self, now: float) -> None:
        """There is none any more: begin again, ever later."""
        self.at = now + self._again_s if self.starts else None
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)

    def stop(self) -> None:
        """Begin no more: a user has ended the connection."""
        self.starts, self.at, self.stopped = False, None, True

    def start(self, now: float, *, begun: bool) -> None:
        """Begin: a user asks for it."""
        self.starts, self.by, self.stopped = True, By.USER, False
        if not begun:
            self.at = now
