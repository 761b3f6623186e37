"""Whether routers reach the gateways that they are to spread flows over: pure.

A gateway is a router's next hop, so it must be on a link of the router's: in a subnet of one of its devices, which may
be a VXLAN device. Each router tells which networks are on its links. A change that would have a gateway carry whom no
router of its VPC reaches so is refused, with what the routers have; one that some reach is for health to tell. While a
router of the VPC has not told anything nobody knows, and nothing is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import Any, Final

from fwd.model.fleet import Fleet, Gateway
from fwd.model.words import Network

Links = Mapping[str, Sequence[Network]]  # by router
_LINKS_MAX: Final = 64
_SHOWN_MAX: Final = 8


def links_in(statuses: Mapping[str, Mapping[str, Any]]) -> Links:
    """Read which networks hosts have said to be on their links; of one that has said nothing of it there is nothing."""
    found: dict[str, list[Network]] = {}
    for host, status in statuses.items():
        if isinstance(links := status.get("links"), list):
            found[host] = []
            for one in links[:_LINKS_MAX]:
                with suppress(ValueError):
                    found[host].append(ip_network(str(one)[:64]))
    return found


def why_unreached(before: Fleet, after: Fleet, links: Links) -> str:
    """Say which gateway that is to carry from now on no router reaches, and what routers have; empty: none is so."""
    carried = {(one.name, *one.inner) for one in _carrying(before)}
    for gateway in _carrying(after):
        routers = [one.name for one in after.routers if one.vpc == gateway.vpc]
        if (gateway.name, *gateway.inner) in carried or not routers or not all(links.get(one) for one in routers):
            continue
        near = [(name, network) for name in routers for network in links[name]]
        if not any(address in network for address in gateway.inner for _, network in near):
            had = ", ".join(f"{name} has {network}" for name, network in near[:_SHOWN_MAX])
            return f"gateway {gateway.name} ({gateway.inner[0]}) is on no link of a router of VPC {gateway.vpc}: {had}"
    return ""


def _carrying(fleet: Fleet) -> Iterable[Gateway]:
    """The gateways of clusters that are peered."""
    clusters = {name for one in fleet.peerings for name in one.clusters}
    return [fleet.gateway[name] for name in sorted({one for c in clusters for one in fleet.cluster[c].gateways})]
