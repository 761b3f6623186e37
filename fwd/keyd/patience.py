"""How long keyd may leave a peering alone in which nothing is under way, and what tells it that something is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fwd.datapath.shared import REST_MAX_S, LinkWord, MemberShared, ProcessWords
from fwd.keyd.pairs import MemberPairs
from fwd.keyd.renewal import anew_at
from fwd.model.config import Peering
from fwd.proto.ike.sa import IkeSa

TICK_S: Final = 0.1  # while something is under way that only time shows
GLANCE_S: Final = 0.4  # between looks at the members' shared words, which tell what nobody sends
_SLACK = 0.1  # share of its time by which a timer of a peering at rest may be late, and for GLANCE_S at most
_NEAR_TICK_S = 0.5  # while a NAT's mapping is to be kept, or the peer's certificate ends within _NEAR_S
_NEAR_S = 7200.0
_REAUTH_SHARE = 0.05  # of `reauth_time`: how much later than that is on time
_INCARNATION, _SPI_OUT, _RX_TAKEN = ProcessWords.INCARNATION, LinkWord.SPI_OUT.value, LinkWord.RX_TAKEN.value


def patience_s(
    peering: Peering,
    sa: IkeSa | None,
    members: Sequence[MemberPairs],
    spares: Sequence[int | None] | None,
    not_before: Sequence[float],
    now: float,
) -> float:
    """Seconds until a peering is to be looked at; TICK_S if something is under way.

    `spares`: how many pairs beyond the one in use each member should have (None: there is nobody to ask for them, or it
    has no partner), and `not_before`: when it may be asked for more.
    """
    for member, at, wanted in zip(members, not_before, spares or [None] * len(members), strict=True):
        if not member.is_at_rest(now) or (wanted is not None and now >= at and member.missing(wanted) > 0):
            return TICK_S
    times = [*(member.next_renewal() for member in members), *not_before]
    most_s = REST_MAX_S
    if sa is not None and (anew_at(sa.standing) - now < _NEAR_S or (sa.peer.sees_nat and peering.shared_port)):
        most_s = _NEAR_TICK_S
    if peering.ike is not None and peering.ike.reauth_time:
        most_s = min(most_s, peering.ike.reauth_time * _REAUTH_SHARE)
    return max(TICK_S, min([most_s, *(at - now for at in times if at is not None and at > now)]))


def together_at(at: float, now: float) -> float:
    """Return until when a timer of a peering at rest may wait for keyd to be awake for another."""
    return at + min(GLANCE_S, max(0.0, at - now) * _SLACK)


class Glance:
    """At the members' words: which incarnation of each lives, what it sends on, how much it has received.

    keyd takes it each GLANCE_S at all members of all peerings: the words are read where they lie.
    """

    def __init__(self, members: Sequence[MemberShared]) -> None:
        self._members = members
        self.forget()

    def forget(self) -> None:
        """Have them looked at soon, whoever they are by now; of those that were nothing is held any more."""
        self._words: list[tuple[memoryview, memoryview]] = []
        self._taken: list[tuple[int, ...]] | None = None

    def take(self) -> None:
        """Remember what they say, whoever they are by now."""
        self._words = [(one.process.table, one.link) for one in self._members]
        self._taken = self._look()

    def is_new(self) -> bool:
        """Whether they say anything else by now."""
        return self._look() != self._taken

    def _look(self) -> list[tuple[int, ...]]:
        return [(process[_INCARNATION], link[_SPI_OUT], link[_RX_TAKEN]) for process, link in self._words]
