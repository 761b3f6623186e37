"""What routers say that they send to each gateway, and what a change moves of it: pure.

A router's word is believed while it is fresh, and of gateways of its own VPC.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
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


def moved(
    before: Fleet, after: Fleet, shares: Mapping[str, Sequence[Share]], down: Collection[str] = ()
) -> Iterator[str]:
    """Say which share of flows a change moves, and how: of gateways that are drained, or that leave. `down`: gateways
    that take none over.
    """
    deadlines_s = {one.name: one.drain_deadline for one in after.routers}
    was, used = ({name for one in fleet.clusters for name in one.gateways} for fleet in (before, after))
    for name in sorted(was):
        if name not in used:
            how = "go by the others at once, busy ones too: one that is drained first has none"
        elif (before.gateway[name].state, after.gateway[name].state) == ("active", "draining"):
            how = "go by the others as they fall idle; those that are busy do so after {deadline_s} s"
        else:
            continue

        # Where nobody is left who would take them, they stay, or are dropped.
        drains = name in used
        alone = [one for one in _peered(before, name) if not _takers(after, one, down, active=drains) - {name}]
        for cluster in alone:
            if drains:
                yield f"gateway {name} keeps its flows while it drains: cluster {cluster} has no other that carries"
            else:
                yield f"cluster {cluster} has no other gateway that carries: flows of gateway {name} are dropped"
        if alone:
            continue
        for one in shares.get(name, ()):
            if one.share > 0:
                said = how.format(deadline_s=deadlines_s.get(one.router))
                yield f"router {one.router}: {one.share:.1%} of its flows, which are gateway {name}'s, {said}"


def _peered(fleet: Fleet, gateway: str) -> list[str]:
    """Name the clusters of a gateway that are peered."""
    peered = {name for one in fleet.peerings for name in one.clusters}
    return [one.name for one in fleet.clusters if gateway in one.gateways and one.name in peered]


def _takers(fleet: Fleet, cluster: str, down: Collection[str], *, active: bool) -> set[str]:
    """Name the gateways of a cluster that take flows over; those that drain do if there are no `active` ones."""
    names = fleet.cluster[cluster].gateways if cluster in fleet.cluster else ()
    return {name for name in names if name not in down and not (active and fleet.gateway[name].state != "active")}
