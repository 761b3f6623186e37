"""A fleet as a value: VPCs, gateways, clusters, routers, peerings; and what cannot be.

Refuses, as a ValueError of one line that names the objects: a name twice, a reference to nothing, a gateway in a
cluster of another VPC, an inner address that is not in its VPC or is somebody else's, a loopback or link-local address,
peerings whose subnets overlap, and two peerings between one pair of VPCs, of which no router could tell which one a
packet belongs to.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_network
from typing import Annotated, Final, Literal, TypeVar

from pydantic import Field, StringConstraints, model_validator

from fwd.model.linked import REKEYS_MAX
from fwd.model.subnets import first_shared, no_hosts
from fwd.model.words import NAME, Address, HostAddress, Network, Strict, Subnet

Name = Annotated[str, StringConstraints(pattern=NAME)]
PEERINGS_MAX: Final = 32
MEMBERS_MAX: Final = 64
DRAIN_MAX_S: Final = 3600


class Vpc(Strict):
    """A virtual network: its subnets, in which all of its hosts are. `probe_number`: another one is another probe key
    of its routers and gateways."""

    name: Name
    cidrs: list[Subnet] = Field(min_length=1, max_length=64)
    probe_number: int = Field(default=0, ge=0, le=2**31 - 1)


class Gateway(Strict):
    """A host that runs `fwd demux`. `members`: tunnels to each gateway that it is paired with."""

    name: Name
    vpc: Name
    outer: HostAddress
    inner: list[HostAddress] = Field(min_length=1, max_length=2)
    members: int = Field(default=4, ge=1, le=MEMBERS_MAX)
    weight: float = Field(default=1.0, gt=0, le=1000)
    state: Literal["active", "draining"] = "active"

    def address(self, version: int) -> Address | None:
        """Its inner address of an IP version."""
        return next((one for one in self.inner if one.version == version), None)


class Cluster(Strict):
    """Gateways of one VPC that share what goes to another."""

    name: Name
    vpc: Name
    gateways: list[Name] = Field(default=[], max_length=64)


class Router(Strict):
    """A host that spreads its VPC's flows over the gateways. `drain_deadline`: after how many seconds busy flows of a
    gateway that drains go by the others, too.
    """

    name: Name
    vpc: Name
    inner: list[HostAddress] = Field(min_length=1, max_length=2)
    drain_deadline: int = Field(default=60, ge=0, le=DRAIN_MAX_S)


class Peering(Strict):
    """Two clusters joined. `number`: its own for as long as it lives; it says which ports it has. `rekey_number`: with
    another one all of its tunnels have new keys.
    """

    name: Name
    clusters: tuple[Name, Name]
    number: int = Field(ge=0, lt=PEERINGS_MAX)
    path: Literal["internet", "native"] = "internet"
    payload: Literal["superpacket", "esp"] = "superpacket"
    rekey_number: int = Field(default=0, ge=0, le=REKEYS_MAX)


_T = TypeVar("_T", Vpc, Gateway, Cluster, Router, Peering)


class Fleet(Strict):
    """See the module."""

    vpcs: list[Vpc] = Field(default=[])
    gateways: list[Gateway] = Field(default=[])
    clusters: list[Cluster] = Field(default=[])
    routers: list[Router] = Field(default=[])
    peerings: list[Peering] = Field(default=[])

    @cached_property
    def vpc(self) -> Mapping[str, Vpc]:
        """VPCs by name."""
        return {one.name: one for one in self.vpcs}

    @cached_property
    def gateway(self) -> Mapping[str, Gateway]:
        """Gateways by name."""
        return {one.name: one for one in self.gateways}

    @cached_property
    def cluster(self) -> Mapping[str, Cluster]:
        """Clusters by name."""
        return {one.name: one for one in self.clusters}

    def members_of(self, cluster: str) -> list[Gateway]:
        """The gateways of a cluster, as it lists them."""
        return [self.gateway[name] for name in self.cluster[cluster].gateways]

    def cidrs_of(self, cluster: str) -> list[Network]:
        """The subnets of a cluster's VPC."""
        return self.vpc[self.cluster[cluster].vpc].cidrs

    @model_validator(mode="after")
    def _coherent(self) -> Fleet:
        for kind, objects in (
            ("VPCs", self.vpcs), ("gateways", self.gateways), ("clusters", self.clusters),
            ("routers", self.routers), ("peerings", self.peerings),
        ):  # fmt: skip
            _check_names(kind, [one.name for one in objects])
        hosts: list[Gateway | Router] = [*self.gateways, *self.routers]
        _check_names("gateways or routers", [one.name for one in hosts])
        for host in hosts:
            self._check_host(host)
        for cluster in self.clusters:
            self._check_cluster(cluster)
        _check_apart("inner address", [(one.name, one.inner) for one in hosts])
        _check_apart("outer address", [(one.name, [one.outer]) for one in self.gateways])
        self._check_peerings()
        return self

    def _check_host(self, host: Gateway | Router) -> None:
        kind = "gateway" if isinstance(host, Gateway) else "router"
        vpc = _known(self.vpc, host.vpc, f"{kind} {host.name}", "VPC")
        for address in host.inner:
            if not any(address in cidr for cidr in vpc.cidrs):
                raise ValueError(f"{kind} {host.name}: inner address {address} is not in VPC {vpc.name}")
        for address in (*host.inner, *([host.outer] if isinstance(host, Gateway) else [])):
            if what := no_hosts(ip_network(address)):
                raise ValueError(
                    f"{kind} {host.name}: {address} is {what}: each host has that itself, and means another"
                )

    def _check_cluster(self, cluster: Cluster) -> None:
        whose = f"cluster {cluster.name}"
        _known(self.vpc, cluster.vpc, whose, "VPC")
        _check_names(f"gateways of {whose}", cluster.gateways)
        for name in cluster.gateways:
            gateway = _known(self.gateway, name, whose, "gateway")
            if gateway.vpc != cluster.vpc:
                raise ValueError(f"{whose} is in VPC {cluster.vpc}, and gateway {name} in {gateway.vpc}")

    def _check_peerings(self) -> None:
        _check_names("peerings of number", [str(one.number) for one in self.peerings])
        joined: dict[frozenset[str], str] = {}
        far: dict[str, dict[str, list[Network]]] = {}
        for one in self.peerings:
            a, b = (_known(self.cluster, name, f"peering {one.name}", "cluster") for name in one.clusters)
            if a.vpc == b.vpc:
                raise ValueError(f"peering {one.name} joins VPC {a.vpc} with itself")
            if before := joined.get(frozenset((a.vpc, b.vpc))):
                raise ValueError(f"peerings {before} and {one.name} both join VPCs {a.vpc} and {b.vpc}")
            joined[frozenset((a.vpc, b.vpc))] = one.name
            far.setdefault(a.vpc, {})[b.vpc] = self.vpc[b.vpc].cidrs
            far.setdefault(b.vpc, {})[a.vpc] = self.vpc[a.vpc].cidrs
        for name, others in far.items():
            if overlap := first_shared(
                {f"VPC {name}": self.vpc[name].cidrs, **{f"VPC {n}": c for n, c in others.items()}}
            ):
                (near, x), (other, y) = overlap
                raise ValueError(f"{near} has {x} and {other} has {y}, which overlap: they cannot be peered")


def _known(objects: Mapping[str, _T], name: str, whose: str, kind: str) -> _T:
    if name not in objects:
        raise ValueError(f"{whose}: there is no {kind} {name}")
    return objects[name]


def _check_names(kind: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {kind} are {name}")


def _check_apart(kind: str, owners: Iterable[tuple[str, Sequence[Address]]]) -> None:
    for (one, mine), (other, theirs) in itertools.combinations(owners, 2):
        if shared := set(mine) & set(theirs):
            raise ValueError(f"{one} and {other} have the same {kind}, {shared.pop()}")
