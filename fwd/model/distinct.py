"""Whether two peerings that share an outer address, and the far gateways of one, can be told apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fwd.model.config import Peering


def indistinct(a: Peering, b: Peering) -> str:
    """Why a peer that begins IKE could be either peering's; empty: it can be told."""
    shared = _legs_in_common(a, b)
    if not a.ike or not b.ike or a.local_addrs != b.local_addrs or not shared:
        return ""
    if a.ike.ike_port != b.ike.ike_port:
        return ""
    same = f"have the same addresses and keys.ike_port {a.ike.ike_port}"
    if any(_identities(one) == _identities(other) for one, other in shared):
        return f"{same}, and no identities to tell them apart: give one another ike_port, or local_id and remote_id"
    if a.ike.ike_proposals != b.ike.ike_proposals:  # chosen before the peer says who it is
        return f"{same}: then their ike_proposals must be the same, too, or give one another ike_port"
    return ""


def _legs_in_common(a: Peering, b: Peering) -> list[tuple[Peering, Peering]]:
    """Both peerings as each far gateway has them that they share; one whose name alone is known is told by that."""
    pairs = [(one, other) for one in a.legs for other in b.legs if one.address == other.address]
    return [(a.towards(one), b.towards(other)) for one, other in pairs]


def _identities(peering: Peering) -> tuple[str, str]:
    """What IKE calls both sides: their addresses, unless the configuration says otherwise."""
    keys = peering.ike
    assert keys is not None
    return (keys.local_id or str(peering.local_addrs)).casefold(), peering.remote_id.casefold()


def unpaired(peering: Peering, count: int) -> str:
    """Why its `count` far gateways cannot be told apart, or have nobody to be paired with; empty: all is well."""
    identities = peering.ike.remote_id if peering.ike else None
    if isinstance(identities, list) and len(identities) != count:
        return f"keys.remote_id has {len(identities)} entries, and remote_addrs {count}: give each one its own"
    if count == 1:
        return ""
    if peering.ike is None:
        return "remote_addrs: several far gateways need IKE keys"
    if isinstance(identities, str):
        return f"keys.remote_id is one identity, and remote_addrs are {count}: give each one its own, in a list"
    if count > peering.members:
        return f"members {peering.members} are fewer than the {count} far gateways: each is paired with one, at least"
    return ""


def clash(a: Peering, b: Peering) -> int | None:
    """A UDP port that two peerings of one address would both have; IKE's own they may share."""
    taken = set(a.ports) & {*b.ports, *([b.ike.ike_port] if b.ike else [])}
    taken |= set(b.ports) & ({a.ike.ike_port} if a.ike else set())
    return min(taken, default=None)
