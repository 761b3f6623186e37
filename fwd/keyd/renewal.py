"""When both sides of a peering are to authenticate anew: make before break, a new IKE SA beside the old one.

At `reauth_time`; before the peer's certificate ends, for it may have another by now; and when the peer refuses what is
needed (a rekeying, further Child SAs): the first Child SA of a new IKE SA needs no leave (RFC 7296 §4), and no group
either, so this also helps with a peer that has no PFS. Once members send on what the new one has brought, the old IKE
SA goes; or after a while, if the peer does not give it all that it gave the old one.
"""

from __future__ import annotations

import os
from typing import Final

from fwd.keyd.pair import Times
from fwd.proto.ike.both import at_once
from fwd.proto.ike.causes import By
from fwd.proto.ike.events import Standing
from fwd.proto.ike.sa import IkeSa

MOVE_S: Final = 30.0  # for all members to move to the new IKE SA
BARE_MAX_S: Final = 300.0  # between attempts with a peer that gives no Child SA at all
BEFORE_END_S: Final = 3600.0  # ahead of a certificate's end, or a tenth of what is left of it; in its grace so often
_JITTER = 0.1


def anew_at(standing: Standing) -> float:
    """Return when both sides are to authenticate anew for the sake of the certificate that this rests on.

    Before its end; in its grace again and again, since the peer may have another by now.
    """
    end_at, since = standing.ends_at - standing.grace_s, standing.authenticated_at
    if since < end_at:
        return end_at - min(BEFORE_END_S, (end_at - since) / 10)
    return since + min(BEFORE_END_S, (standing.ends_at - since) / 10)


class Renewal:
    """Of one peering. `reauth_s` 0: not for the sake of time."""

    def __init__(self, times: Times, reauth_s: float) -> None:
        self._times = times
        self._reauth_s = reauth_s
        self._share = 1 - _JITTER * os.urandom(1)[0] / 255  # so that both sides do not at once
        self._not_before = 0.0
        self._wait_s = times.again_s
        self._standing: Standing | None = None  # of the last authentication
        self._moving_until: float | None = None
        self._outdated = ""  # why what the last authentication rests on holds no more

    def change(self, times: Times, reauth_s: float, outdated: str) -> None:
        """Go by other times. `outdated`: why to begin at once, until that has come to something; empty: no reason."""
        self._times, self._reauth_s = times, reauth_s
        if outdated:
            self._outdated, self._not_before = outdated, 0.0

    def reason(self, sa: IkeSa, *, in_need: bool, bare: bool, now: float) -> tuple[str, By]:
        """Why to begin now, and by what; empty: there is no reason. `sa` is the IKE SA that speaks for the peering.

        `in_need`: a member soon has nothing to send on, and the peer refuses it more. `bare`: no member has anything.
        """
        if now < self._not_before or self._moving_until is not None:
            return "", By.TIMER
        found, by = self._reason(sa, in_need=in_need, bare=bare, now=now)
        if found:
            self._not_before = now + self._wait_s
            if bare:
                self._wait_s = min(2 * self._wait_s, BARE_MAX_S)
        return found, by

    def _reason(self, sa: IkeSa, *, in_need: bool, bare: bool, now: float) -> tuple[str, By]:
        standing = sa.standing
        if self._outdated:
            return self._outdated, By.RELOAD
        if self._reauth_s and now >= standing.authenticated_at + self._reauth_s * self._share:
            return "reauth_time", By.TIMER
        if now >= anew_at(standing):
            return "the peer's certificate ends", By.TIMER
        if sa.rekey_refused:
            return "the peer refuses to rekey the IKE SA", By.REFUSED
        return ("the peer refuses further Child SAs" if in_need or bare else ""), By.REFUSED

    def established(self, standing: Standing, now: float) -> bool:
        """The peer has proved who it is; True: anew, so that all of before is to be replaced."""
        before, self._standing = self._standing, standing
        self._outdated = ""
        self._share = 1 - _JITTER * os.urandom(1)[0] / 255
        if before is None or at_once(before, standing):
            return False
        self._moving_until = now + MOVE_S
        return True

    def helped(self) -> None:
        """There is a Child SA."""
        self._wait_s = self._times.again_s

    def is_old_done_with(self, *, moved: bool, now: float) -> bool:
        """Whether the old IKE SA may go, told once."""
        if self._moving_until is None or not (moved or now >= self._moving_until):
            return False
        self._moving_until = None
        return True
