"""Both sides begin an IKE SA at once: who answers, and which of two IKE SAs goes."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final

from fwd.proto.ike.events import Address, Connection
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
    return any(other.spi_i + other.spi_r > sa.spi_i + sa.spi_r for other in sas if _speaks(other))


def _order(address: Address) -> bytes:
    return ip_address(address[0]).packed


def _speaks(sa: IkeSa) -> bool:
    """Whether it is an IKE SA of its own: neither on its way, nor going, nor a rival that may yet lose."""
    return sa.state is State.ESTABLISHED and (sa.origin is None or sa.origin.state is not State.REKEYING)
