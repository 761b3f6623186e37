"""Traffic selectors: RFC 7296 §2.9 and §3.13.1; sets of addresses, here always of any protocol and all ports.

`narrow` is what a responder does: the part of an offer that its own configuration allows. Selectors for one protocol or
some ports are decoded and passed over: who asks for less does not get more; an answer that has any is refused, since
the data path could not hold records to it. `narrowed` is what the data path holds them to, where that is less than the
configuration. Refused, as ProtocolError: ranges that run backwards, unknown kinds, more than SELECTORS_MAX.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, summarize_address_range
from itertools import accumulate
from typing import Final

from fwd.proto.ike.numbers import Notify, ProtocolError, syntax
from fwd.proto.sa import RANGES_MAX, Narrowed, Range

SELECTORS_MAX: Final = 255  # a payload counts them in one octet
_IPV4_RANGE, _IPV6_RANGE = 7, 8
_HEAD = struct.Struct(">BBHHH")
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Selector:
    """Addresses from `first` to `last` (of one IP version)."""

    first: Address
    last: Address
    protocol: int = 0
    first_port: int = 0
    last_port: int = 65535

    @classmethod
    def of(cls, network: Network) -> Selector:
        """A whole subnet."""
        return cls(network[0], network[-1])

    @property
    def takes_all(self) -> bool:
        """Whether it is for any protocol and all ports."""
        return self.protocol == 0 and self.first_port == 0 and self.last_port == 65535

    def networks(self) -> list[Network]:
        """The subnets that make up its range."""
        return list(summarize_address_range(self.first, self.last))

    def within(self, other: Selector) -> Selector | None:
        """The part of it that lies in `other`; None: nothing does."""
        if self.first.version != other.first.version:
            return None
        first, last = max(self.first, other.first, key=int), min(self.last, other.last, key=int)
        return Selector(first, last) if int(first) <= int(last) else None


def narrow(offered: Sequence[Selector], allowed: Iterable[Network]) -> tuple[Selector, ...]:
    """What of the offer is allowed, without doubles, in the order of what is allowed; empty: nothing.

    The first SELECTORS_MAX of it: a few ranges over several subnets fall into very many parts.
    """
    whole = {selector: None for selector in offered if selector.takes_all}
    ranges = _Ranges(whole)
    found: dict[Selector, None] = {}
    for subnet in map(Selector.of, allowed):
        for selector in ranges.meeting(subnet):
            common = selector.within(subnet)
            assert common is not None
            found[common] = None
            if len(found) == SELECTORS_MAX:
                return tuple(found)
    return tuple(found)


def covers(wider: Sequence[Selector], narrower: Sequence[Selector]) -> bool:
    """Whether each of `narrower` lies wholly in one of `wider`, and is for any protocol and all ports."""
    ranges = _Ranges(wider)
    return all(one.takes_all and ranges.hold(one) for one in narrower)


class _Ranges:
    """Selectors in the order of their first addresses, so that those which meet another one are found quickly.

    Two sides of 255 each are compared for every Child SA.
    """

    def __init__(self, selectors: Iterable[Selector]) -> None:
        ends = [(*_ends(one), place, one) for place, one in enumerate(selectors)]
        self._ends = sorted(ends, key=lambda end: end[:3])
        self._firsts = [first for first, *_ in self._ends]
        self._furthest = list(accumulate((last for _, last, *_ in self._ends), max))  # so far

    def meeting(self, other: Selector) -> list[Selector]:
        """Those that have an address in common with `other`, in the order in which they were given."""
        first, last = _ends(other)
        found: list[tuple[int, Selector]] = []
        at = bisect_right(self._firsts, last)
        while at and self._furthest[at - 1] >= first:
            at -= 1
            if self._ends[at][1] >= first:
                found.append(self._ends[at][2:])
        return [selector for _, selector in sorted(found, key=lambda one: one[0])]

    def hold(self, other: Selector) -> bool:
        """Whether `other` lies wholly in one of them."""
        first, last = _ends(other)
        at = bisect_right(self._firsts, first)
        return at > 0 and self._furthest[at - 1] >= last


def _ends(selector: Selector) -> tuple[int, int]:
    """Its first and last address as numbers, IPv6 behind all of IPv4."""
    base = selector.first.version << 128
    return base + int(selector.first), base + int(selector.last)


def narrowed(
    configured: tuple[Sequence[Selector], Sequence[Selector]], agreed: tuple[Sequence[Selector], Sequence[Selector]]
) -> Narrowed | None:
    """What the data path must hold an SA's records to (local, remote); None: to all that is configured.

    Raises ProtocolError if that falls into more ranges than it can hold.
    """
    local, remote = (merged(side) for side in agreed)
    if (local, remote) == tuple(merged(side) for side in configured):
        return None
    if max(len(local), len(remote)) > RANGES_MAX:
        raise ProtocolError(Notify.TS_UNACCEPTABLE, f"traffic selectors of more than {RANGES_MAX} ranges")
    return Narrowed(local, remote)


def merged(selectors: Iterable[Selector]) -> tuple[Range, ...]:
    """Their addresses as ranges of which no two touch, in order."""
    found: list[tuple[int, int, int]] = []  # IP version, first, last
    for version, first, last in sorted((one.first.version, int(one.first), int(one.last)) for one in selectors):
        if found and found[-1][0] == version and first <= found[-1][2] + 1:
            found[-1] = version, found[-1][1], max(last, found[-1][2])
        else:
            found.append((version, first, last))
    return tuple((_packed(version, first), _packed(version, last)) for version, first, last in found)


def _packed(version: int, address: int) -> bytes:
    return address.to_bytes(4 if version == 4 else 16, "big")


def beyond(narrow: Narrowed, local: Sequence[Network], remote: Sequence[Network]) -> list[tuple[Network, Network]]:
    """The pairs of configured subnets of which an SA does not carry all."""
    mine = {subnet: _lies_in(subnet, narrow.local) for subnet in local}
    theirs = {subnet: _lies_in(subnet, narrow.remote) for subnet in remote}
    pairs = [(one, other) for one in local for other in remote if one.version == other.version]
    return [(one, other) for one, other in pairs if not (mine[one] and theirs[other])]


def _lies_in(subnet: Network, ranges: Sequence[Range]) -> bool:
    first, last = subnet[0].packed, subnet[-1].packed
    return any(len(low) == len(first) and low <= first and last <= high for low, high in ranges)


def words(ranges: Sequence[Range]) -> list[str]:
    """Ranges as subnets, for people."""
    return [
        str(subnet) for low, high in ranges for subnet in summarize_address_range(ip_address(low), ip_address(high))
    ]


def encode_selectors(selectors: Sequence[Selector]) -> bytes:
    """Body of a TS payload."""
    parts = [bytes([len(selectors), 0, 0, 0])]
    for one in selectors:
        kind = _IPV4_RANGE if one.first.version == 4 else _IPV6_RANGE
        length = _HEAD.size + 2 * len(one.first.packed)
        parts.append(_HEAD.pack(kind, one.protocol, length, one.first_port, one.last_port))
        parts.append(one.first.packed + one.last.packed)
    return b"".join(parts)


def decode_selectors(body: memoryview) -> tuple[Selector, ...]:
    """The selectors of a TS payload. Raises ProtocolError."""
    if len(body) < 4 or not 1 <= body[0] <= SELECTORS_MAX:
        raise syntax("TS: number of selectors")
    found, count = [], body[0]
    body = body[4:]
    for _ in range(count):
        if len(body) < _HEAD.size:
            raise syntax("TS: selector cut short")
        kind, protocol, length, first_port, last_port = _HEAD.unpack_from(body)
        octets = {_IPV4_RANGE: 4, _IPV6_RANGE: 16}.get(kind)
        if octets is None or length != _HEAD.size + 2 * octets or length > len(body):
            raise syntax(f"TS: selector of kind {kind}, length {length}")
        first, last = (ip_address(bytes(body[at : at + octets])) for at in (_HEAD.size, _HEAD.size + octets))
        if first > last:  # type: ignore[operator]
            raise syntax("TS: range runs backwards")
        found.append(Selector(first, last, protocol, first_port, last_port))
        body = body[length:]
    if len(body):
        raise syntax("TS: octets behind the last selector")
    return tuple(found)
