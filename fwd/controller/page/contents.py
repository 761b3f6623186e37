"""What is on each page: a template and its values, and the same as JSON: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fwd.controller.happened import Event
from fwd.controller.page.inside import Seen, inside_of
from fwd.controller.page.layout import layout
from fwd.controller.page.looks import LOOKS, Look
from fwd.controller.page.replay import Replay
from fwd.controller.page.views import FleetView, HostView, PeeringView
from fwd.controller.page.way import Way
from fwd.controller.page.why import Why, why_host, why_peering

_EVENTS_SHOWN: Final = 200
_EVENTS_OF_HOST: Final = 30


@dataclass(frozen=True)
class Content:
    """A page. `parts`: names of the templates of its parts, each of which changes by itself. `json`: what it shows,
    without how. `live`: it changes while it is looked at.
    """

    title: str
    parts: tuple[str, ...]
    values: Mapping[str, Any]
    json: Any
    fleet: FleetView
    live: bool = True


def map_page(fleet: FleetView, opened: str) -> Content:
    """The first page: the map, why something is not up, and the same as tables."""
    whys = [why for why in map(_why, fleet.troubles) if why is not None]
    hints = [why for host in fleet.hosts if host.look.state == "up" and (why := why_host(host)) is not None]
    values = {
        "fleet": fleet, "map": layout(fleet, opened), "whys": [*whys, *hints], "opened": opened,
        "legend": _legend(),
    }  # fmt: skip
    return Content("Map", ("summary", "acts", "map", "whys", "tables", "clusters"), values, fleet, fleet)


def host_page(fleet: FleetView, kind: str, name: str, events: Iterable[Event], seen: Seen) -> Content | None:
    """A gateway's or a router's page; None: there is none."""
    host = next((one for one in fleet.hosts if (one.kind, one.name) == (kind, name)), None)
    if host is None:
        return None

    # What others say of it, and what it says of what is within.
    pairs = [(peering, pair) for peering in fleet.peerings for pair in peering.pairs if name in (pair.a, pair.b)]
    told = [one for one in events if one.host == name][-_EVENTS_OF_HOST:][::-1]
    why = why_host(host)
    inside = inside_of(seen, fleet.at)
    values = {
        "look": host.look, "old": host.old, "host": host, "pairs": pairs, "why": why, "events": told,
        "plot": inside.plot, "inside": inside,
    }  # fmt: skip

    # The same as JSON, with figures in the place of plots.
    shown = {
        "past": seen.past, "host": host, "pairs": [pair for _, pair in pairs], "why": why, "events": told,
        "members": [
            {"member": one.member, "state": one.look.state, "why": one.why, "bits_s": one.bits_s, "share": one.share,
             "past": seen.pasts.get(one.member.key, ())}
            for one in inside.members
        ],
        "drops": inside.drops,
    }  # fmt: skip
    return Content(
        f"{kind.capitalize()} {name}",
        ("acts", "why", "host", "plot", "members", "drops", "host_pairs", "host_events"),
        values,
        shown,
        fleet,
    )


def peering_page(fleet: FleetView, name: str, made: Sequence[Any]) -> Content | None:
    """A peering's page; None: there is none. `made`: the operations that made it what it is."""
    peering = next((one for one in fleet.peerings if one.name == name), None)
    if peering is None:
        return None
    why = why_peering(peering)
    values = {"look": peering.look, "old": peering.old, "peering": peering, "why": why, "made": made}
    plans = [one.model_dump() for one in made]
    shown = {"peering": peering, "why": why, "operations": plans}
    return Content(f"Peering {name}", ("acts", "why", "peering", "plans"), values, shown, fleet)


def events_page(
    fleet: FleetView, events: Iterable[Event], host: str, what: str, replay: Replay | None = None
) -> Content:
    """What has happened, the last first; of one host, or of one kind, if that is asked for; `replay`: up to then."""
    every = list(events)
    found = [one for one in every if (not host or one.host == host) and (not what or one.what == what)]
    if replay is not None:
        found = [one for one in found if one.at <= replay.at]
    then = replay.fleet if replay is not None else None
    values = {
        "events": found[-_EVENTS_SHOWN:][::-1], "host": host, "what": what,
        "hosts": sorted({one.host for one in every}), "whats": sorted({one.what for one in every}),
        "known": {one.name: one.href for one in fleet.hosts}, "replay": replay, "fleet": then or fleet,
        "map": layout(then) if then is not None else None,
    }  # fmt: skip
    shown = {"events": found} | ({"at": replay.at, "fleet": then} if replay is not None else {})
    return Content("Events", ("replay", "events"), values, shown, then or fleet, live=replay is None)


def path_page(fleet: FleetView, way: Way) -> Content:
    """Which way a flow can go, on the map, too."""
    pairs = [
        {"near": one.near.name, "far": one.far.name, "there": one.there, "back": one.back,
         "takes": one.takes, "takes_back": one.takes_back}
        for one in way.pairs
    ]  # fmt: skip
    values = {
        "fleet": fleet, "way": way, "map": layout(fleet, way.peering), "on_way": way.hosts, "legend": _legend(),
    }  # fmt: skip
    shown = {"asked": way.asked, "error": way.error, "trace": way.trace, "pairs": pairs}
    return Content("Path", ("path", "way", "map") if way.hosts else ("path", "way"), values, shown, fleet)


def operations_page(fleet: FleetView, made: Sequence[Any]) -> Content:
    """The last changes, the last one first."""
    shown = {"operations": [one.model_dump() for one in made]}
    return Content("Changes", ("operations",), {"operations": made}, shown, fleet)


def operation_page(fleet: FleetView, one: Any) -> Content:
    """A change: its plan, how far it has come, and what came of it."""
    return Content(f"{one.act} {one.kind} {one.name}", ("operation",), {"one": one}, one.model_dump(), fleet)


def _legend() -> list[Look]:
    return [one for one in LOOKS.values() if one.state not in ("left", "unknown")]


def _why(one: HostView | PeeringView) -> Why | None:
    return why_host(one) if isinstance(one, HostView) else why_peering(one)
