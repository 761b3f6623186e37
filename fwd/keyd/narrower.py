"""What members do not carry though it is configured, since the far side has agreed to less: said in log and status.

Each member is told by itself: another Child SA may have other selectors. What is said is bounded, whatever a peer
agrees to and however often.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

from fwd.keyd.record import Record
from fwd.model.config import Peering
from fwd.proto.ike.selectors import beyond, words
from fwd.proto.sa import Narrowed

_SHOWN: Final = 4  # ranges, or pairs of subnets


class Narrower:
    """Of one peering, by member."""

    def __init__(self, peering: Peering, record: Record) -> None:
        self._peering = peering
        self._record = record
        self._held: dict[int, Narrowed] = {}
        self._words: dict[int, dict[str, Any]] = {}  # for the status

    def change(self, peering: Peering) -> None:
        """Compare with what is configured now."""
        self._peering = peering

    def note(self, member: int, held: Narrowed | None, now: float) -> None:
        """A member's newest Child SA is held to this; logged when it changes."""
        if held == self._held.get(member):
            return
        if held is None:
            del self._held[member], self._words[member]
            return
        self._held[member] = held
        told = self._words[member] = self._told(held)
        local, remote = (", ".join(told[key]) for key in ("local", "remote"))
        self._record.narrower(member, local, remote, told, now)

    def clear(self) -> None:
        """There are no Child SAs any more."""
        self._held.clear()
        self._words.clear()

    def told(self) -> dict[str, Any]:
        """For the status: by member, what it carries, and which pairs of subnets do not wholly pass."""
        return {str(member): words for member, words in sorted(self._words.items())}

    def _told(self, held: Narrowed) -> dict[str, Any]:
        count, pairs = beyond(held, self._peering.local_ts, self._peering.remote_ts)
        return {
            "local": _some(len(held.local), words(held.local)),
            "remote": _some(len(held.remote), words(held.remote)),
            "not_wholly": _some(count, (f"{one} - {other}" for one, other in pairs)),
        }


def _some(count: int, all_words: Iterator[str]) -> list[str]:
    """The first few in words, and how many more there are: of pairs there may be tens of thousands."""
    more = count - _SHOWN
    return [*islice(all_words, _SHOWN), *([f"{more} more"] if more > 0 else [])]
