"""What is within a gateway, as its page shows it: its members, each with its last hour, and what it drops: pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fwd.controller.flows import Points
from fwd.controller.members import Drop, Key, Member
from fwd.controller.page.looks import Look, look_of
from fwd.controller.page.plot import Plot, plot_of, round_up, small_plot_of

_BUCKETS: Final = 65536  # of a peering's flow table


@dataclass(frozen=True)
class Seen:
    """What is known of a gateway from its heartbeats. `past`: its last hour, `pasts`: that of its members."""

    members: Sequence[Member] = ()
    bits_s: Mapping[Key, float] = field(default_factory=dict)
    past: Points = ()
    pasts: Mapping[Key, Points] = field(default_factory=dict)
    drops: Sequence[Drop] = ()


@dataclass(frozen=True)
class MemberView:
    """A member. `share`: of its peering's flows, by the flow table. `why`: it does not carry."""

    member: Member
    look: Look
    why: str
    bits_s: float | None
    share: float | None
    plot: Plot | None


@dataclass(frozen=True)
class Inside:
    """See the module. `most`: what the upper edge of each member's plot means."""

    members: tuple[MemberView, ...]
    most: float
    plot: Plot | None
    drops: tuple[Drop, ...]


def inside_of(seen: Seen, at: float) -> Inside:
    """Say what is within. All members are drawn to one measure, so that they can be compared."""
    most = round_up(max((value for points in seen.pasts.values() for _, value in points), default=0.0))
    members = tuple(
        MemberView(
            one, look_of("down" if (why := _why(one)) else "up"), why, seen.bits_s.get(one.key),
            one.buckets / _BUCKETS if one.buckets is not None else None,
            small_plot_of(seen.pasts.get(one.key, ()), at, most),
        )
        for one in sorted(seen.members, key=lambda one: one.key)
    )  # fmt: skip
    return Inside(members, most, plot_of(seen.past, at), tuple(seen.drops))


def _why(one: Member) -> str:
    if one.state != "running":
        return f"its process is {one.state or 'not known'}"
    if not one.spi_out:
        return "it has no SA to send on"
    return "" if one.path == "up" else "the far member does not answer its echoes"
