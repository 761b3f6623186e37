"""What pages show of a fleet, as values: pure. In: what the API shows of it (`Facts`). Out: VPCs with their clusters,
gateways and routers, peerings with their pairs, each with its state, reason and age.

Nothing that a host has said is believed to be of a form: what is missing or of another form is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.controller.page.looks import Look, counted, look_of, summed
from fwd.controller.shares import Share

Json = Mapping[str, Any]
SHOWN_MAX: Final = 6  # gateways of a cluster that are drawn one by one
_GRAY_AFTER_S: Final = 5.0  # what was heard of a host is old from then on
_CARRY: Final = ("up", "degraded", "unreachable", "draining")


@dataclass(frozen=True)
class Facts:
    """What is known, in the API's forms. `at`: when, by the wall clock. `heard`: by host when it was heard last.
    `bits_s`: by peering, pair end or host, as (name, name), what goes through it. `shares`: by gateway. `since`: by
    peering; of whatever is not in it that was before `listens_since`.
    """

    at: float
    vpcs: Sequence[Json] = ()
    gateways: Sequence[Json] = ()
    clusters: Sequence[Json] = ()
    routers: Sequence[Json] = ()
    peerings: Sequence[Json] = ()
    pairs: Sequence[Json] = ()
    heard: Mapping[str, float] = field(default_factory=dict)
    bits_s: Mapping[tuple[str, str], float] = field(default_factory=dict)
    shares: Mapping[str, Sequence[Share]] = field(default_factory=dict)
    since: Mapping[str, float] = field(default_factory=dict)
    listens_since: float | None = None
    leading: bool = True
    leader: str = ""


@dataclass(frozen=True)
class HostView:
    """A gateway or router. `since`, `heard_at`: by the wall clock. `silent`: nothing was heard of it for a while;
    `old`: nor does anybody else say how it is. `alone`: no other gateway of its clusters carries.
    """

    kind: str
    name: str
    vpc: str
    look: Look
    reason: str = ""
    since: float | None = None
    heard_at: float | None = None
    silent: bool = False
    old: bool = False
    alone: bool = False
    evidence: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    outer: str = ""
    members: int | None = None
    weight: float | None = None
    drained: bool = False
    version: str = ""
    outdated: bool = False
    held: bool = False
    clock_skew_s: float | None = None
    certificate_ends_at: float | None = None
    bits_s: float | None = None
    shares: tuple[Share, ...] = ()
    unused_by: tuple[str, ...] = ()

    @property
    def href(self) -> str:
        """Where its page is."""
        return f"/{self.kind}s/{self.name}"


@dataclass(frozen=True)
class ClusterView:
    """A cluster. `shown`: the gateways that are drawn; of a large one those that are not up."""

    name: str
    vpc: str
    gateways: tuple[HostView, ...]
    shown: tuple[HostView, ...]
    summary: str
    counts: tuple[tuple[Look, int], ...]

    @property
    def collapsed(self) -> bool:
        """Whether there are more gateways than are drawn."""
        return len(self.shown) < len(self.gateways)


@dataclass(frozen=True)
class VpcView:
    """A VPC. `loose`: its gateways that are in no cluster."""

    name: str
    cidrs: tuple[str, ...]
    clusters: tuple[ClusterView, ...]
    loose: tuple[HostView, ...]
    routers: tuple[HostView, ...]


@dataclass(frozen=True)
class PairView:
    """Two gateways that are joined. `heard_s`: how long ago each was heard; None: never."""

    peering: str
    a: str
    b: str
    look: Look
    rtt_ms: float | None = None
    loss: float = 0.0
    old: bool = False
    heard_s: tuple[float | None, float | None] = (None, None)

    @property
    def carries(self) -> bool:
        """Whether its times and losses are of now: of one that is down they are of before."""
        return self.look.state in ("up", "degraded")


@dataclass(frozen=True)
class PeeringView:
    """Two clusters that are joined. `old`: of none of its gateways anything was heard for a while. `since`: by the wall
    clock; None: since before `listens_since`, as far as anybody knows.
    """

    name: str
    clusters: tuple[str, str]
    vpcs: tuple[str, str]
    look: Look
    pairs: tuple[PairView, ...]
    pairs_up: int
    path: str = ""
    payload: str = ""
    bits_s: float | None = None
    old: bool = False
    since: float | None = None
    listens_since: float | None = None

    @property
    def counted(self) -> str:
        """Say how many of its pairs carry."""
        return f"{self.pairs_up} of {len(self.pairs)} pairs" if self.pairs else "no pairs"

    @property
    def href(self) -> str:
        """Where its page is."""
        return f"/peerings/{self.name}"


@dataclass(frozen=True)
class FleetView:
    """A fleet. `summary`: of its gateways."""

    at: float
    vpcs: tuple[VpcView, ...]
    peerings: tuple[PeeringView, ...]
    summary: str
    leading: bool
    leader: str

    @property
    def hosts(self) -> tuple[HostView, ...]:
        """All hosts, each once, by VPC and name."""
        found = {}
        for vpc in self.vpcs:
            for one in (*(g for c in vpc.clusters for g in c.gateways), *vpc.loose, *vpc.routers):
                found[one.name] = one
        return tuple(sorted(found.values(), key=lambda one: (one.vpc, one.kind, one.name)))

    @property
    def troubles(self) -> tuple[HostView | PeeringView, ...]:
        """All that is not up, the worst first."""
        known: list[HostView | PeeringView] = [*self.peerings, *self.hosts]
        return tuple(sorted((one for one in known if one.look.state != "up"), key=lambda one: one.look.order))


def fleet_view(facts: Facts) -> FleetView:
    """Say what there is, in the order of names."""
    hosts = {one.name: one for one in (*_hosts(facts, "gateway"), *_hosts(facts, "router"))}
    clusters = [_cluster(one, hosts) for one in _named(facts.clusters)]
    within = {name for one in clusters for name in (gateway.name for gateway in one.gateways)}
    vpcs = []
    for one in _named(facts.vpcs):
        mine = [host for host in hosts.values() if host.vpc == one["name"]]
        vpcs.append(
            VpcView(
                one["name"],
                _texts(one.get("cidrs")),
                tuple(cluster for cluster in clusters if cluster.vpc == one["name"]),
                tuple(host for host in mine if host.kind == "gateway" and host.name not in within),
                tuple(host for host in mine if host.kind == "router"),
            )
        )
    peerings = tuple(_peering(one, facts, hosts) for one in _named(facts.peerings))
    gateways = [one.look for one in hosts.values() if one.kind == "gateway"]
    return FleetView(facts.at, tuple(vpcs), peerings, summed(gateways), facts.leading, facts.leader)


def _hosts(facts: Facts, kind: str) -> list[HostView]:
    items = facts.gateways if kind == "gateway" else facts.routers
    clusters: dict[str, list[str]] = {}
    for cluster in _named(facts.clusters):
        for name in _texts(cluster.get("gateways")):
            clusters.setdefault(name, []).append(cluster["name"])
    return [_host(facts, kind, one, tuple(clusters.get(one["name"], ()))) for one in _named(items)]


def _host(facts: Facts, kind: str, one: Json, clusters: tuple[str, ...]) -> HostView:
    name, health = one["name"], one.get("health") or {}
    heard_at, evidence = facts.heard.get(name), _texts(health.get("evidence"))
    unheard = str(health.get("state")) in ("down", "unreachable")  # and by whoever led before it was
    silent = facts.at - heard_at > _GRAY_AFTER_S if heard_at is not None else unheard
    return HostView(
        kind=kind, name=name, vpc=str(one.get("vpc", "")), look=look_of(health.get("state")),
        reason=str(health.get("reason") or ""), since=health.get("since"), heard_at=heard_at,
        silent=silent, old=silent and len(evidence) < 2,  # its own word is one
        alone=kind == "gateway" and not _takers(facts, name, clusters),
        evidence=evidence, clusters=clusters, addresses=_texts(one.get("inner")),
        outer=str(one.get("outer") or ""), members=one.get("members"), weight=one.get("weight"),
        drained=one.get("state") == "draining", version=str(one.get("version") or ""),
        outdated=bool(one.get("outdated")), held=bool(one.get("held")), clock_skew_s=one.get("clock_skew_s"),
        certificate_ends_at=one.get("certificate_ends_at"), bits_s=facts.bits_s.get(("host", name)),
        shares=tuple(sorted(facts.shares.get(name, ()), key=lambda one: one.router)),
        unused_by=_texts(one.get("unused_by")),
    )  # fmt: skip


def _takers(facts: Facts, name: str, clusters: Sequence[str]) -> set[str]:
    """Name the other gateways of some clusters that carry."""
    mates = {mate for one in facts.clusters if one["name"] in clusters for mate in _texts(one.get("gateways"))}
    states = {one["name"]: str((one.get("health") or {}).get("state")) for one in facts.gateways}
    return {mate for mate in mates if mate != name and states.get(mate) in _CARRY}


def _cluster(one: Json, hosts: Mapping[str, HostView]) -> ClusterView:
    """A cluster; of a large one those that are not up are drawn, the worst first, in the order of names."""
    gateways = tuple(hosts[name] for name in _texts(one.get("gateways")) if name in hosts)
    shown = gateways
    if len(gateways) > SHOWN_MAX:
        worst = sorted((host for host in gateways if host.look.state != "up"), key=lambda host: host.look.order)
        shown = tuple(worst[:SHOWN_MAX])
    looks = [host.look for host in gateways]
    return ClusterView(one["name"], str(one.get("vpc", "")), gateways, shown, summed(looks), counted(looks))


def _peering(one: Json, facts: Facts, hosts: Mapping[str, HostView]) -> PeeringView:
    name = one["name"]
    a, b = (*_texts(one.get("clusters")), "", "")[:2]
    vpc_of = {cluster["name"]: str(cluster.get("vpc", "")) for cluster in facts.clusters}
    pairs = tuple(_pair(pair, hosts, facts.at) for pair in facts.pairs if pair.get("peering") == name)
    return PeeringView(
        name=name, clusters=(a, b), vpcs=(vpc_of.get(a, ""), vpc_of.get(b, "")), look=look_of(one.get("state")),
        pairs=pairs, pairs_up=sum(pair.carries for pair in pairs),
        path=str(one.get("path") or ""), payload=str(one.get("payload") or ""),
        bits_s=facts.bits_s.get(("peering", name)), old=bool(pairs) and all(pair.old for pair in pairs),
        since=facts.since.get(name), listens_since=facts.listens_since,
    )  # fmt: skip


def _pair(one: Json, hosts: Mapping[str, HostView], now: float) -> PairView:
    """A pair; what is known of it is old if both of its ends are silent, and neither is known to be down."""

    def heard_s(name: str) -> float | None:
        heard_at = hosts[name].heard_at if name in hosts else None
        return max(0.0, now - heard_at) if heard_at is not None else None

    a, b = str(one.get("a")), str(one.get("b"))
    look, ends = look_of(one.get("state")), [hosts[name] for name in (a, b) if name in hosts]
    old = bool(ends) and look.state != "down" and all(end.silent or end.heard_at is None for end in ends)
    return PairView(
        str(one.get("peering")), a, b, look, one.get("rtt_ms"), one.get("loss") or 0.0, old,
        (heard_s(a), heard_s(b)),
    )  # fmt: skip


def _named(items: Sequence[Json]) -> list[Json]:
    return sorted(items, key=lambda one: str(one["name"]))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else ()
