"""Traffic selectors: RFC 7296 §2.9 and §3.13.1; sets of addresses, here always of any protocol and all ports.

`narrow` is what a responder does: the part of an offer that its own configuration allows. Selectors for one protocol or
some ports are decoded and passed over: who asks for less does not get more; an answer that has any is refused, since
the data path could not hold records to it. `narrowed` is what the data path holds them to, where that is less than the
configuration. Refused, as ProtocolError: ranges that run backwards, unknown kinds, more than SELECTORS_MAX.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, summarize_address_range
from itertools import islice
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
    """What of the offer is allowed, in the order of what is allowed; empty: nothing.

    What lies within another part is left out of both sides, so that the work is bounded by their lengths, not by the
    product. The first SELECTORS_MAX of it: a few ranges over several subnets fall into very many parts.
    """
    ranges = _Ranges(selector for selector in offered if selector.takes_all)
    subnets = _Ranges(map(Selector.of, allowed)).given()
    parts = (part for subnet in subnets for part in ranges.parts_in(subnet))
    return tuple(islice(parts, SELECTORS_MAX))


def covers(wider: Sequence[Selector], narrower: Sequence[Selector]) -> bool:
    """Whether each of `narrower` lies wholly in one of `wider`, and is for any protocol and all ports."""
    ranges = _Ranges(wider)
    return all(one.takes_all and ranges.hold(one) for one in narrower)


class _Ranges:
    """Selectors of which none lies within another, so that both their ends ascend and are found by bisection.

    Two sides of 255 each are compared for every Child SA, and a peer may choose them so that each meets each.
    """

    def __init__(self, selectors: Iterable[Selector]) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        self._placed: list[tuple[int, Selector]] = []
        ends = ((*_ends(one), place, one) for place, one in enumerate(selectors))
        for first, last, place, one in sorted(ends, key=lambda end: (end[0], -end[1], end[2])):
            if not self._lasts or last > self._lasts[-1]:
                self._firsts.append(first)
                self._lasts.append(last)
                self._placed.append((place, one))

    def given(self) -> list[Selector]:
        """All of them, in the order in which they were given."""
        return _in_order(self._placed)

    def parts_in(self, other: Selector) -> list[Selector]:
        """What each has in common with `other`; `other` alone, if it lies wholly in one of them."""
        if self.hold(other):
            return [other]
        first, last = _ends(other)
        meeting = self._placed[bisect_left(self._lasts, first) : bisect_right(self._firsts, last)]
        return [part for one in _in_order(meeting) if (part := one.within(other))]

    def hold(self, other: Selector) -> bool:
        """Whether `other` lies wholly in one of them."""
        first, last = _ends(other)
        at = bisect_right(self._firsts, first)
        return at > 0 and self._lasts[at - 1] >= last


def _in_order(placed: Iterable[tuple[int, Selector]]) -> list[Selector]:
    return [selector for _, selector in sorted(placed, key=lambda one: one[0])]


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


def beyond(
    narrow: Narrowed, local: Sequence[Network], remote: Sequence[Network]
) -> tuple[int, Iterator[tuple[Network, Network]]]:
    """The pairs of configured subnets of which an SA does not carry all: how many, and each as it is asked for."""
    mine, theirs = _by_whether(local, narrow.local), _by_whether(remote, narrow.remote)
    lacking = {version: [subnet for subnet, whole in side if not whole] for version, side in theirs.items()}
    others = {version: [subnet for subnet, _ in side] for version, side in theirs.items()}
    beside = [  # each of ours, and those of theirs to which it does not wholly pass
        (subnet, (lacking if whole else others).get(version, []))
        for version, side in mine.items()
        for subnet, whole in side
    ]
    return sum(len(them) for _, them in beside), ((one, other) for one, them in beside for other in them)


def _by_whether(subnets: Sequence[Network], ranges: Sequence[Range]) -> dict[int, list[tuple[Network, bool]]]:
    """Subnets by IP version, each with whether it lies wholly in one of the ranges (as `merged` makes them)."""
    lows = [(len(low), low) for low, _ in ranges]
    found: dict[int, list[tuple[Network, bool]]] = {}
    for subnet in subnets:
        first, last = subnet.network_address.packed, subnet.broadcast_address.packed
        at = bisect_right(lows, (len(first), first))
        whole = at > 0 and lows[at - 1][0] == len(first) and last <= ranges[at - 1][1]
        found.setdefault(subnet.version, []).append((subnet, whole))
    return found


def words(ranges: Iterable[Range]) -> Iterator[str]:
    """Ranges for people, each as it is asked for: as a subnet, or its first and last address.

    An odd range is hundreds of subnets, and a peer may agree to many.
    """
    for low, high in ranges:
        first, last = ip_address(low), ip_address(high)
        bits = (int(first) ^ int(last)).bit_length()
        is_subnet = int(last) - int(first) == (1 << bits) - 1
        yield f"{first}/{first.max_prefixlen - bits}" if is_subnet else f"{first}-{last}"


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
