"""A peering that is to be closed steps aside first: routers on both sides look elsewhere while it still carries. So do
those members of it whose far gateway is to go.

    to be closed ──▶ its beacon, and by IKE its far gateways' beacons, say that nothing passes ──STEP_ASIDE_S──▶ closed

So nothing is lost of what goes by other gateways then. Only where routers ask: without them nobody looks elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from fwd.datapath.counters import BeaconCounter
from fwd.supervise.peering import PeeringParts
from fwd.supervise.standing import Standing

# keyd looks for what it is to tell each 0.4 s (GLANCE_S), routers ask each 0.1 s, and a busy machine has its delays.
STEP_ASIDE_S: Final = 2.0


class Aside:
    """Which peerings and members have stepped aside, and since when."""

    def __init__(self, standing: Standing) -> None:
        self._standing = standing
        self._since: dict[str, tuple[PeeringParts, Collection[int] | None, float]] = {}

    def waits(self, leaving: Mapping[str, Collection[int] | None], now: float) -> bool:
        """Have these members of these peerings, None: all, step aside, and no others; whether one of them is to carry
        for a while yet.
        """
        names = leaving.keys() & self._standing.peerings.keys()
        for name in self._since.keys() - names:
            parts, _, _ = self._since.pop(name)
            if self._standing.peerings.get(name) is parts:  # it is wanted after all, or others have its place
                _say(parts, ())
        if not names or not self._is_asked():
            return False

        # One that was closed and is open again has not stepped aside, nor have other members of it.
        for name in names:
            parts, members = self._standing.peerings[name], leaving[name]
            before = self._since.get(name)
            if before is None or before[0] is not parts or before[1] != members:
                self._since[name] = parts, members, now
                _say(parts, members)
        return any(now < since + STEP_ASIDE_S for _, _, since in self._since.values())

    def _is_asked(self) -> bool:
        """Whether routers ask: one has been answered."""
        counted = self._standing.shared.beacon_counters.read()
        return self._standing.beacon is not None and counted[BeaconCounter.ANSWERED] > 0


def _say(parts: PeeringParts, leaving: Collection[int] | None) -> None:
    for number, member in enumerate(parts.shared.members):
        member.leaves[0] = leaving is None or number in leaving
