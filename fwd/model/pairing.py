"""Which member of a peering is paired with which of its far gateways, and with which member there.

    far gateways:  A  B        member:   0    1    2    3    4
                               partner:  A:0  B:0  A:1  B:1  A:2

Member i is paired with far gateway i mod n, and there with member i div n. So each far gateway is an ordinary one, with
one remote address and fewer members, and knows nothing of the others; and members that come or go move nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

from fwd.model.words import Address


@dataclass(frozen=True)
class Far:
    """One far gateway, number `number` of `count`."""

    number: int
    count: int
    address: Address

    def member(self, partner: int) -> int:
        """Return our member that is paired with member `partner` there."""
        return partner * self.count + self.number

    def partner(self, member: int) -> int:
        """Return the member there that our `member` is paired with."""
        return member // self.count

    def members(self, of: int) -> range:
        """Return our members that are paired with it, of so many in all."""
        return range(self.number, of, self.count)


ALONE: Final = Far(0, 1, IPv4Address(0))  # for those that ask only whose members are whose


def far_gateways(addresses: Sequence[Address]) -> tuple[Far, ...]:
    """Return the far gateways of a peering, in the order of its configuration."""
    return tuple(Far(number, len(addresses), address) for number, address in enumerate(addresses))


def far_of(member: int, fars: Sequence[Far]) -> Far:
    """Return the far gateway that a member is paired with."""
    return fars[member % len(fars)]
