"""What a gateway and its far gateway tell each other before one of them closes a peering (supervise/aside.py).

Who closes says so by a notify of fwd's own on each IKE SA. Who hears it has its beacon tell routers to look elsewhere
for the members that are paired with that far gateway, while all that is under way still arrives. Not for longer than
LEAVES_S: then the far side has closed, or has thought better of it and could not say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from fwd.datapath.shared import MemberShared
from fwd.proto.ike.numbers import Notify, Status
from fwd.proto.ike.payloads import Notification

if TYPE_CHECKING:
    from fwd.keyd.ike import IkePeering

LEAVES_S: Final = 5.0


def tell(peering: IkePeering, *, drains: bool, leaves: bool) -> None:
    """Let the far gateway know whether this gateway is being drained, and whether the peering is about to be closed."""
    known = peering.connection
    if (known.drains, known.leaves) != (drains, leaves):
        peering.connection = replace(known, drains=drains, leaves=leaves)
        peering.endpoint.change(peering.connection)


def hear(members: Iterable[MemberShared], told: Notification) -> bool:
    """Take what the far gateway says, for the members that are paired with it; False: it is about something else."""
    if told.kind != Notify.FWD_STATUS:
        return False
    leaves = bool(told.data) and bool(told.data[0] & Status.LEAVES)
    until_ns = time.monotonic_ns() + int(LEAVES_S * 1e9) if leaves else 0
    for member in members:
        member.far_leaves_until[0] = until_ns
    return True
