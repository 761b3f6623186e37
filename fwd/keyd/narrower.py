"""What members do not carry though it is configured, since the far side has agreed to less: said in log and status.

Each member is told by itself: another Child SA may have other selectors. What is said is bounded, whatever a peer
agrees to.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from fwd.model.config import Peering
from fwd.proto.ike.selectors import beyond, words
from fwd.proto.logged import event
from fwd.proto.sa import Narrowed

_SHOWN: Final = 4  # subnets, or pairs of subnets
log = logging.getLogger(__name__)


class Narrower:
    """Of one peering, by member."""

    def __init__(self, peering: Peering) -> None:
        self._peering = peering
        self._held: dict[int, Narrowed] = {}

    def note(self, member: int, held: Narrowed | None) -> None:
        """A member's newest Child SA is held to this; logged when it changes."""
        if held == self._held.get(member):
            return
        if held is None:
            del self._held[member]
            return
        self._held[member] = held
        told = self._told(held)
        text = "%s: the far side carries less than is configured: member %d from %s to %s"
        local, remote = (", ".join(told[key]) for key in ("local", "remote"))
        extra = event("ike.narrower", peering=self._peering.name, member=member, **told)
        log.warning(text, self._peering.name, member, local, remote, extra=extra)

    def clear(self) -> None:
        """There are no Child SAs any more."""
        self._held.clear()

    def told(self) -> dict[str, Any]:
        """For the status: by member, what it carries, and which pairs of subnets do not wholly pass."""
        return {str(member): self._told(held) for member, held in sorted(self._held.items())}

    def _told(self, held: Narrowed) -> dict[str, Any]:
        pairs = beyond(held, self._peering.local_ts, self._peering.remote_ts)
        return {
            "local": _some(words(held.local)),
            "remote": _some(words(held.remote)),
            "not_wholly": _some([f"{mine} - {theirs}" for mine, theirs in pairs]),
        }


def _some(texts: list[str]) -> list[str]:
    more = len(texts) - _SHOWN
    return [*texts[:_SHOWN], f"{more} more"] if more > 0 else texts
