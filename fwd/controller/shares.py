"""What routers say that they send to each gateway, and what a change moves of it: pure.

A router's word is believed while it is fresh, and of gateways of its own VPC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fwd.controller.health import FRESH_S
from fwd.controller.sights import TABLES_MAX, number_in
from fwd.controller.watch import Beat
from fwd.model.fleet import Fleet


@dataclass(frozen=True)
class Share:
    """What a router gives to a gateway of its VPC's flows, 0 to 1, and the round trip between them."""

    router: str
    share: float
    rtt_ms: float | None = None


def shares_in(fleet: Fleet, beats: Mapping[str, Beat], now: float) -> dict[str, list[Share]]:
    """Read by gateway which share each router gives to it."""
    found: dict[str, list[Share]] = {}
    for router in fleet.routers:
        beat = beats.get(router.name)
        rows = beat.status.get("gateways") if beat and now - beat.at <= FRESH_S else None
        for one in rows[:TABLES_MAX] if isinstance(rows, list) else ():
            share = number_in(one.get("share")) if isinstance(one, dict) else None
            gateway = fleet.gateway.get(str(one.get("name"))) if share is not None else None
            if gateway is not None and share is not None and gateway.vpc == router.vpc:
                told = Share(router.name, min(share, 1.0), number_in(one.get("rtt_ms")))
                found.setdefault(gateway.name, []).append(told)
    return found


def moved(before: Fleet, after: Fleet, shares: Mapping[str, Sequence[Share]]) -> Iterator[str]:
    """Say which share of flows a change moves, and how: of gateways that are drained, or that leave."""
    deadlines_s = {one.name: one.drain_deadline for one in after.routers}
    was, used = ({name for one in fleet.clusters for name in one.gateways} for fleet in (before, after))
    for name in sorted(was):
        if name not in used:
            how = "go by the others at once, busy ones too: one that is drained first has none"
        elif (before.gateway[name].state, after.gateway[name].state) == ("active", "draining"):
            how = "go by the others as they fall idle; those that are busy do so after {deadline_s} s"
        else:
            continue
        for one in shares.get(name, ()):
            if one.share > 0:
                said = how.format(deadline_s=deadlines_s.get(one.router))
                yield f"router {one.router}: {one.share:.1%} of its flows, which are gateway {name}'s, {said}"
