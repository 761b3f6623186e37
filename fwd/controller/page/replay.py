"""A fleet as it was at a moment of the last hour: what there is now, with the states of then: pure.

What came later is left out. What was deleted since cannot be drawn, and the events tell of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from fwd.controller.page.views import Facts, FleetView, Json, fleet_view
from fwd.controller.past import HOUR_S, Past, States

STEP_S: Final = 5


@dataclass(frozen=True)
class Replay:
    """A moment. `offset_s`: from now, negative; `fleet`: None: nothing is known of it."""

    offset_s: int
    at: float
    began_at: float | None
    fleet: FleetView | None


def offset_in(text: str) -> int | None:
    """Read how long ago a moment is; None: none is asked for, and the page is of now."""
    try:
        number = float(text)
    except ValueError:
        return None
    if math.isnan(number):
        return None
    return -STEP_S * round(min(max(-number, 0.0), HOUR_S) / STEP_S)


def replay_of(facts: Facts, past: Past, offset_s: int) -> Replay:
    """Say how it was."""
    at = facts.at + offset_s
    states = past.at(at)
    return Replay(offset_s, at, past.began_at, fleet_view(_then(facts, states, at)) if states is not None else None)


def _then(facts: Facts, states: States, at: float) -> Facts:
    def of(kind: str, items: Sequence[Json]) -> list[dict[str, Any]]:
        found = [(one, states.get(key_of(kind, one["name"]))) for one in items]
        return [dict(one) | {"health": {"state": state}} for one, state in found if state is not None]

    gateways, routers = of("gateway", facts.gateways), of("router", facts.routers)
    here = {one["name"] for one in gateways}
    clusters = [{**one, "gateways": [name for name in one["gateways"] if name in here]} for one in facts.clusters]
    pairs = [
        {**one, "state": state, "rtt_ms": None, "loss": 0.0}
        for one in facts.pairs
        if (state := states.get(key_of("pair", one["peering"], one["a"], one["b"]))) is not None
    ]
    peerings = [
        {**one, "state": state}
        for one in facts.peerings
        if (state := states.get(key_of("peering", one["name"]))) is not None
    ]
    return replace(
        facts, at=at, gateways=gateways, routers=routers, clusters=clusters, pairs=pairs, peerings=peerings,
        heard=dict.fromkeys((one["name"] for one in (*gateways, *routers)), at), bits_s={}, shares={}, since={},
    )  # fmt: skip


def key_of(kind: str, *names: str) -> str:
    """By what a state is kept: names have no blanks."""
    return " ".join((kind, *names))


def states_in(facts: Facts) -> dict[str, str]:
    """Say how everything is, as it is kept."""
    hosts = [("gateway", one) for one in facts.gateways] + [("router", one) for one in facts.routers]
    found = {key_of(kind, one["name"]): str((one.get("health") or {}).get("state")) for kind, one in hosts}
    found |= {key_of("peering", one["name"]): str(one.get("state")) for one in facts.peerings}
    return found | {key_of("pair", one["peering"], one["a"], one["b"]): str(one.get("state")) for one in facts.pairs}
