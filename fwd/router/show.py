"""What there is to see of a router: one JSON object, and whether it is ready.

Ready means that the kernel has all that is wanted, and that each spread has a gateway that carries its packets. A
controller is told less: of each gateway how it is reached from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fwd import __version__
from fwd.router.reach import Reach
from fwd.router.slots import Use, shares
from fwd.router.spread import BEYOND, Seen
from fwd.router.tables import Place
from fwd.supervise.kernel import Own

SCHEMA: Final = "fwd-router/1"


def shown(
    places: Mapping[str, Place],
    reaches: Mapping[str, Reach],
    troubles: Mapping[str, str],
    late: int,
    now: float,
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """Show everything. `late`: how often the router's own loop had no say; `more`: other reasons not to be ready."""
    reasons = [*more, *(f"{what}: {why}" for what, why in sorted(troubles.items()))]
    if not places:
        reasons.append("nothing to carry: no spread yet")
    for name, place in places.items():
        if not place.spread.wanted.gateway:
            reasons.append(f"{name}: it has no gateway, and nothing goes there")
        elif not place.spread.seen:
            reasons.append(f"{name}: the gateways have not had their first probes yet")
        elif not any(seen.hop.use is not Use.DOWN for seen in place.spread.seen):
            reasons.append(f"{name}: no gateway can carry its packets; the last set stays")
    return {
        "schema": SCHEMA,
        "version": __version__,
        "ready": not reasons,
        "reasons": reasons,
        "late": late,
        "spreads": [_spread(name, place, reaches, now) for name, place in places.items()],
    }


def _spread(name: str, place: Place, reaches: Mapping[str, Reach], now: float) -> dict[str, Any]:
    addresses = {one.name: [str(address) for address in one.addresses] for one in place.spread.wanted.gateway}
    served = {str(table.version): shares(table.serving) for table in place.tables}
    return {
        "name": name,
        "waiting": sum(table.waiting for table in place.tables),
        "gateways": [
            {"addresses": addresses.get(seen.hop.name, []), **_gateway(seen, reaches[seen.hop.name], served, now)}
            for seen in place.spread.seen
        ],
    }


def _gateway(seen: Seen, reach: Reach, served: Mapping[str, Mapping[str, float]], now: float) -> dict[str, Any]:
    name = seen.hop.name
    return {
        "name": name,
        "use": seen.hop.use.value,
        "why": seen.why,
        "up": reach.up and seen.why != BEYOND,
        "judged": reach.judged or seen.why == BEYOND,
        "weight": seen.hop.weight,
        "share": {version: round(one.get(name, 0.0), 4) for version, one in served.items()},
        "rtt_ms": round(1000 * reach.rtt_s, 3) if reach.rtt_s is not None else None,
        "loss": round(reach.loss, 3),
        "heard_s": round(now - reach.heard_at, 3) if reach.heard_at > 0 else None,
    }


_LINES_MAX: Final = 16
_LINE_CHARACTERS_MAX: Final = 300
_LINKS_MAX: Final = 64


def summary(whole: Mapping[str, Any], near: Sequence[Own]) -> dict[str, Any]:
    """Return what a controller is told of `shown`, each gateway once, by the spread in which it is worst; and of the
    addresses and networks `near`, by which gateways know it, and on which they can be. Of a gateway that has just been
    named, and may be coming up, there is nothing to tell yet.
    """
    gateways: dict[str, dict[str, Any]] = {}
    for spread in whole["spreads"]:
        for one in (one for one in spread["gateways"] if one["judged"]):
            row = {key: one[key] for key in ("name", "up", "use", "why", "rtt_ms", "loss")}
            of_versions = one["share"].values()
            row["share"] = round(sum(of_versions) / max(len(of_versions), 1), 4)  # so that all gateways' are 1
            before = gateways.get(one["name"])
            if before is None or (before["use"] == Use.UP.value and one["use"] != Use.UP.value):
                gateways[one["name"]] = row
    return {
        "ready": whole["ready"],
        "draining": False,
        "waiting": [line[:_LINE_CHARACTERS_MAX] for line in whole["reasons"][:_LINES_MAX]],
        "gateways": list(gateways.values()),
        "addresses": [str(one.address) for one in near[:_LINKS_MAX]],
        "links": sorted({str(one.network) for one in near[:_LINKS_MAX]}),
    }
