"""Trouble stays with the child or the peering that it befell: kept here as a reason, logged, and tried again.

An exception in the supervisor must not end it: its children would die with it. What is done for one child or one
peering is done through `apart`. The log has a traceback once a second at most; the status has the reason for KEPT_S.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from fwd.model.reasons import Code, Reason, folded
from fwd.proto.errors import UserError
from fwd.proto.logged import event

log = logging.getLogger(__name__)
KEPT_S: Final = 15.0  # longer than anything waits before it is tried again
LOG_EVERY_S: Final = 1.0
_REASON_MAX: Final = 300


class Troubles:
    """What went wrong lately, by the name of the child or peering."""

    def __init__(self, beat: Callable[[], None] = lambda: None) -> None:
        """`beat` is called before each thing that is done: one of them may take its time, but not all for ever."""
        self._beat = beat
        self.fresh = False  # since the last turn: then the loop must not turn at once
        self._seen: dict[str, tuple[float, str]] = {}
        self._logged_at = -LOG_EVERY_S

    def apart(self, name: str, act: Callable[..., Any], *arguments: Any) -> bool:
        """Do `act(*arguments)` for a child or a peering; whether it went well."""
        try:
            self._beat()
            act(*arguments)
        except Exception as error:  # noqa: BLE001
            self.note(name, error)
            return False
        return True

    def note(self, name: str, error: Exception) -> None:
        """Keep what befell `name`, and log it unless something was logged just now."""
        now = time.monotonic()
        self.fresh = True
        self._seen[name] = now, reason(error)
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            told = event("supervisor.trouble", name=name, reason=reason(error))
            log.error("%s: %s; it is tried again", name, reason(error), exc_info=error, extra=told)

    def current(self, now: float) -> dict[str, str]:
        """Name → reason, of what befell lately."""
        self._seen = {name: seen for name, seen in self._seen.items() if now - seen[0] < KEPT_S}
        return {name: why for name, (_, why) in self._seen.items()}


def report(news: Mapping[str, object], reasons: Collection[Reason], octets_max: int) -> bytes:
    """Encode what the agent is told, as JSON. It always fits, and never loses that there are reasons."""
    shown = folded(reasons)
    summary = []
    if shown:
        why = f"{len(reasons)} reasons are more than the status can show; the first: {shown[0].line}"
        summary = [Reason.of(Code.KERNEL, why=why)]
    without_subnets = [replace(one, subnets=()) for one in shown]
    for more, some in ((news, shown), (news, without_subnets), (news, summary), ({}, summary)):
        text = json.dumps({**more, "reasons": [one.as_json() for one in some]}).encode()
        if len(text) <= octets_max:
            return text
    raise AssertionError("one reason is longer than all may be")


def reason(error: Exception) -> str:
    """An exception in one line."""
    text = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:_REASON_MAX]
