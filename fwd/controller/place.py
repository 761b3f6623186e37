"""Who is paired with whom, and what each host is therefore to do: pure.

Two new clusters of n and m gateways are joined by max(n, m) pairs, spread evenly. Pairs that there are stay for as long
as both of their gateways do, so whoever comes or goes touches no SA but its own: a new gateway is paired with the one
on the far side that has the fewest pairs, and so is one whose partners are all gone.
Far gateways that are in a host's `remote_addrs` before and after keep their members there (model/pairing.py).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fwd.model.fleet import MEMBERS_MAX, Fleet, Gateway, Peering, Router

FIRST_PORT: Final = 4500
PORTS_EACH: Final = 512  # of a peering on one host: 64 members with each of 8 partners
DOMAIN: Final = "gateway.fwd"  # under which gateways' identities are


@dataclass(frozen=True, order=True)
class Pair:
    """Two gateways that are joined by a peering's tunnels, by name; `a` is of the peering's first cluster."""

    peering: str
    a: str
    b: str


@dataclass(frozen=True)
class Placement:
    """All pairs, and by host what a gateway's and a router's configuration says."""

    pairs: tuple[Pair, ...]
    gateways: Mapping[str, Mapping[str, Any]]
    routers: Mapping[str, Mapping[str, Any]]


def place(fleet: Fleet, before: Iterable[Pair] = ()) -> Placement:
    """Place a fleet. `before`: the pairs that there are."""
    kept = list(before)
    pairs: list[Pair] = []
    for peering in fleet.peerings:
        a, b = ([one.name for one in fleet.members_of(name)] for name in peering.clusters)
        old = [(one.a, one.b) for one in kept if one.peering == peering.name]
        pairs += [Pair(peering.name, *one) for one in paired(a, b, old)]
    gateways = {one.name: _gateway(fleet, one, pairs) for one in fleet.gateways}
    routers = {one.name: _router(fleet, one) for one in fleet.routers}
    return Placement(tuple(pairs), gateways, routers)


def paired(a: Sequence[str], b: Sequence[str], before: Iterable[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Pair the gateways of two clusters, and change of the pairs before no more than is needed."""
    if not a or not b:
        return []
    pairs = [pair for pair in before if pair[0] in a and pair[1] in b]
    load: Counter[tuple[int, str]] = Counter()
    for one, other in pairs:
        load[0, one] += 1
        load[1, other] += 1

    # Who has no partner gets one, first those that are alone on both sides.
    alone_a, alone_b = [x for x in a if not load[0, x]], [y for y in b if not load[1, y]]
    fresh = list(zip(alone_a, alone_b, strict=False))
    load.update([(0, x) for x, _ in fresh] + [(1, y) for _, y in fresh])
    for x in alone_a[len(fresh) :]:
        y = min(b, key=lambda y: (load[1, y], b.index(y)))
        fresh.append((x, y))
        load.update([(0, x), (1, y)])
    for y in alone_b[len(fresh) :]:
        x = min(a, key=lambda x: (load[0, x], a.index(x)))
        fresh.append((x, y))
        load.update([(0, x), (1, y)])

    return pairs + fresh


def identity_of(gateway: str) -> str:
    """What IKE calls a gateway, and its certificate."""
    return f"{gateway}.{DOMAIN}"


def _gateway(fleet: Fleet, gateway: Gateway, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a gateway's configuration says: a peering for each of the fleet's that it has pairs in."""
    found = []
    for peering in fleet.peerings:
        partners = [fleet.gateway[name] for name in _partners(peering, gateway.name, pairs)]
        if partners:
            mine = 0 if gateway.name in fleet.cluster[peering.clusters[0]].gateways else 1
            found.append(_peering(fleet, peering, gateway, mine, partners))
    number = fleet.vpc[gateway.vpc].probe_number
    # An older gateway would refuse what it does not know.
    names = {one["name"] for one in found}
    rekeys = {one.name: one.rekey_number for one in fleet.peerings if one.name in names and one.rekey_number}
    more = {"rekeys": rekeys} if rekeys else {}
    return {"peering": found, "draining": gateway.state == "draining", "probe_number": number, **more}


def _partners(peering: Peering, gateway: str, pairs: Sequence[Pair]) -> list[str]:
    of_it = [pair for pair in pairs if pair.peering == peering.name]
    return [pair.b for pair in of_it if pair.a == gateway] + [pair.a for pair in of_it if pair.b == gateway]


def _peering(
    fleet: Fleet, peering: Peering, gateway: Gateway, mine: int, partners: Sequence[Gateway]
) -> dict[str, Any]:
    near, far = peering.clusters[mine], peering.clusters[1 - mine]
    each = min(gateway.members, *(one.members for one in partners), max(1, MEMBERS_MAX // len(partners)))
    native = {"native": True} if peering.path == "native" else {}  # outer addresses are in the subnets themselves
    return {
        "name": peering.name,
        "local_addrs": address_of(fleet, peering, gateway),
        "remote_addrs": [address_of(fleet, peering, one) for one in partners],
        "local_ts": [str(one) for one in fleet.cidrs_of(near)],
        "remote_ts": [str(one) for one in fleet.cidrs_of(far)],
        "members": each * len(partners),
        "payload": peering.payload,
        "port": FIRST_PORT + PORTS_EACH * peering.number,
        "tun": "fwd" + hashlib.blake2b(peering.name.encode(), digest_size=4).hexdigest(),
        "local_id": identity_of(gateway.name),
        "remote_id": [identity_of(one.name) for one in partners],
        **native,
    }


def address_of(fleet: Fleet, peering: Peering, gateway: Gateway) -> str:
    """Return the address of a gateway's tunnels: of inner ones that of an IP version that all have."""
    if peering.path == "internet":
        return str(gateway.outer)
    everybody = [one for name in peering.clusters for one in fleet.members_of(name)]
    common = next((v for v in (4, 6) if all(one.address(v) for one in everybody)), gateway.inner[0].version)
    return str(gateway.address(common))


def _router(fleet: Fleet, router: Router) -> dict[str, Any]:
    """What a router's configuration says: a spread for each peering of its VPC. One without gateways stays: what is for
    its subnets is to take no other way."""
    found = []
    for peering in fleet.peerings:
        for near, far in (peering.clusters, peering.clusters[::-1]):
            if fleet.cluster[near].vpc == router.vpc:
                found.append(
                    {
                        "name": peering.name,
                        "remote_ts": [str(one) for one in fleet.cidrs_of(far)],
                        "gateway": [_hop(one) for one in fleet.members_of(near)],
                        "drain_deadline": router.drain_deadline,
                    }
                )
    return {"spread": found, "probe_number": fleet.vpc[router.vpc].probe_number}


def _hop(gateway: Gateway) -> dict[str, Any]:
    addresses = [str(one) for one in gateway.inner]
    return {"name": gateway.name, "addresses": addresses, "weight": gateway.weight, "state": gateway.state}
