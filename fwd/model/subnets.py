"""Subnets that overlap, found by sorting: of two that do, one lies within the other (CIDR).

So the time grows with their number and not with its square: 64 peerings may have 255 each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv6Network, ip_network
from typing import Final

from fwd.model.words import Address, Network

# A TS payload counts its selectors in one octet (RFC 7296 §3.13), and all subnets of a side are one payload.
SUBNETS_MAX: Final = 255
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
# What no VPC has for its own: each host has it itself, or it is of no host.
_NOBODYS: Final[Mapping[str, str]] = {
    "0.0.0.0/8": "unspecified", "127.0.0.0/8": "loopback", "169.254.0.0/16": "link-local", "224.0.0.0/4": "multicast",
    "255.255.255.255/32": "broadcast", "::/128": "unspecified", "::1/128": "loopback", "::ffff:0:0/96": "IPv4-mapped",
    "fe80::/10": "link-local", "ff00::/8": "multicast",
}  # fmt: skip
_NETWORKS: Final = {ip_network(text): kind for text, kind in _NOBODYS.items()}
_PREFIX_MIN: Final = 8  # the widest there are for private use are 10.0.0.0/8 and fd00::/8

Owned = tuple[str, Network]


def no_hosts(subnet: Network) -> str:
    """Say why no packet of this subnet goes from one network to another; empty if it does."""
    kinds = {"loopback": subnet.is_loopback, "link-local": subnet.is_link_local, "multicast": subnet.is_multicast}
    mapped = isinstance(subnet, IPv6Network) and subnet.subnet_of(_MAPPED)
    return next((kind for kind, is_so in kinds.items() if is_so), "IPv4-mapped" if mapped else "")


def no_vpcs(subnet: Network) -> str:
    """Say why a subnet cannot be a VPC's own; empty if it can."""
    if not subnet.prefixlen:
        return "all addresses there are"
    for network, kind in _NETWORKS.items():
        if network.version == subnet.version and network.overlaps(subnet):
            return (
                f"{kind} addresses" if subnet.prefixlen >= network.prefixlen else f"{network} in it, {kind} addresses"
            )
    return f"a prefix shorter than /{_PREFIX_MIN}" if subnet.prefixlen < _PREFIX_MIN else ""


def unspoken(local: Sequence[Network], remote: Sequence[Network]) -> str:
    """Say why subnets of the two sides could not talk to each other by their IP versions; empty: they can."""
    if not {one.version for one in local} & {one.version for one in remote}:
        here, there = local[0].version, remote[0].version
        return f"local_ts has IPv{here} alone and remote_ts IPv{there}: nothing could talk; name subnets of one version"
    for subnet in remote:
        if not subnet.prefixlen and all(one.version != subnet.version for one in local):
            return (
                f"remote_ts {subnet}: with no IPv{subnet.version} subnet in local_ts nothing could talk to it, "
                f"and all of this host's IPv{subnet.version} would be cut off"
            )
    return ""


def inside(addresses: Iterable[Address], subnets: Iterable[Network]) -> tuple[Address, ...]:
    """Return those of the addresses that are in one of the subnets."""
    subnets = list(subnets)
    return tuple(address for address in addresses if any(address in subnet for subnet in subnets))


def first_shared(subnets: Mapping[str, Iterable[Network]]) -> tuple[Owned, Owned] | None:
    """Find two subnets of different owners that overlap, the owners in the order in which they are given."""
    ranks = {owner: rank for rank, owner in enumerate(subnets)}
    every = [
        (subnet.version, int(subnet.network_address), subnet.prefixlen, ranks[owner], owner, subnet)
        for owner, owned in subnets.items()
        for subnet in owned
    ]
    every.sort(key=lambda one: one[:4])

    # Those that the present one lies within; all of them are of one owner, or it would have ended before.
    around: list[Owned] = []
    for _, _, _, _, owner, subnet in every:
        while around and not _lies_within(subnet, around[-1][1]):
            around.pop()
        if around and around[-1][0] != owner:
            pair = sorted((around[-1], (owner, subnet)), key=lambda one: ranks[one[0]])
            return pair[0], pair[1]
        around.append((owner, subnet))
    return None


def _lies_within(subnet: Network, wider: Network) -> bool:
    shift = wider.max_prefixlen - wider.prefixlen
    return subnet.version == wider.version and (
        int(subnet.network_address) >> shift == int(wider.network_address) >> shift
    )
