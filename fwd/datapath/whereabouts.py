"""Where a member's far member is: what keyd tells of it, and where it was heard since.

A peer may come from another port at any time, as its NAT likes. Another address counts once keyd has found it there,
and told so: else whoever holds a packet back could point what this member sends at others (proto/ike/mobility.py).
"""

from __future__ import annotations

from typing import Final

from fwd.datapath.outbound import Outbound
from fwd.datapath.shared import MemberShared
from fwd.model.config import Peering
from fwd.model.pairing import far_of

_ELSEWHERE_EVERY_S: Final = 1.0


class Whereabouts:
    """Keeps `outbound.peer` current."""

    def __init__(self, peering: Peering, index: int, shared: MemberShared, outbound: Outbound) -> None:
        self._peering = peering
        self._index = index
        self._shared = shared
        self._outbound = outbound
        self._far = shared.far.get()
        self.heard_from = ("", 0)
        self._elsewhere_at = 0.0
        self.look()

    def look(self) -> None:
        """Take the peer to be at the address that keyd has told, at the port where it was heard there last."""
        peering, heard, far = self._peering, self._shared.peer.get(), self._shared.far.get()
        if heard is not None and (far is None or heard[0] == far[0]):
            self._outbound.peer = heard
            return
        paired = far_of(self._index, peering.fars) or peering.fars[0]  # of a free one nothing is sent
        self._outbound.peer = far or (str(paired.address), peering.port_of(paired.partner(self._index)))

    def find(self, address: tuple[str, int], now: float, *, moves: bool) -> bool:
        """Follow the peer to another port, if it `moves`; True: it was heard elsewhere, of which keyd is to know."""
        if address[0] == self._outbound.peer[0]:
            if moves:
                self._go_to(address)
            return False
        if now - self._elsewhere_at < _ELSEWHERE_EVERY_S:
            return False
        self._elsewhere_at = now
        self._shared.elsewhere.put(address)
        return True

    def follow_keyd(self) -> None:
        """Go where IKE has found the peer; a NAT's port that IKE does not know, at the address that it tells, stays."""
        before, far = self._far, self._shared.far.get()
        if far is None or far == before:
            return
        self._far = far
        if self._outbound.peer[:2] == before or self._outbound.peer[0] != far[0]:
            self._go_to(far)

    def _go_to(self, address: tuple[str, int]) -> None:
        self.heard_from = self._outbound.peer = address
        self._shared.peer.put(address)
