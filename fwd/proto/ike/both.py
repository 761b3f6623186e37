"""Both sides begin an IKE SA at once: who answers, and which of two IKE SAs goes.

Two that were not begun at once are an old one and a new one: the peer, or we, have authenticated anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from fwd.proto.ike.events import Address, Connection, Standing
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import State

FIRST_S: Final = 1.0  # how long an attempt of ours may keep the peer's from being answered
DOUBLE_S: Final = 2.0  # how long a second IKE SA with the same peer is let be


def goes_first(sas: Sequence[IkeSa], connection: Connection, now: float) -> bool:
    """Whether our attempt does: the one that has come as far as IKE_AUTH, for a while, else the lower address's.

    The other side answers, too, and gives way once the peer has proved who it is: anybody can send a first message.
    """
    return any(
        sa.initiator
        and sa.state is State.CONNECTING
        and now < sa.begun_at + FIRST_S
        and (sa.keys is not None or _order(connection.local) < _order(connection.remote))
        for sa in sas
    )


def peer_begins(sas: Sequence[IkeSa], now: float) -> bool:
    """Whether the peer has begun lately, so that we need not."""
    return any(sa.state is State.CONNECTING and not sa.initiator and now < sa.begun_at + FIRST_S for sa in sas)


def is_double(sa: IkeSa, sas: Sequence[IkeSa]) -> bool:
    """Whether this one goes, by us who have begun it: of two IKE SAs the one with the lower SPIs does."""
    if not sa.initiator or not _speaks(sa):
        return False
    others = [other for other in sas if _speaks(other) and at_once(sa.standing, other.standing)]
    return any(other.spi_i + other.spi_r > sa.spi_i + sa.spi_r for other in others)


def replaced_at(sa: IkeSa, sas: Sequence[IkeSa]) -> float | None:
    """When both sides authenticated anew, if they have and the new IKE SA lives."""
    mine, others = sa.standing, [other.standing for other in sas if _speaks(other)]
    later = [one for one in others if one.authentication > mine.authentication and not at_once(mine, one)]
    return min((one.authenticated_at for one in later), default=None)


def at_once(one: Standing, other: Standing) -> bool:
    """Whether each side has begun one of them, not knowing of the other."""
    if one.initiated == other.initiated:
        return False
    return one.begun_at <= other.authenticated_at and other.begun_at <= one.authenticated_at


def _order(address: Address) -> bytes:
    return ip_address(address[0]).packed


def _speaks(sa: IkeSa) -> bool:
    """Whether it is an IKE SA of its own: neither on its way, nor going, nor a rival that may yet lose."""
    return sa.state is State.ESTABLISHED and (sa.origin is None or sa.origin.state is not State.REKEYING)
