"""Where the far members are, as both sides have agreed: told to our members, which send there; and that a NAT before us
keeps the way back open."""

from __future__ import annotations

from collections.abc import Sequence

from fwd.datapath.shared import MemberShared
from fwd.datapath.udp import KEEPALIVE_S
from fwd.keyd.agreement import Terms
from fwd.proto.ike.events import Address
from fwd.proto.ike.mobility import heard_from
from fwd.proto.ike.sa import IkeSa


def place_peer(members: Sequence[MemberShared], sa: IkeSa, theirs: Terms | None, *, shared_port: bool) -> list[int]:
    """Tell members where theirs are, what those answer, and whether a NAT stands before us.

    `theirs` None: the peer is no fwd. Returns those to whom it is news: they may rest.
    """
    # Where all share one port with IKE, a NAT's port for it is the members', too.
    of_ike = theirs is None or (theirs.one_port and shared_port)
    keepalive, echoes = int(sa.peer.sees_nat and not shared_port), int(theirs is not None and theirs.echoes)
    news: list[int] = []
    for index, shared in enumerate(members):
        far = sa.remote if theirs is None or of_ike else (sa.remote[0], theirs.port_of(index))
        if (shared.far.get(), shared.keepalive[0], shared.echoes[0]) != (far, keepalive, echoes):
            news.append(index)
        shared.far.put(far)
        shared.keepalive[0], shared.echoes[0] = keepalive, echoes
    return news


def look_elsewhere(shared: MemberShared, sa: IkeSa | None, now: float, *, shared_port: bool) -> None:
    """Let IKE see about an address where a member hears the peer, and may not follow it by itself."""
    heard = shared.elsewhere.get()
    if heard is None or sa is None:
        return
    if shared_port or not sa.peer.behind_nat:  # else IKE's own port there is anybody's guess
        heard_from(sa, (heard[0], heard[1] if shared_port else 0), now)


class Keepalive:
    """When a NAT keepalive is due on the port that IKE and ESP share (RFC 3948 §4)."""

    def __init__(self, now: float) -> None:
        self._sent_at = now

    def path(self, sa: IkeSa | None, now: float) -> tuple[Address, Address] | None:
        """Return from where to where one is to be sent now; `sa` speaks for the peering."""
        if sa is None or not sa.peer.sees_nat or now < self._sent_at + KEEPALIVE_S:
            return None
        self._sent_at = now
        return sa.local, sa.remote
