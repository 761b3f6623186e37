"""Which member of a peering is paired with which of its far gateways, and with which member there.

    far gateways:  A  B        member:   0    1    2    3    4
                               partner:  A:0  B:0  A:1  B:1  A:2

Member i is paired with far gateway i mod n, and there with member i div n. So each far gateway is an ordinary one, with
one remote address and fewer members, and knows nothing of the others; and members that come or go move nobody.

Where far gateways come and go while the peering is open (`reseated`), who stays keeps its members, and these their
numbers; a new one is paired with members that are new or free:

    A and B, C comes:          A    B    A    B    C    C
    then A goes:               -    B    -    B    C    C
    then D comes:              D    B    D    B    C    C

Those of one far gateway are always evenly apart, since that is all that can be told of their ports (keyd/agreement.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from typing import Any, Final

from fwd.model.words import Address

SEATS_MAX: Final = 64  # members of a peering, those that leave among them


@dataclass(frozen=True)
class Far:
    """One far gateway, number `number` of `count`. `seats`: the numbers of our members that are paired with it."""

    number: int
    count: int
    address: Address
    seats: range
    keeps: int = SEATS_MAX  # of `seats` the first so many stay; none: the far gateway is on its way out
    identity: str | None = None  # of one that is on its way out, as far as it was configured

    def member(self, partner: int) -> int:
        """Return our member that is paired with member `partner` there."""
        return self.seats.start + partner * self.seats.step

    def partner(self, member: int) -> int:
        """Return the member there that our `member` is paired with."""
        return (member - self.seats.start) // self.seats.step

    def members(self, of: int) -> range:
        """Return our members that are paired with it, of so many in all."""
        return range(self.seats.start, min(of, self.seats.stop), self.seats.step)

    def staying(self, of: int) -> range:
        """Return those of them that do not leave."""
        return self.members(of)[: self.keeps]


def far_gateways(addresses: Sequence[Address]) -> tuple[Far, ...]:
    """Return the far gateways of a peering, in the order of its configuration."""
    count = len(addresses)
    return tuple(Far(i, count, address, range(i, SEATS_MAX, count)) for i, address in enumerate(addresses))


ALONE: Final = far_gateways([IPv4Address(0)])[0]  # for those that ask only whose members are whose


def far_of(member: int, fars: Sequence[Far]) -> Far | None:
    """Return the far gateway that a member is paired with; None: it is free."""
    return next((far for far in fars if member in far.seats), None)


def shares(members: int, addresses: Sequence[Address]) -> dict[Address, int]:
    """Return how many of so many members each far gateway is to be paired with."""
    return {address: len(range(i, members, len(addresses))) for i, address in enumerate(addresses)}


def reseated(now: Iterable[Far], there: int, wanted: dict[Address, int], most: int = SEATS_MAX) -> tuple[Far, ...]:
    """Return who is paired with whom once each far gateway in `wanted` has so many members; those that are to leave
    keep their seats meanwhile.

    `there`: how many members there are. Empty: it cannot be done while all that stay keep their numbers.
    """
    before = {far.address: replace(far, seats=far.members(there)) for far in now}
    taken = {seat for far in before.values() for seat in far.seats}
    found: list[Far] = []
    for address, count in wanted.items():
        far = before.pop(address, None)
        seats = _seats_for(far.seats if far else range(0), count, taken, most)
        if seats is None:
            return ()
        taken |= set(seats)
        found.append(Far(0, 0, address, seats, count))

    # Who is not wanted any more stays for as long as one of its members does.
    found += [replace(far, keeps=0) for far in before.values() if far.seats]
    return numbered(found)


def numbered(fars: Sequence[Far]) -> tuple[Far, ...]:
    """Number far gateways anew, in their order."""
    return tuple(replace(far, number=number, count=len(fars)) for number, far in enumerate(fars))


def _seats_for(own: range, count: int, taken: set[int], most: int) -> range | None:
    """Return so many seats evenly apart, `own` among them, or all of these if they are more; the lowest there are."""
    if len(own) >= count:
        return own
    starts = [own.start] if own else [seat for seat in range(most) if seat not in taken]
    steps = [own.step] if own else range(1, most)
    others = taken - set(own)
    found = [range(start, start + step * (count - 1) + 1, step) for start in starts for step in steps]
    free = [one for one in found if one[-1] < most and others.isdisjoint(one)]
    return min(free, key=lambda one: (one[-1], one.step), default=None)


def to_json(fars: Iterable[Far]) -> list[Any]:
    """Write down who is paired with whom."""
    return [[str(f.address), f.seats.start, f.seats.stop, f.seats.step, f.keeps, f.identity] for f in fars]


def from_json(told: Iterable[Sequence[Any]]) -> tuple[Far, ...]:
    """Return who is paired with whom, as it was written down."""
    return numbered([Far(0, 0, ip_address(one[0]), range(*one[1:4]), *one[4:6]) for one in told])
