"""Which Child SAs a peering is to ask its peer for: what members lack, and what the peer has refused them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fwd.keyd.pairs import SPARES, MemberPairs
from fwd.proto.ike.sa import IkeSa

REFUSED_S: Final = 10.0  # after the peer has refused a Child SA, or a member had no room for it
OTHER_SIDE_S: Final = 0.3  # of two fwds the one that is not the initiator asks for what is missing this much later


class Wants:
    """Of one peering's members. `refused`: those to whom the peer gives no Child SA, and why; `lacks`: whether the far
    side has no member of this number."""

    def __init__(self, members: Sequence[MemberPairs], lacks: Callable[[int], bool]) -> None:
        self._members = members
        self._lacks = lacks
        self.refused: dict[int, str] = {}
        self.not_before = [0.0] * len(members)  # no Child SA more is asked for before then
        self._missing_since: list[float | None] = [None] * len(members)

    def resize(self) -> None:
        """There is one member more, or the last one has gone."""
        count = len(self._members)
        self.not_before = [*self.not_before, 0.0][:count]
        self._missing_since = [*self._missing_since, None][:count]
        self.refused.pop(count, None)

    def begin_anew(self) -> None:
        """Ask a new IKE SA for everything: what its predecessor's peer has refused counts no more."""
        self.refused.clear()
        self.not_before = [0.0] * len(self._members)

    def refuse(self, member: int, reason: str, until: float) -> None:
        """Ask for nothing more for a member until then: the peer has refused it."""
        if member < len(self._members):  # else it has left meanwhile
            self.refused[member] = reason
            self.not_before[member] = until

    def hold(self, member: int, until: float) -> None:
        """Ask for nothing more for a member until then: it has no room."""
        self.not_before[member] = until

    def given(self, member: int) -> None:
        """Note that a member has a Child SA more; if the peer has asked for it, it may be about to ask for others."""
        self.refused.pop(member, None)
        self._missing_since[member] = None

    def is_held(self, member: int, now: float) -> bool:
        """Whether a member is to wait."""
        return now < self.not_before[member]

    def in_need(self, now: float) -> bool:
        """Whether a member that the peer refuses more will soon have nothing to send on."""
        return any(index in self.refused and one.needs_more(now) for index, one in enumerate(self._members))

    def bare(self) -> bool:
        """Whether the peer refuses, and no member has anything to send on."""
        return bool(self.refused) and all(member.bare for member in self._members)

    def shown(self) -> dict[int, str]:
        """Return the members that have nothing, and why the peer gives them nothing."""
        return {index: why for index, why in self.refused.items() if self._members[index].bare}

    def missing(self, sa: IkeSa, asked: Callable[[int], int], now: float) -> list[int]:
        """Return how many Child SAs to ask for now, by member; `asked`: how many have been asked for."""
        return [self._missing(index, sa, asked(index), now) for index in range(len(self._members))]

    def _missing(self, index: int, sa: IkeSa, asked: int, now: float) -> int:
        spares = self.spares(index, sa)
        missing = 0 if spares is None else self._members[index].missing(spares) - asked
        if missing <= 0 or self.is_held(index, now):
            self._missing_since[index] = None
            return 0
        since = self._missing_since[index]
        if since is None:
            since = self._missing_since[index] = now
        is_first = sa.initiator or not sa.peer.is_fwd  # others do not ask by themselves
        return missing if is_first or now >= since + OTHER_SIDE_S else 0

    def spares(self, index: int, sa: IkeSa) -> int | None:
        """Return how many unused pairs a member should have; None: it has no partner, and should have no pair at all.

        0 with a peer that spreads its traffic and is no fwd: it would send on the spares, too, or on nothing else.
        """
        if self._lacks(index):
            return None
        return 0 if sa.peer.spreads and not sa.peer.is_fwd else SPARES
