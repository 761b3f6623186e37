"""A flow as the controller sees it, for its pages, and for a host that is neither router nor gateway: whose it is, by
what it can go, and what is down of that. Which of several it takes, routers and gateways alone know. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from fwd.model.seen import Fleet, Json, carries, health_of, plain
from fwd.model.trace import Trace
from fwd.proto.sample import Address, Flow

_NOT_TOLD = (
    "slot and gateway are a router's choice, by its kernel's hash and a seed that is not told here: one of these, by "
    "its share. `fwd path` on a router says which; member and SA: `fwd path` on that gateway"
)
CARRYING = ("up", "degraded", "draining", "unreachable")


def follow(found: Trace, flow: Flow, fleet: Fleet) -> None:
    """Add what the fleet says of a flow, there and back."""
    found.here = "fleet"
    near, far = _vpc_of(fleet, flow.source), _vpc_of(fleet, flow.destination)
    for address, vpc in ((flow.source, near), (flow.destination, far)):
        if not vpc:
            found.breaks.append(f"{address} is in no VPC of the controller's")
    if not near or not far:
        return
    if near == far:
        found.breaks.append(f"both are in VPC {near}: there is no tunnel between them")
        return

    # The peering, and its clusters as the flow meets them.
    vpcs = {one["name"]: one.get("vpc") for one in fleet["clusters"]}
    for peering in fleet["peerings"]:
        clusters = list(peering.get("clusters", ()))
        if [vpcs.get(one) for one in clusters] == [far, near]:
            clusters.reverse()
        if [vpcs.get(one) for one in clusters] == [near, far]:
            break
    else:
        found.breaks.append(f"no peering joins VPCs {near} and {far}")
        return
    found.facts |= {"vpcs": [near, far], "peering": peering["name"], "clusters": clusters}
    _side(found, fleet, found.there, near, clusters[0])
    _pairs(found, fleet, peering["name"])
    _side(found, fleet, found.back, far, clusters[1])
    found.facts |= {"bucket": flow.bucket, "bucket_back": flow.back.bucket}
    found.notes.append(_NOT_TOLD)


def is_used(gateway: Mapping[str, Any], routers: Collection[str]) -> bool:
    """Whether one of these routers sends to a gateway, as far as is known."""
    return not set(routers) <= set(gateway.get("unused_by") or ())


def _vpc_of(fleet: Fleet, address: Address) -> str:
    """Name of the VPC that an address is in; of several the one with the smallest subnet."""
    fits = [
        (net.prefixlen, str(vpc["name"]))
        for vpc in fleet["vpcs"]
        for net in map(ip_network, vpc.get("cidrs", ()))
        if net.version == address.version and address in net
    ]
    return max(fits, default=(0, ""))[1]


def _side(found: Trace, fleet: Fleet, way: list[str], vpc: str, cluster: str) -> None:
    """Add the routers and gateways of one side, as the flow comes to them."""
    routers = [one for one in fleet["routers"] if one.get("vpc") == vpc]
    names = next((one.get("gateways", ()) for one in fleet["clusters"] if one["name"] == cluster), ())
    gateways = [one for one in fleet["gateways"] if one["name"] in names]
    for kind, hosts in (("router", routers), ("gateway", gateways)):
        if not hosts:
            continue
        told = ", ".join(f"{plain(one['name'])} ({plain(health_of(one))})" for one in hosts)
        way.append(f"{kind}s of VPC {vpc}: {told}")
        if not any(health_of(one) in CARRYING for one in hosts):
            found.breaks.append(f"no {kind} of VPC {vpc} carries: {_why(hosts)}")
    if sending := {one["name"] for one in routers if health_of(one) in CARRYING}:
        carrying = [one for one in gateways if health_of(one) in CARRYING]
        if carrying and not any(is_used(one, sending) for one in carrying):
            found.breaks.append(f"no router of VPC {vpc} uses a gateway of cluster {cluster}: {_why(gateways)}")
    if not routers:
        found.notes.append(f"VPC {vpc} has no router: its hosts send to a gateway themselves")
    if not gateways:
        found.breaks.append(f"cluster {cluster} has no gateway")


def _why(hosts: Sequence[Json]) -> str:
    reasons = ((one["name"], (one.get("health") or {}).get("reason") or health_of(one)) for one in hosts)
    return "; ".join(f"{plain(name)}: {plain(reason)}" for name, reason in reasons)


def _pairs(found: Trace, fleet: Fleet, peering: str) -> None:
    pairs = [one for one in fleet["pairs"] if one.get("peering") == peering]
    told = ", ".join(f"{plain(one['a'])} - {plain(one['b'])} ({plain(one.get('state'))})" for one in pairs)
    found.there.append(f"peering {peering}, by one of its pairs: {told or 'none'}")
    here = {one["name"] for one in fleet["gateways"] if health_of(one) in CARRYING}
    if not any(map(carries, pairs)):
        found.breaks.append(f"no pair of peering {peering} carries")
    elif not any(carries(one) and {one["a"], one["b"]} <= here for one in pairs):
        found.breaks.append(f"no pair of peering {peering} that carries is of two gateways that do")
