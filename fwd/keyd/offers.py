"""What the TUN devices of a peering's far gateways take: ours gives no super-packet that one of them does not."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import and_

from fwd.datapath.shared import PeeringShared
from fwd.model.words import Address


class Offers:
    """Of one peering, told to the supervisor whenever a far gateway tells it."""

    def __init__(self, shared: PeeringShared, far_gateways: Iterable[Address]) -> None:
        self._shared = shared
        self._of = set(far_gateways)
        self._before = shared.far_offloads  # what an earlier keyd has told
        self._told: dict[Address, int] = {}

    def put(self, address: Address, offloads: int) -> None:
        """This far gateway takes these flags of TUNSETOFFLOAD; of those that have not told the old ones count."""
        self._told[address] = offloads
        self._tell()

    def of(self, far_gateways: Iterable[Address]) -> None:
        """Go by what these take, and no others."""
        before, self._of = self._of, set(far_gateways)
        self._told = {address: offloads for address, offloads in self._told.items() if address in self._of}
        if self._of != before and self._told:
            self._tell()

    def _tell(self) -> None:
        known = list(self._told.values())
        if len(known) < len(self._of) and self._before is not None:
            known.append(self._before)
        self._shared.far_offloads = reduce(and_, known)
