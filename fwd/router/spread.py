"""Which gateway of a spread may be used for what, and which slots change hands: pure.

What is known of a gateway is its configuration, its probes and what its beacon says of the peering. One of which the
peering's packets would not pass is as good as down, since the far side is not reached by it. One whose pair loses
packets gets a smaller share, and is not taken out; of no spread more than half are judged so, since then it is likely
not the gateways.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from fwd.model import router as model
from fwd.proto.probe import peering_id
from fwd.router.reach import Reach
from fwd.router.slots import NOBODY, SLOTS, Hop, Moves, Use, moves, wish

GRAY_LOSS: Final = 0.02  # from here on a gateway's share is less
CLEAR_LOSS: Final = 0.005  # and until here it stays so
GRAY_SHARE: Final = 0.25  # of its weight
BEYOND: Final = "no device of this router has it on its link"


@dataclass(frozen=True)
class Seen:
    """A gateway as it is now. `why`: what keeps it from being used for all; empty if nothing does."""

    hop: Hop
    why: str = ""
    gray: bool = False


class Spread:
    """One spread's gateways. Its tables, one for each IP version, are the caller's (`serving`)."""

    def __init__(self, wanted: model.Spread) -> None:
        self.wanted = wanted
        self._id = peering_id(wanted.name)
        self._draining_since: dict[str, float] = {}
        self._gray: frozenset[str] = frozenset()
        self.seen: tuple[Seen, ...] = ()

    def change(self, wanted: model.Spread) -> None:
        """Take another configuration of the same spread. Who has gone is seen no more, also before the next look."""
        self.wanted = wanted
        there = {one.name for one in wanted.gateway}
        self.seen = tuple(seen for seen in self.seen if seen.hop.name in there)

    def look(self, reaches: Mapping[str, Reach], now: float, beyond: Collection[str] = ()) -> tuple[Seen, ...]:
        """Judge all gateways anew. `beyond`: those that are on no link of this host."""
        self._gray = self._judge_loss(reaches)
        self.seen = tuple(self._judge(one, reaches[one.name], now, beyond) for one in self.wanted.gateway)
        return self.seen

    def _judge(self, one: model.Hop, reach: Reach, now: float, beyond: Collection[str]) -> Seen:
        said = reach.said.peerings.get(self._id) if reach.said is not None else None
        drains = one.state == "draining" or (reach.said is not None and reach.said.draining)
        since = self._draining_since.setdefault(one.name, now) if drains else now
        if not drains:
            self._draining_since.pop(one.name, None)
        gray = one.name in self._gray
        weight = one.weight * (GRAY_SHARE if gray else 1.0)

        if one.name in beyond:
            return Seen(Hop(one.name, Use.DOWN, weight), BEYOND)
        if not reach.up:
            return Seen(Hop(one.name, Use.DOWN, weight), "does not answer probes")
        if said is None:
            return Seen(Hop(one.name, Use.DOWN, weight), f"has no peering {self.wanted.name}")
        if not said.passes:
            return Seen(Hop(one.name, Use.DOWN, weight), "cannot reach the far side")
        if drains and now >= since + self.wanted.drain_deadline:
            return Seen(Hop(one.name, Use.LEAVING, weight), "drained")
        if drains:
            return Seen(Hop(one.name, Use.DRAINING, weight), "is being drained")
        return Seen(Hop(one.name, Use.UP, weight), "loses packets" if gray else "", gray)

    def _judge_loss(self, reaches: Mapping[str, Reach]) -> frozenset[str]:
        """Who loses too much, with a distance between the two verdicts; nobody if that were more than half."""
        losses = {}
        for one in self.wanted.gateway:
            reach = reaches[one.name]
            said = reach.said.peerings.get(self._id) if reach.said is not None else None
            losses[one.name] = max(reach.loss, said.loss if said is not None else 0.0)
        gray = {name for name, loss in losses.items() if loss >= (CLEAR_LOSS if name in self._gray else GRAY_LOSS)}
        return frozenset(gray) if 2 * len(gray) <= len(losses) else frozenset()

    def moves(self, serving: Sequence[str], idle_s: Sequence[float]) -> Moves:
        """Say which slots of a table change hands now, by what was seen last."""
        hops = [seen.hop for seen in self.seen]
        return moves(serving, hops, idle_s, wish(hops), self.wanted.idle_ms / 1000)

    def begin(self) -> tuple[str, ...]:
        """Say who serves each slot of a table that has not been there before."""
        return wish([seen.hop for seen in self.seen]) if self.seen else (NOBODY,) * SLOTS
