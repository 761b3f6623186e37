"""What the log says of CREATE_CHILD_SA exchanges that either side has refused: always, and never too often.

Each kind (by whom, for which member) is told when its reason changes, once a second at most, and once a minute while it
stays the same, and all of them no more often than the peering's record allows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from fwd.proto.ike.events import ExchangeRefused
from fwd.proto.ike.numbers import Notify
from fwd.proto.logged import event

CHANGED_S: Final = 1.0
SAME_S: Final = 60.0
_REASON_MAX = 200  # characters; a peer may offer whatever it likes
log = logging.getLogger(__name__)


class Refusals:
    """Of one peering. It remembers one reason for each kind."""

    def __init__(self, peering: str, label: str, may_tell: Callable[[float], bool]) -> None:
        self._peering, self._label, self._may_tell = peering, label, may_tell
        self._told: dict[tuple[bool, int | None], tuple[float, str]] = {}

    def note(self, what: ExchangeRefused, now: float) -> None:
        """Log a refusal, unless that has been done lately."""
        key, reason = (what.by_peer, what.member), what.reason[:_REASON_MAX]
        at, before = self._told.get(key, (float("-inf"), ""))
        if now < at + (CHANGED_S if reason != before else SAME_S) or not self._may_tell(now):
            return
        self._told[key] = now, reason

        who = "the peer" if what.by_peer else "us"
        about = "a Child SA" if what.member is None else f"a Child SA of member {what.member}"
        told = event("ike.child_refused", peering=self._peering, member=what.member, by=who, reason=reason)
        if what.about_ike:
            about, told = "a new IKE SA", event("ike.rekey_refused", peering=self._peering, by=who, reason=reason)
        # Both sides may want to rekey at once: that is no fault, and tried again.
        level = logging.INFO if reason.startswith(Notify.TEMPORARY_FAILURE.name) else logging.WARNING
        log.log(level, "%s: CREATE_CHILD_SA for %s refused by %s: %s", self._label, about, who, reason, extra=told)
