"""How many members both sides have, and what else the two fwds tell each other of a peering (agreement.py).

Said in IKE_AUTH, and once more in INFORMATIONAL when it changes: the whole terms, so that it can be repeated. A member
without a partner of its number is not asked a Child SA for, and its demux drains it (supervise/draining.py).
"""

from __future__ import annotations

from fwd.datapath.shared import PeeringShared
from fwd.keyd.agreement import Terms
from fwd.keyd.connection import terms_of
from fwd.model.config import Peering
from fwd.model.pairing import Far
from fwd.proto.ike.payloads import Notification


class Partners:
    """Of one peering, towards one far gateway. `ours` and `theirs`: the terms of both sides."""

    def __init__(self, peering: Peering, offloads: int, far: Far, shared: PeeringShared) -> None:
        self._offloads = offloads
        self._far = far
        self._shared = shared
        self._due = False  # the far side is to be told of ours
        self.ours = terms_of(peering, offloads, far)
        self.theirs: Terms | None = None  # None: no fwd, or nobody yet

    def change(self, peering: Peering, far: Far) -> Far:
        """Take our other terms; the far side is told when there is somebody to tell. Returns the far gateway."""
        alone, self._far = self._far.count == 1, far
        if alone != (far.count == 1):
            self._show()
        before, self.ours = self.ours, terms_of(peering, self._offloads, far)
        self._due = self._due or self.ours != before
        return far

    def news(self) -> Notification | None:
        """Return what the far side is to be told now, if it is a fwd, and there is anything."""
        due, self._due = self._due, False
        return self.ours.notification() if due and self.theirs is not None else None

    def hear(self, theirs: Terms | None) -> bool:
        """Take what the far side says; whether it has more members than before, or may have."""
        before, self.theirs = self.theirs, theirs
        self._show()
        return before is None or theirs is None or theirs.members > before.members

    def _show(self) -> None:
        """Let the demux know. Of several far gateways none tells it: members that are paired with one of them do not
        drain by it.
        """
        theirs = self.theirs if self._far.count == 1 else None
        self._shared.far_members = (theirs.members, theirs.drain_s) if theirs else (0, 0)

    def lacks(self, index: int) -> bool:
        """Whether the far side has no member of this number."""
        return self.theirs is not None and 0 < self.theirs.members <= index

    def why_refused(self, members: int) -> dict[int, str]:
        """Return our members that have no partner, and that this is so."""
        count = self.theirs.members if self.theirs else 0
        return {index: f"the far side has {count} members" for index in range(members) if self.lacks(index)}
