"""When a member that leaves gives up its flows, and when it may go: decisions as pure functions of state and time.

    leaves ──▶ STAYS   no new bucket is its own; busy ones stay, and go to others when they fall idle
               MOVES   from its deadline on: what is still busy goes, in order (datapath/parking.py)
               GOES    nothing is its own, and nothing has come for it for QUIET_S; or it is LATE_S past its deadline

The far demux drains the pair, too, once it has been told (keyd/partners.py); a bucket there is idle after a second, so
after QUIET_S of silence none is this member's. A peer that knows nothing of it has until the deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fwd.model.pairing import Far

QUIET_S: Final = 3.0  # more than twice the time after which a bucket is idle (datapath.demux)
LATE_S: Final = 5.0  # after its deadline: the far side may have begun a little later


class Stage(Enum):
    STAYS = auto()
    MOVES = auto()
    GOES = auto()


@dataclass
class Leaving:
    """One member that gets no more buckets, as the supervisor saw it last."""

    began_at: float
    heard: int = -1  # records that have come for it
    heard_at: float = 0.0  # when there was one more


@dataclass(frozen=True)
class Seen:
    """What is seen of it now."""

    heard: int
    buckets: int  # that are its own
    waits: bool  # records wait in its ring


def leaving(members: int, wanted: int, far: int) -> range:
    """Return those of `members` that get no more buckets: they are to leave, or the far side (0: unknown) has fewer."""
    return range(min(members, wanted, far or members), members)


def leaving_seats(fars: Sequence[Far], members: int, far: int) -> list[int]:
    """Return the same where far gateways have come or gone: of each one's members the last ones leave."""
    each = [(one.members(members), min(one.keeps, far or members)) for one in fars]
    return sorted(seat for there, keeps in each for seat in there[keeps:])


def stage(one: Leaving, seen: Seen, deadline_s: float, now: float) -> Stage:
    """Decide about a member that leaves; takes note of what has come for it."""
    if seen.heard != one.heard:
        one.heard, one.heard_at = seen.heard, now
    quiet = now - max(one.began_at, one.heard_at) >= QUIET_S
    if (quiet and not seen.buckets and not seen.waits) or now >= one.began_at + deadline_s + LATE_S:
        return Stage.GOES
    return Stage.MOVES if now >= one.began_at + deadline_s else Stage.STAYS
