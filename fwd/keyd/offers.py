"""What the TUN devices of a peering's far gateways take: ours gives no super-packet that one of them does not."""

from __future__ import annotations

from functools import reduce
from operator import and_

from fwd.datapath.shared import PeeringShared


class Offers:
    """Of one peering, told to the supervisor whenever a far gateway tells it."""

    def __init__(self, shared: PeeringShared, far_gateways: int) -> None:
        self._shared = shared
        self._count = far_gateways
        self._before = shared.far_offloads  # what an earlier keyd has told
        self._told: dict[int, int] = {}

    def put(self, number: int, offloads: int) -> None:
        """Far gateway `number` takes these flags of TUNSETOFFLOAD; of those that have not told the old ones count."""
        self._told[number] = offloads
        known = list(self._told.values())
        if len(known) < self._count and self._before is not None:
            known.append(self._before)
        self._shared.far_offloads = reduce(and_, known)
