"""Decide which gateway serves which slot of a router's table: pure, and the same on every router.

A flow hashes to one of SLOTS slots in the kernel; here is decided who serves a slot, and when one may change hands.
The wish comes of weighted rendezvous hashing, so a gateway that leaves takes its own slots alone along, and one that
joins takes its share from each. What is in force follows the wish as rule 3 says of buckets: a busy slot stays
with a gateway that can serve it; an idle one moves at once; all of a gateway that is down move at once; those of one
that is being drained move when they are idle, or at the end of its time.

Refuses: a weight that is not above zero, and two gateways of one name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from xxhash import xxh3_64_intdigest as _xxh

SLOTS: Final = 256
NOBODY: Final = ""  # who serves a slot while there is no gateway at all
_UNIT: Final = 2.0**-64


class Use(Enum):
    """What a gateway may be used for."""

    UP = "up"  # all
    DRAINING = "draining"  # what it has, until it is idle or its time is over
    LEAVING = "leaving"  # what it has, until now: its time is over
    DOWN = "down"  # nothing


@dataclass(frozen=True)
class Hop:
    """A gateway as a router sees it. `weight`: its share is this over the sum of all."""

    name: str
    use: Use = Use.UP
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight > 0.0 or math.isinf(self.weight):
            raise ValueError(f"the weight of gateway {self.name} is {self.weight}: it must be above zero")


@dataclass(frozen=True)
class Moves:
    """What is to be done now. `to`: slots and who serves them from now on. `waiting`: how many busy slots are to move
    when they are idle."""

    to: Mapping[int, str]
    waiting: int


def wish(hops: Sequence[Hop]) -> tuple[str, ...]:
    """Say who should serve each slot; NOBODY for all if there is no gateway.

    Gateways that are up serve; if none is, those that are being drained; if none of these is left, all, since a set of
    which all seem to be down stays as it is.
    """
    if len({hop.name for hop in hops}) != len(hops):
        raise ValueError("two gateways of one name")
    if not hops:
        return (NOBODY,) * SLOTS
    serving = [hop for hop in hops if hop.use is Use.UP]
    serving = serving or [hop for hop in hops if hop.use is not Use.DOWN] or list(hops)
    return tuple(max(serving, key=lambda hop: _score(slot, hop)).name for slot in range(SLOTS))


def _score(slot: int, hop: Hop) -> tuple[float, str]:
    """Score a gateway for a slot: the highest wins in proportion to its weight (Efraimidis and Spirakis, 2006)."""
    drawn = (_xxh(hop.name.encode(), slot) + 0.5) * _UNIT
    return hop.weight / -math.log(drawn), hop.name


def moves(
    serving: Sequence[str], hops: Sequence[Hop], idle_s: Sequence[float], wished: Sequence[str], quiet_s: float
) -> Moves:
    """Say which slots change hands now.

    `serving`: who serves each slot. `idle_s`: for how long each slot has carried nothing. `wished`: what `wish` says.
    `quiet_s`: a slot that has carried nothing for so long is idle.
    """
    use = {hop.name: hop.use for hop in hops}
    all_down = all(one is Use.DOWN for one in use.values())  # then the last set stays
    to: dict[int, str] = {}
    waiting = 0
    for slot, (owner, wanted) in enumerate(zip(serving, wished, strict=True)):
        if owner == wanted:
            continue
        if all_down and owner in use:
            continue
        if use.get(owner) in (Use.UP, Use.DRAINING) and idle_s[slot] < quiet_s:
            waiting += 1
        else:
            to[slot] = wanted
    return Moves(to, waiting)


def shares(serving: Sequence[str]) -> dict[str, float]:
    """Say which share of the slots each gateway serves."""
    return {name: serving.count(name) / len(serving) for name in sorted(set(serving))}
