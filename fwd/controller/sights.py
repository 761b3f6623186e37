"""What hosts say of others, sorted once a turn by whom it is about: pure.

Of what a host says no more counts than it can see: a router tells which gateways of its own VPC it reaches, a gateway
how the other ends of its own pairs are, and which routers of its VPC have probed it. Whatever else a host says of
others is not looked at, however much it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from fwd.controller.health import FRESH_S, Sight
from fwd.controller.place import Pair, address_of, identity_of
from fwd.model.fleet import Fleet, Router
from fwd.proto.text import line_of

TABLES_MAX: Final = 64  # of each list in a status
WHY_MAX: Final = 100
PROBED_S: Final = 1.0  # since a router's last probe, of which ten go in a second
_Said = Mapping[str, tuple[float, Mapping[str, Any]]]


@dataclass(frozen=True)
class Sights:
    """What is seen of each host by routers and by partners, and what both ends of each pair say. The partners of a
    router that is silent are the gateways that it probes.
    """

    routers: Mapping[str, list[Sight]] = field(default_factory=dict)
    partners: Mapping[str, list[Sight]] = field(default_factory=dict)
    pairs: Mapping[Pair, list[Sight]] = field(default_factory=dict)


def sights_in(fleet: Fleet, pairs: Sequence[Pair], said: _Said, now: float) -> Sights:
    """Sort what hosts have said: by host when, and its status."""
    fresh = {host: one for host, one in said.items() if now - one[0] <= FRESH_S}
    routers: dict[str, list[Sight]] = defaultdict(list)
    for router in fleet.routers:
        if router.name in fresh:
            at, status = fresh[router.name]
            for table in _tables(status.get("gateways")):
                gateway = fleet.gateway.get(str(table.get("name")))
                if gateway is not None and gateway.vpc == router.vpc:
                    why = line_of(table.get("why", ""), WHY_MAX) if table.get("use") == "down" else ""
                    seen = _sight(router.name, at, table, table.get("up") is True)
                    routers[gateway.name].append(replace(seen, why=why))

    partners: dict[str, list[Sight]] = defaultdict(list)
    of_pairs: dict[Pair, list[Sight]] = defaultdict(list)
    for pair, host, other, alone in _ends(pairs):
        if host in fresh and (sight := _of_pair(fleet, pair, host, other, fresh[host], alone=alone)):
            partners[other].append(sight)
            of_pairs[pair].append(sight)
    for router in fleet.routers:
        if router.name not in fresh or fresh[router.name][1].get("stalled") is True:
            partners[router.name] = list(_of_router(fleet, router, said, fresh))
    return Sights(routers, partners, of_pairs)


def _of_router(fleet: Fleet, router: Router, said: _Said, fresh: _Said) -> Iterable[Sight]:
    """Which gateways are probed by a router: from one of the addresses that it has, or had when it spoke last."""
    _, last = said.get(router.name, (0.0, {}))
    own = {str(one) for one in router.inner} | {str(one) for one in _list(last.get("addresses"))}
    near = {name for one in fleet.peerings for name in one.clusters if fleet.cluster[name].vpc == router.vpc}
    for name in sorted({gateway for cluster in near for gateway in fleet.cluster[cluster].gateways}):
        at, status = fresh.get(name, (0.0, {}))
        if isinstance(heard := status.get("routers"), dict):
            ages = [age for age in (number_in(heard.get(address)) for address in own) if age is not None]
            yield Sight(name, at, min(ages, default=PROBED_S) < PROBED_S)


def _ends(pairs: Sequence[Pair]) -> Iterable[tuple[Pair, str, str, bool]]:
    """Both ends of each pair, the other one, and whether that is the only one that it has in this peering."""
    count: dict[tuple[str, str], int] = defaultdict(int)
    for pair in pairs:
        count[pair.peering, pair.a] += 1
        count[pair.peering, pair.b] += 1
    for pair in pairs:
        for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
            yield pair, host, other, count[pair.peering, host] == 1


def _of_pair(
    fleet: Fleet, pair: Pair, host: str, other: str, said: tuple[float, Mapping[str, Any]], *, alone: bool
) -> Sight | None:
    """Of several partners a peering's own state says nothing, but `far` does, by identity or address."""
    at, status = said
    table = next((one for one in _tables(status.get("peerings")) if one.get("name") == pair.peering), None)
    if table is None:
        return None
    peering = next((one for one in fleet.peerings if one.name == pair.peering), None)
    gateway = fleet.gateway.get(other)
    names = {identity_of(other)}
    if peering is not None and gateway is not None:
        names.add(address_of(fleet, peering, gateway))
    for one in _tables(table.get("far")):
        if {str(one.get("identity")), str(one.get("address"))} & names:
            own = {key: one.get(key, table.get(key) if alone else None) for key in ("rtt_ms", "loss")}
            return _sight(host, at, own, one.get("up") is True)
    return _sight(host, at, table, table.get("ready") is True) if alone else None


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in _list(value) if isinstance(one, dict)]


def _list(value: object) -> list[Any]:
    return value[:TABLES_MAX] if isinstance(value, list) else []


def _sight(by: str, at: float, table: Mapping[str, Any], up: bool) -> Sight:
    rtt, loss = (table.get(key) for key in ("rtt_ms", "loss"))
    return Sight(by, at, up, number_in(loss) or 0.0, number_in(rtt))


def number_in(value: object) -> float | None:
    """Read a number that a host has said, which no sum makes too large; None: it is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(min(max(value, 0), 10**9)) if is_number else None  # type: ignore[call-overload]
