"""What IKE tells of Child SAs, handed to the members that they are for.

A member may have left while a Child SA for it was under way: then that is deleted again. Which member accepts the
inbound half is in its SPI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fwd.keyd.accepted import NoSlotError
from fwd.keyd.narrower import Narrower
from fwd.keyd.pair import Times
from fwd.keyd.pairs import MemberPairs
from fwd.keyd.record import Record
from fwd.keyd.renewal import Renewal
from fwd.keyd.wants import REFUSED_S, Wants
from fwd.model.pairing import Far
from fwd.proto.ike.causes import By
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import ChildConfirmed, ChildDown, ChildRefused, ChildUp
from fwd.proto.ike.numbers import notify_name


class Handing:
    """Of one peering, whose connection is `name`. `times`: in force now. `reveal` is told keys, if a user wants it."""

    def __init__(
        self,
        name: str,
        far: Far,
        times: Times,
        endpoint: Endpoint,
        members: Sequence[MemberPairs],
        wants: Wants,
        renewal: Renewal,
        narrower: Narrower,
        record: Record,
        reveal: Callable[[Any], None] | None,
    ) -> None:
        self._name = name
        self._far = far
        self.times = times
        self._endpoint = endpoint
        self._members = members
        self._wants = wants
        self._renewal = renewal
        self._narrower = narrower
        self._record = record
        self._reveal = reveal

    def up(self, what: ChildUp, now: float) -> None:
        """Hand a Child SA to its member, or have it deleted: the member has left, or has no room for it."""
        child = what.child
        if child.member >= len(self._members):
            self._endpoint.delete_child(self._name, child.inbound.spi, now)
            return
        member, receiver = self._far.member(child.member), self._far.partner(child.inbound.spi & 0xFF)
        try:
            self._members[child.member].up(child, what.replaces, self._members[receiver].accepted, what.standing, now)
        except NoSlotError as error:
            self._record.no_room(member, error, now)
            self._endpoint.delete_child(self._name, child.inbound.spi, now, By.REFUSED)
            self._wants.hold(child.member, now + REFUSED_S)
            return

        # What the member lacked, it has.
        self._renewal.helped()
        if what.replaces is None:  # a replacement is none more
            self._wants.given(child.member)
        self._narrower.note(member, child.outbound.narrowed, now)
        if self._reveal is not None:
            self._reveal(what)

    def confirmed(self, what: ChildConfirmed) -> None:
        """Let a member send on a Child SA: the far side accepts it."""
        if what.member < len(self._members):
            self._members[what.member].confirm(what.spi)

    def down(self, what: ChildDown, now: float) -> None:
        """Take a Child SA from its member."""
        if what.member < len(self._members):
            self._members[what.member].down(what.spi, now, what.by, deaf=what.at_once)

    def refused(self, what: ChildRefused, now: float) -> None:
        """Ask for nothing more for a member for a while."""
        self._wants.refuse(what.member, notify_name(what.notify), now + min(REFUSED_S, self.times.again_s))

    def is_free(self, spi: int) -> bool:
        """Whether no member knows this inbound SPI."""
        return not any(member.accepted.knows(spi) for member in self._members)
