"""What fwd wants of the kernel, what the kernel has, and the steps between the two: pure, of values.

A peering wants its leak guards (guards.py), and once it is set up its TUN device with MTU and queue, and a route to the
device for each remote subnet. `steps` says what is to be done where the kernel has something else; it is carried out by
network.py, as often as it is needed (keeper.py). What is in the way of packets and not fwd's to change: obstacles.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from ipaddress import ip_network
from typing import Final

from fwd.model.reasons import Code, Reason
from fwd.model.subnets import inside
from fwd.model.words import Address, Network
from fwd.supervise.guards import METRIC

IPV6_MTU_MIN: Final = 1280  # below, the kernel takes a device's IPv6 away
GEN_MODE_NONE: Final = 1  # no link-local address, whose chatter no selector would allow


@dataclass(frozen=True)
class Link:
    """A network device as the kernel has it."""

    index: int
    up: bool
    mtu_bytes: int
    queue_records: int
    segments_max: int
    addr_gen_mode: int | None  # None: it has no IPv6
    queue_drops: int = field(default=0, compare=False)  # packets that found the queue full
    carrier: bool = field(default=True, compare=False)  # or nobody is at its other end


@dataclass(frozen=True)
class Route:
    """A route of the main table; `device` is 0 if it refuses, negative if there are several."""

    subnet: Network
    device: int
    priority: int
    owner: int  # its protocol
    source: Address | None = None
    refuses: bool = False
    several: tuple[int, ...] = ()  # the devices, if there are several
    via: Address | None = None  # the next hop; of several, the first one's

    @property
    def devices(self) -> frozenset[int]:
        """The devices by which packets leave."""
        return frozenset(self.several or ([self.device] if self.device > 0 else ()))


@dataclass(frozen=True)
class Own:
    """An address of this host, and the network that it says is at its device."""

    address: Address
    network: Network
    device: int


@dataclass(frozen=True)
class Device:
    """The TUN device as a peering wants it. `index`: the one that its descriptor belongs to."""

    name: str
    index: int
    mtu_bytes: int
    queue_records: int
    segments_max: int | None = None  # None: whatever the kernel takes


@dataclass(frozen=True)
class Wanted:
    """What one peering wants. `listing`: its guards' table as nft shows it; without a `device` only guards."""

    peering: str
    table: str
    listing: str
    owner: int
    local_ts: tuple[Network, ...]
    remote_ts: tuple[Network, ...]
    local: Address
    remotes: tuple[Address, ...]  # none: the far gateway's name has no address yet
    device: Device | None = None

    @property
    def inside(self) -> tuple[Address, ...]:
        """The far gateways that are inside its subnets: their outer packets have a way of their own."""
        return inside(self.remotes, self.remote_ts)


@dataclass(frozen=True)
class Hop:
    """Where outer packets go, past the tunnel."""

    device: int
    via: Address | None


@dataclass(frozen=True)
class Has:
    """What the kernel has, of that which some peering wants."""

    links: Mapping[str, Link | None] = field(default_factory=dict)
    routes: Sequence[Route] = ()  # of this fwd's own number
    tables: Mapping[str, str] = field(default_factory=dict)  # fwd's tables as nft shows them
    addresses: Sequence[Own] = ()
    others: Sequence[Route] = ()  # that are not this fwd's: if a far gateway is inside some peering

    def has_address(self, address: Address) -> bool:
        """Whether it is this host's own."""
        return address in self._owned

    def own_in(self, subnet: Network) -> Sequence[Own]:
        """Return this host's own addresses in a subnet."""
        if subnet not in self._own_in:
            self._own_in[subnet] = [own for own in self.addresses if own.address in subnet]
        return self._own_in[subnet]

    # Of many peerings each asks this several times, and a host may have an address for each of them.

    @cached_property
    def _owned(self) -> frozenset[Address]:
        return frozenset(own.address for own in self.addresses)

    @cached_property
    def _own_in(self) -> dict[Network, list[Own]]:
        return {}


class Do(StrEnum):
    """What a step does."""

    GUARD_ROUTE = "guard_route"
    GUARD_TABLE = "guard_table"
    DEVICE = "device"
    MTU = "mtu"
    QUEUE = "queue"
    SEGMENTS = "segments"
    UP = "up"
    IPV6 = "ipv6"
    GEN_MODE = "addr_gen_mode"
    OUTER = "outer"
    ROUTE = "route"


GUARDS: Final = frozenset((Do.GUARD_ROUTE, Do.GUARD_TABLE))
# Without these packets pass all the same.
_HARMLESS: Final = frozenset((Do.QUEUE, Do.GEN_MODE))


@dataclass(frozen=True)
class Step:
    """One thing to be done. `name`: of the table or device; `source`: of the route."""

    do: Do
    name: str
    subnet: Network | None = None
    source: Address | None = None
    hop: Hop | None = None

    def __str__(self) -> str:
        """What is set by it."""
        return {
            Do.GUARD_ROUTE: f"unreachable route {self.subnet}",
            Do.GUARD_TABLE: f"nftables table {self.name}",
            Do.DEVICE: f"TUN device {self.name}",
            Do.MTU: f"MTU of {self.name}",
            Do.QUEUE: f"queue of {self.name}",
            Do.SEGMENTS: f"gso_max_segs of {self.name}",
            Do.UP: f"{self.name} up",
            Do.IPV6: f"IPv6 of {self.name}",
            Do.GEN_MODE: f"addr_gen_mode of {self.name}",
            Do.OUTER: f"route {self.subnet} past the tunnel",
            Do.ROUTE: f"route {self.subnet} dev {self.name}" + (f" src {self.source}" if self.source else ""),
        }[self.do]

    @property
    def matters(self) -> bool:
        """Whether packets may be lost, or leave in the clear, before it is done."""
        return self.do not in _HARMLESS


def steps(wanted: Wanted, has: Has) -> list[Step]:
    """What is to be done, in this order: guards, then the device, and at last the routes to it."""
    found = [Step(Do.GUARD_ROUTE, "", subnet) for subnet in wanted.remote_ts if not _is_guarded(subnet, wanted, has)]
    if has.tables.get(wanted.table) != wanted.listing:
        found.append(Step(Do.GUARD_TABLE, wanted.table))
    if wanted.device is None:
        return found

    # Where the device is another, all that belongs to it is missing.
    device, link = wanted.device, has.links.get(wanted.device.name)
    if link is None or link.index != device.index:
        return [*found, Step(Do.DEVICE, device.name)]
    settings = _settings(device, link, ipv6=any(subnet.version == 6 for subnet in wanted.remote_ts))
    found += [Step(do, device.name) for do in settings]

    # Before packets go into the tunnel, its own have their way past it.
    for address in wanted.inside:
        host, hop = ip_network(address), beneath(address, wanted.remote_ts, has.others)
        standing = next((r for r in has.routes if r.subnet == host and not r.refuses), None)
        if hop and (standing is None or (standing.device, standing.via) != (hop.device, hop.via)):
            found.append(Step(Do.OUTER, "", host, hop=hop))

    # A link that goes down loses its routes.
    loses = Do.UP in settings or Do.IPV6 in settings
    for subnet in wanted.remote_ts:
        standing = next((r for r in has.routes if r.subnet == subnet and not r.refuses), None)
        source = source_for(subnet.version, wanted.local_ts, has.addresses, standing.source if standing else None)
        if loses or standing is None or standing.device != device.index or standing.source != source:
            found.append(Step(Do.ROUTE, device.name, subnet, source))
    return found


def beneath(address: Address, remote_ts: Iterable[Network], others: Iterable[Route]) -> Hop | None:
    """Where the host's other routes lead, to which the tunnel's is to be longer; None: nowhere, or they are longer."""
    found = [one for one in others if address in one.subnet and one.priority != METRIC]
    best = min(found, key=lambda one: (-one.subnet.prefixlen, one.priority), default=None)
    most = max(subnet.prefixlen for subnet in remote_ts if address in subnet)
    if best is None or best.refuses or best.subnet.prefixlen > most or not best.devices:
        return None
    return Hop(best.several[0] if best.several else best.device, best.via)


def unwanted_past(there: Collection[Wanted], ours: Iterable[Route]) -> list[Route]:
    """Return those of our routes that lead past tunnels which are none any more."""
    wanted = {ip_network(address) for one in there for address in one.inside}
    tuns = {one.device.index for one in there if one.device}
    hosts = [one for one in ours if one.subnet.prefixlen == one.subnet.max_prefixlen and not one.refuses]
    return [one for one in hosts if one.device not in tuns and one.subnet not in wanted]


def _is_guarded(subnet: Network, wanted: Wanted, has: Has) -> bool:
    return any(
        route.refuses and route.subnet == subnet and route.priority == METRIC and route.owner == wanted.owner
        for route in has.routes
    )


def _settings(device: Device, link: Link, *, ipv6: bool) -> list[Do]:
    """What of the device is to be set."""
    found = [
        (Do.MTU, link.mtu_bytes != device.mtu_bytes),
        (Do.QUEUE, link.queue_records != device.queue_records),
        (Do.SEGMENTS, device.segments_max not in (None, link.segments_max)),
        (Do.GEN_MODE, link.addr_gen_mode not in (None, GEN_MODE_NONE)),
        (Do.UP, not link.up),
        # It comes back with the device's next start, and not with the MTU.
        (Do.IPV6, ipv6 and link.addr_gen_mode is None and device.mtu_bytes >= IPV6_MTU_MIN),
    ]
    return [do for do, due in found if due]


def refusal(remote_ts: Iterable[Network], addresses: Iterable[Own]) -> str | None:
    """Why remote subnets cannot be routed to a TUN device: the host itself is there. None: they can.

    A wider subnet takes nothing: the host's own routes are longer. A part without its address may be elsewhere.
    """
    for own in addresses:
        for subnet in remote_ts:
            if subnet == own.network or (own.address in subnet and holds(own.network, subnet)):
                return (
                    f"remote_ts {subnet}: this host itself is there ({own.address}): are local_ts and remote_ts "
                    "swapped, or is this the other gateway's file?"
                )
    return None


def holds(subnet: Network, other: Network) -> bool:
    """Whether all of the other subnet is in it."""
    return subnet.version == other.version and other.subnet_of(subnet)  # type: ignore[arg-type]


def source_for(
    version: int, local_ts: Iterable[Network], addresses: Iterable[Own], kept: Address | None = None
) -> Address | None:
    """This host's own address within the local subnets, for the gateway's own packets; `kept` as long as it is one."""
    subnets = [subnet for subnet in local_ts if subnet.version == version]
    found = [own.address for own in addresses if any(own.address in subnet for subnet in subnets)]
    return kept if kept in found else next(iter(found), None)


def reason(step: Step, peering: str, why: str = "") -> Reason:
    """Why packets of the peering do not pass, or may leave in the clear, before a step is done."""
    why = f": {why}" if why else ""
    if step.do is Do.OUTER:
        return Reason.of(Code.NO_OUTER_ROUTE, peering, remote=f"{step.subnet}, past the tunnel{why}")
    if step.do is Do.ROUTE:
        return Reason.of(Code.ROUTE_MISSING, peering, [str(step.subnet)], what=step.subnet, device=step.name, why=why)
    if step.do in GUARDS:
        return Reason.of(Code.GUARD_MISSING, peering, what=step.subnet or peering, why=f" ({step}){why}")
    lack = {Do.DEVICE: "gone", Do.UP: "down", Do.MTU: "set to another MTU", Do.IPV6: "without IPv6"}
    return Reason.of(Code.DEVICE_DOWN, peering, device=step.name, why=lack.get(step.do, "set otherwise") + why)
