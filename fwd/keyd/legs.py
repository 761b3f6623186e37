"""The IKE of one peering with each of its far gateways, and which members each of them has.

Far gateways and members come and go while the peering is open (model/pairing.py): members that leave one of them are
taken from it, the last one first, and may be free for another one later; a far gateway that has none left is told that
all is over. Others are not touched.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from fwd.keyd.barrier import Barrier, Guarded
from fwd.keyd.ike import IkePeering
from fwd.keyd.mailbox import KeydPeering
from fwd.keyd.offers import Offers
from fwd.keyd.pairs import MemberPairs
from fwd.model.pairing import Far
from fwd.model.words import Address
from fwd.proto.ike.leaving import Leaving

LINGER_S: Final = 2.0  # a member that is free still accepts what is under way


class Legs:
    """Of one peering. `make`: gives the IKE with a far gateway; `guards`: those of all peerings, its own among them;
    `listen`, `forget`: to a member's socket, and no more.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Address, float], IkePeering | None],
        offers: Offers,
        guards: list[Guarded],
        listen: Callable[[socket.socket, Callable[[float], None]], None],
        forget: Callable[[int], None],
    ) -> None:
        self.of: dict[Address, Guarded] = {}
        self._seats: dict[Address, list[int]] = {}  # members, by their numbers here
        self._name = name
        self._make = make
        self._offers = offers
        self._guards = guards
        self._listen, self._forget = listen, forget
        self._free: dict[int, tuple[float, MemberPairs]] = {}  # who accepts what is under way, and until when
        self._barrier = Barrier(name)

    def match(self, parts: KeydPeering, now: float) -> bool:
        """Let each far gateway have its members; whether one has come, or has none any more."""
        there, fars = len(parts.members), {far.address: far for far in parts.peering.fars}
        self._offers.of(fars)
        self._free = {seat: one for seat, one in self._free.items() if seat < there}
        for address, guard in self.of.items():
            wanted = len(fars[address].members(there)) if address in fars else 0
            while len(self._seats[address]) > wanted:
                self._take(guard, self._seats[address].pop(), parts, now)
            guard.far = fars.get(address, guard.far)

        # A far gateway that comes begins with all of its members.
        before = set(self.of)
        for address, far in fars.items():
            if address in self.of:
                for seat in far.members(there)[len(self._seats[address]) :]:
                    self._give(self.of[address], seat, parts, now)
            elif there >= parts.peering.there:
                self._begin(far, parts, now)
        for address, guard in self.of.items():
            seats = self._seats[address]
            guard.leaves = parts.members[seats[0]].shared.leaves if seats else None
        return set(fars) != before

    def without_members(self, parts: KeydPeering) -> list[Address]:
        """Return the far gateways that are gone."""
        fars = parts.peering.reached
        return [address for address in self.of if address not in fars]

    def end(self, addresses: list[Address], leaving: Leaving, now: float) -> None:
        """End the IKE with these far gateways, and tell them."""
        for address in addresses:
            guard = self.of.pop(address)
            del self._seats[address]
            guard.use(lambda peering: peering.leave(leaving, now), now, None)
            guard.close(now)
            self._guards.remove(guard)

    def tick(self, now: float) -> None:
        """Let members that are free accept nothing more, once nothing is under way."""
        for seat in [seat for seat, (until, _) in self._free.items() if now >= until]:
            self._stop(seat, now)

    def _begin(self, far: Far, parts: KeydPeering, now: float) -> None:
        seats = list(far.members(len(parts.members)))
        for seat in seats:
            self._clear(seat, parts, now)
        guard = Guarded(self._name, partial(self._make, far.address), now, far)
        self._guards.append(guard)
        self.of[far.address], self._seats[far.address] = guard, seats
        for seat in seats:
            self._listen(parts.members[seat].control, partial(_hear, guard, far.partner(seat)))

    def _give(self, guard: Guarded, seat: int, parts: KeydPeering, now: float) -> None:
        """Let a far gateway have one member more."""
        self._clear(seat, parts, now)
        self._seats[guard.far.address].append(seat)
        self._listen(parts.members[seat].control, partial(_hear, guard, guard.far.partner(seat)))
        guard.use(lambda of: of.add_member(parts.members[seat]), now, None)

    def _take(self, guard: Guarded, seat: int, parts: KeydPeering, now: float) -> None:
        """Take a far gateway's last member from it; one whose number stays accepts what is under way."""
        held = guard.use(lambda of: of.drop_member(now), now, None)
        if seat < len(parts.members):
            self._forget(parts.members[seat].control.fileno())
            if held is not None:
                self._free[seat] = now + LINGER_S, held

    def _clear(self, seat: int, parts: KeydPeering, now: float) -> None:
        """Leave nothing of an earlier far gateway to a member that is to have another one."""
        if seat in self._free:
            self._stop(seat, now)
        parts.members[seat].shared.far_leaves_until[0] = 0

    def _stop(self, seat: int, now: float) -> None:
        _, held = self._free.pop(seat)
        self._barrier.call(held.stop, now)


def _hear(guard: Guarded, index: int, now: float) -> None:
    guard.use(lambda peering: peering.hear(index, now), now, None)
