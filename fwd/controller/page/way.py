"""Which way a flow can go, as `fwd path` tells it of a fleet, with the members and SAs of each pair: pure.

Which slot and gateway a flow takes of several, routers alone know: the page says where to ask. The member is worked out
as the gateway's demux does it, which holds unless its bucket was in use when members came or went.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fwd.controller.members import Member
from fwd.controller.page.views import Facts, FleetView, HostView, PairView
from fwd.controller.place import identity_of
from fwd.controller.way import CARRYING, follow, is_used
from fwd.model.seen import carries
from fwd.model.trace import Trace, flow_of
from fwd.proto.errors import UserError
from fwd.proto.flow import owner_of
from fwd.proto.sample import Flow

FIELDS = ("from", "to", "proto", "sport", "dport")


@dataclass(frozen=True)
class PairWay:
    """A pair that the flow can take. `there`, `back`: the members of either end that are for it; `takes`, `takes_back`:
    which one the flow's hash gives there, of all members of that gateway's peering; None: it tells of none.
    """

    pair: PairView
    near: HostView
    far: HostView
    there: tuple[Member, ...]
    back: tuple[Member, ...]
    takes: int | None = None
    takes_back: int | None = None


@dataclass(frozen=True)
class Way:
    """What is asked, and what came of it. `hosts`: all by which it can go; `ask`: the command that says more, there."""

    asked: Mapping[str, str]
    error: str = ""
    trace: Trace | None = None
    peering: str = ""
    pairs: tuple[PairWay, ...] = ()
    hosts: frozenset[str] = frozenset()
    routers: tuple[HostView, ...] = ()
    ask: str = ""


def way_of(
    facts: Facts, fleet: FleetView, query: Mapping[str, str], members_of: Callable[[str], Sequence[Member]]
) -> Way:
    """Follow the flow that is asked for, if one is."""
    asked = {key: query.get(key, "").strip()[:64] for key in FIELDS}
    asked["proto"] = asked["proto"] or "tcp"
    if not asked["from"] and not asked["to"]:
        return Way(asked)
    try:
        ports = {key: _port(key, asked[key]) for key in ("sport", "dport")}
        flow = flow_of(asked["from"], asked["to"], asked["proto"], ports["sport"], ports["dport"])
    except UserError as error:
        return Way(asked, re.sub(r"--(?=\w)", "", str(error)))

    # The same operation as the command line's, over the same objects.
    found = Trace(flow.as_json())
    told = {
        "vpcs": facts.vpcs, "clusters": facts.clusters, "gateways": facts.gateways, "routers": facts.routers,
        "peerings": facts.peerings, "pairs": facts.pairs,
    }  # fmt: skip
    follow(found, flow, {kind: [dict(one) for one in items] for kind, items in told.items()})
    if "peering" not in found.facts:
        return Way(asked, trace=found)

    # What is drawn: the pairs that carry, with their ends and the routers before them.
    peering = next((one for one in fleet.peerings if one.name == found.facts["peering"]), None)
    hosts = {one.name: one for one in fleet.hosts}
    told_of = {one["name"]: one for one in facts.gateways}
    pairs = []
    for pair in peering.pairs if peering is not None else ():
        near, far = hosts.get(pair.a), hosts.get(pair.b)
        if near is None or far is None or not carries({"state": pair.look.state}):
            continue
        if not {near.look.state, far.look.state} <= set(CARRYING):
            continue
        if near.vpc != found.facts["vpcs"][0]:
            near, far = far, near
        sending = {one.name for one in fleet.hosts if (one.kind, one.vpc) == ("router", near.vpc)}
        if sending and not is_used(told_of[near.name], sending):
            continue
        nears, fars = members_of(near.name), members_of(far.name)
        there, back = _towards(far.name, pair.peering, nears), _towards(near.name, pair.peering, fars)
        takes, takes_back = _by_hash(flow, pair.peering, nears), _by_hash(flow.back, pair.peering, fars)
        pairs.append(PairWay(pair, near, far, there, back, takes, takes_back))
    routers = tuple(one for one in fleet.hosts if one.kind == "router" and one.vpc in found.facts["vpcs"])
    on_it = {host.name for one in pairs for host in (one.near, one.far)} | {one.name for one in routers}
    return Way(asked, "", found, found.facts["peering"], tuple(pairs), frozenset(on_it), routers, _command(asked))


def _towards(gateway: str, peering: str, members: Sequence[Member]) -> tuple[Member, ...]:
    """Return those of a gateway's members that are paired with another gateway's."""
    return tuple(one for one in members if (one.peering, one.far) == (peering, identity_of(gateway)))


def _by_hash(flow: Flow, peering: str, members: Sequence[Member]) -> int | None:
    """Return the member that a flow's bucket is of, of those that have any."""
    with_buckets = sorted(one.index for one in members if one.peering == peering and one.buckets)
    return owner_of(flow.bucket, with_buckets) if with_buckets else None


def _port(key: str, text: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        raise UserError(f"{key}: {text!a} is no port: 1 to 65535")
    return int(text)


def _command(asked: Mapping[str, str]) -> str:
    words = [word for key in FIELDS if asked[key] for word in (f"--{key}", asked[key])]
    return shlex.join(["fwd", "path", *words])
