"""What is in the way of a peering's packets and is not fwd's to change: pure; and what to ask the kernel to find out.

Ready means that a packet of every subnet pair would pass. So the kernel is asked where it sends the host's own packets,
and those of others, as they come: by which device, of which source. Routes, policy rules, forwarding and filters of
others are told, with what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from fwd.model.reasons import Code, Reason
from fwd.model.words import Address, Network
from fwd.supervise.guards import METRIC
from fwd.supervise.kernel import Device, Has, Route, Wanted, holds

# Addresses that nobody has (RFC 7600, RFC 6666): the way to them is the default route.
NOBODYS: Final[Mapping[int, Address]] = {4: ip_address("192.0.0.8"), 6: ip_address("100::1")}
_EVERYWHERE: Final = {4: 8, 6: 16}  # local subnets of shorter prefixes may be anywhere
_PAIRS_MAX: Final = 64  # subnet pairs that are tried one by one


@dataclass(frozen=True)
class Forwarded:
    """A packet that the host is to forward: by which device it comes, and by one of which it must go."""

    source: Address
    to: Address
    arrives: int
    leaves: frozenset[int]
    subnet: Network  # that it is for


@dataclass(frozen=True)
class Around:
    """What is not fwd's, but decides whether packets pass."""

    ways: Mapping[Address, Route | None] = field(default_factory=dict)  # what the host's own packet to it would take
    through: Mapping[Forwarded, Route | None] = field(default_factory=dict)  # what that of others would take
    names: Mapping[int, str] = field(default_factory=dict)  # of devices
    dead: Set[int] = frozenset()  # devices at which nobody is: no carrier
    not_forwarding: frozenset[tuple[int, str]] = frozenset()  # IP version, and the sysctl that is 0
    filters: Sequence[str] = ()  # chains that let nothing pass
    beside: frozenset[Network] = frozenset()  # remote subnets to which others have routes, which ours come before


def outside(
    wanted: Wanted, has: Has, ways: Mapping[Address, Route | None], before: Iterable[int] = ()
) -> dict[int, tuple[Network, ...]]:
    """Return the devices that lead outside, and the local subnets that are not there, whatever routes say.

    Outside is where the outer address is, the ways to the far gateways, the default route, and what was outside before.
    """
    far = {device for one in wanted.remotes if (way := ways.get(one)) for device in way.devices}
    outer = {own.device for own in has.addresses if own.address == wanted.local} | far
    found: dict[int, tuple[Network, ...]] = {}
    for subnet in wanted.local_ts:
        if subnet.prefixlen < _EVERYWHERE[subnet.version]:
            continue
        default = ways.get(NOBODYS[subnet.version])
        leads = default.devices if default and not default.subnet.prefixlen else frozenset()
        for device in sorted({*outer, *leads, *before}):
            if not _is_at(device, subnet, has, ways, strict=device in outer):
                found[device] = (*found.get(device, ()), subnet)
    return found


def _is_at(device: int, subnet: Network, has: Has, ways: Mapping[Address, Route | None], *, strict: bool) -> bool:
    """Whether a local subnet, or part of it, is at a device; `strict`: a route to more than it does not count."""
    if any(own.device == device for own in has.own_in(subnet)):
        return True
    routes = [way for address in _probes(subnet, has) if (way := ways.get(address)) and way.subnet.prefixlen]
    return any(device in way.devices and (holds(subnet, way.subnet) or not strict) for way in routes)


def asked(wanted: Wanted, has: Has, suspects: Iterable[Route] = (), away: Iterable[int] = ()) -> set[Address]:
    """Addresses whose ways tell of obstacles: in every subnet, in what others have set there, the far gateways.

    Of local subnets others may have many routes: what refuses, or leads `away`, is asked for.
    """
    far = {address for subnet in wanted.remote_ts for address in _ends(subnet)}
    probes = {address for subnet in wanted.local_ts for address in _probes(subnet, has)}
    default = {NOBODYS[subnet.version] for subnet in wanted.local_ts}
    outside = frozenset(away)
    for one in suspects:
        if any(holds(subnet, one.subnet) for subnet in wanted.remote_ts) or (
            (one.refuses or one.devices & outside) and any(holds(subnet, one.subnet) for subnet in wanted.local_ts)
        ):
            far.update(_ends(one.subnet))
    return {*wanted.remotes, *default, *far, *probes}


def pairs(local_ts: Sequence[Network], remote_ts: Sequence[Network]) -> list[tuple[Network, Network]]:
    """Return all pairs of a local and a remote subnet; of very many, each subnet's with the other side's first."""
    found = [(local, remote) for local in local_ts for remote in remote_ts if local.version == remote.version]
    if len(found) <= _PAIRS_MAX:
        return found
    first = {local.version: (local, remote) for local, remote in reversed(found)}
    return [(a, b) for a, b in found if a == first[a.version][0] or b == first[a.version][1]]


def forwarded(wanted: Wanted, has: Has, ways: Mapping[Address, Route | None]) -> list[Forwarded]:
    """Return packets of others to ask the kernel about: policy rules may look at the source and at the device.

    None of a local subnet that is this host's own address, or of which it is not known where it is.
    """
    if wanted.device is None:
        return []
    found = []
    tun = frozenset((wanted.device.index,))
    for local, remote in pairs(wanted.local_ts, wanted.remote_ts):
        here, far = _host_in(local, _probes(local, has), has), _host_in(remote, _ends(remote), has, wanted.inside)
        way = ways.get(here) if here else None
        if not (here and far and way and way.subnet.prefixlen and way.devices):
            continue
        found.append(Forwarded(here, far, min(way.devices), tun, remote))
        found.append(Forwarded(far, here, wanted.device.index, way.devices, local))
    return found


def beside(wanted: Wanted, suspects: Iterable[Route]) -> frozenset[Network]:
    """Return the remote subnets to which others have set routes; not their guards, and what goes with our device."""
    device = wanted.device.index if wanted.device else 0
    there = {one.subnet for one in suspects if one.priority != METRIC and one.device != device}
    return frozenset(there.intersection(wanted.remote_ts))


def lan_devices(wanted: Wanted, has: Has, ways: Mapping[Address, Route | None]) -> dict[Network, set[int]]:
    """Devices that each local subnet is at, as far as it is known."""
    found: dict[Network, set[int]] = {}
    for subnet in wanted.local_ts:
        known = (way for one in _probes(subnet, has) if (way := ways.get(one)) and way.subnet.prefixlen)
        found[subnet] = {way.device for way in known if way.device > 0}
    return found


def taking(
    wanted: Wanted, suspects: Iterable[Route], ways: Mapping[Address, Route | None], away: Set[int]
) -> set[Route]:
    """Those of the routes that others have set which were asked for, and do take something of this peering."""
    tun = wanted.device.index if wanted.device else 0
    return {
        one
        for one in suspects
        for end in _ends(one.subnet)
        if end in ways and (_takes_remote(wanted, end, ways[end], tun) or _takes_local(wanted, end, ways[end], away))
    }


def _takes_remote(wanted: Wanted, address: Address, way: Route | None, tun: int) -> bool:
    return any(address in subnet for subnet in wanted.remote_ts) and (way is None or way.device != tun)


def _takes_local(wanted: Wanted, address: Address, way: Route | None, away: Set[int]) -> bool:
    lost = way is None or bool(way.devices and way.devices <= away)
    return lost and any(address in subnet for subnet in wanted.local_ts)


@lru_cache(maxsize=4096)  # of every subnet they are asked for again and again
def _ends(subnet: Network) -> tuple[Address, Address]:
    """The first and the last address that a host may have."""
    last = subnet.num_addresses - 1
    return (subnet[min(1, last)], subnet[max(0, last - 1)])


def _host_in(subnet: Network, likely: Iterable[Address], has: Has, but: Sequence[Address] = ()) -> Address | None:
    """An address that another host of the subnet may have: the kernel refuses others as sources."""
    for address in (*likely, *_ends(subnet), NOBODYS[subnet.version]):
        if address in but:
            continue
        nobodys = address.is_multicast or address.is_loopback or address.is_link_local or address.packed[0] == 0
        if address in subnet and not nobodys and not has.has_address(address):
            return address
    return None


def _probes(subnet: Network, has: Has) -> list[Address]:
    """Addresses of which the way to one, at least, must be known for the local subnet to be: neighbours of our own."""
    ours = has.own_in(subnet)
    if not ours:
        return [_ends(subnet)[0]]
    return [next((a for a in _ends(own.network) if a != own.address), own.address) for own in ours]


def obstacles(wanted: Wanted, has: Has, around: Around) -> list[Reason]:
    """What keeps packets of the peering from passing and is not for fwd to change."""
    if wanted.device is None:
        return []
    name, device = wanted.peering, wanted.device
    away = outside(wanted, has, around.ways)
    not_there = {s: {device.index, *around.dead, *(one for one in away if s in away[one])} for s in wanted.local_ts}
    lost = [subnet for subnet in wanted.local_ts if not _is_known(subnet, not_there[subnet], has, around)]
    reasons = [*_of_outer(wanted, has, around)]
    reasons += [Reason.of(Code.NO_LAN_ADDRESS, name, [str(subnet)], what=f"local_ts {subnet}") for subnet in lost]

    # Packets of others than the gateway itself.
    others = {s.version for s in wanted.local_ts if s.num_addresses > 1 or not has.has_address(s[0])}
    off = [(version, sysctl) for version, sysctl in sorted(around.not_forwarding) if version in others]
    reasons += [Reason.of(Code.FORWARDING_OFF, name, sysctl=sysctl) for _, sysctl in off]
    if others:
        reasons += [Reason.of(Code.FILTER_DROPS, name, chain=c, device=device.name) for c in around.filters]

    # One reason for each subnet is enough; that of a route tells less than those above.
    taken = {**_of_local(wanted, not_there, has, around), **_of_remote(wanted, device, has, around)}
    for packet, way in around.through.items():
        if packet.to.version not in dict(off) and not (way and way.devices & packet.leaves):
            taken.setdefault(packet.subnet, _taken(wanted, packet, way, around))
    return [*reasons, *(one for subnet, one in taken.items() if subnet not in lost and _is_routed(subnet, wanted, has))]


def _of_outer(wanted: Wanted, has: Has, around: Around) -> list[Reason]:
    if not has.has_address(wanted.local):
        return [Reason.of(Code.NO_OUTER_ADDRESS, wanted.peering, local=wanted.local)]
    tun = wanted.device.index if wanted.device else 0
    ways = {one: around.ways[one] for one in wanted.remotes if one in around.ways}
    lost = [one for one, way in ways.items() if way is None or (way.device == tun and one in wanted.inside)]
    if not lost or len(lost) < len(wanted.remotes):  # members of one that cannot be reached leave theirs to the others
        return []
    return [Reason.of(Code.NO_OUTER_ROUTE, wanted.peering, remote=", ".join(map(str, lost)))]


def _of_remote(wanted: Wanted, device: Device, has: Has, around: Around) -> dict[Network, Reason]:
    """Remote subnets of which the host's own packet to some address does not go to the TUN device."""
    reasons: dict[Network, Reason] = {}
    leaves = frozenset((device.index,))
    for subnet in wanted.remote_ts:
        for address, way in around.ways.items():
            if address in subnet and address not in wanted.inside and not (way and way.device == device.index):
                packet = Forwarded(address, address, 0, leaves, subnet)
                reasons.setdefault(subnet, _taken(wanted, packet, way, around))
    return reasons


def _of_local(wanted: Wanted, not_there: Mapping[Network, Set[int]], has: Has, around: Around) -> dict[Network, Reason]:
    """Local subnets of which a part is refused, or routed to the outside or into the tunnel."""
    reasons: dict[Network, Reason] = {}
    for subnet in wanted.local_ts:
        probes = _probes(subnet, has)
        for address, way in around.ways.items():
            leads_away = way is None or bool(way.devices and way.devices <= not_there[subnet])
            if address in subnet and address not in probes and address not in wanted.remotes and leads_away:
                packet = Forwarded(address, address, 0, frozenset(), subnet)
                reasons.setdefault(subnet, _taken(wanted, packet, way, around))
    return reasons


def _is_routed(subnet: Network, wanted: Wanted, has: Has) -> bool:
    """Whether it is a remote subnet's own route that is missing: told by itself."""
    return subnet not in wanted.remote_ts or any(r.subnet == subnet and not r.refuses for r in has.routes)


def _taken(wanted: Wanted, packet: Forwarded, way: Route | None, around: Around) -> Reason:
    """Why a packet does not go where it must."""
    why = f"a route to {way.subnet} or a rule takes it" if way else "a route or a rule refuses it"
    asks = str(packet.to)
    if packet.arrives:
        asks += f" from {packet.source} iif {around.names.get(packet.arrives, packet.arrives)}"
    to = wanted.device.name if wanted.device and packet.subnet in wanted.remote_ts else "the LAN"
    subnets = [str(packet.subnet)]
    return Reason.of(Code.ROUTE_TAKEN, wanted.peering, subnets, address=asks, device=to, why=why)


def _is_known(subnet: Network, not_there: Set[int], has: Has, around: Around) -> bool:
    """Whether the host knows where a local subnet is: not by its default route, nor by another that leads outside."""
    for address in _probes(subnet, has):
        way = around.ways.get(address)
        leads_away = way is None or not way.subnet.prefixlen or (way.devices and way.devices <= not_there)
        if has.has_address(address) or not leads_away:
            return True
    return False
