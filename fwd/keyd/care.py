"""What a peering asks of its IKE whenever it is looked at: to delete what was left, renew what is old, make what lacks.

What there is to do each part knows by itself: pairs.py of a member's Child SAs, wants.py of how many there should be,
renewal.py of the IKE SA. Here it becomes requests, in an order that keeps traffic going.
"""

from __future__ import annotations

from collections.abc import Sequence

from fwd.keyd.connection import for_member
from fwd.keyd.pairs import SPARES, MemberPairs
from fwd.keyd.partners import Partners
from fwd.keyd.record import Record
from fwd.keyd.renewal import Renewal
from fwd.keyd.shown import unanswered_s
from fwd.keyd.wants import Wants
from fwd.proto.ike.causes import By
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.exchanges import Inform, resource
from fwd.proto.ike.sa import IkeSa


class Care:
    """Of one peering, whose connection is `name`."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        members: Sequence[MemberPairs],
        record: Record,
        partners: Partners,
        wants: Wants,
        renewal: Renewal,
    ) -> None:
        self._name = name
        self._endpoint = endpoint
        self._members = members
        self._record = record
        self._partners = partners
        self._wants = wants
        self._renewal = renewal

    def delete(self, now: float) -> None:
        """Have deleted what members have left, and what is over."""
        for member in self._members:
            for spi, by in member.due_to_delete(now):
                if by in (By.TIMER, By.COUNT):
                    self._record.child_expired(spi, by, now)
                self._endpoint.delete_child(self._name, spi, now, by)

    def renew_and_make(self, sa: IkeSa, now: float) -> None:
        """Have rekeyed what is old, and made what is missing. `sa` is the IKE SA that speaks for the peering."""
        if silent_s := unanswered_s(sa, self._members, now):
            self._record.unanswered(silent_s, now)

        # The far side knows how many members there are to be.
        if (news := self._partners.news()) is not None:
            sa.submit(Inform([news]), now)

        # What there is is replaced in time, the IKE SA and its Child SAs.
        self._renew(sa, now)
        for index, member in enumerate(self._members):
            alone = index in self._wants.refused or not self._wants.spares(index, sa)
            for spi, by in member.due_to_rekey(now, alone=alone, hold=self._wants.is_held(index, now)):
                self._endpoint.rekey_child(self._name, spi, now, by)

        # What is missing is asked for: first one for each member, then their spares.
        missing = self._wants.missing(sa, lambda index: self._endpoint.asked(self._name, index), now)
        for wanted in range(SPARES + 1, 0, -1):
            for index, count in enumerate(missing):
                if count >= wanted:
                    told = for_member(index), resource(index)
                    self._endpoint.create_child(self._name, index, told, now, self._members[index].lack)

    def _renew(self, sa: IkeSa, now: float) -> None:
        """Authenticate anew when it is time, or nothing else helps; once members have moved, the old IKE SA goes."""
        in_need, bare = self._wants.in_need(now), self._wants.bare()
        reason, by = self._renewal.reason(sa, in_need=in_need, bare=bare, now=now)
        if reason:
            self._record.reauthenticates(reason, now)
            self._endpoint.reauthenticate(self._name, now, by)
        moved = not any(member.superseded for member in self._members)
        if self._renewal.is_old_done_with(moved=moved, now=now) and sa.standing.initiated:
            self._endpoint.delete_older(self._name, sa.standing.authentication, now)
