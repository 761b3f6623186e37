"""What an IKE SA wants by itself, and when: to be rekeyed, to ask whether the peer lives, to go.

Its life ends whatever is under way: at its rekeying time and a tenth more, and when the peer's certificate does. Of two
IKE SAs with one peer one goes (both.py); one that a later authentication has taken the place of goes, too, if whoever
authenticated has not deleted it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

from fwd.proto.ike.both import DOUBLE_S, is_double, replaced_at
from fwd.proto.ike.causes import By, Failure
from fwd.proto.ike.exchanges import DeleteIke, Liveness
from fwd.proto.ike.limits import HALF_OPEN_S
from fwd.proto.ike.rekey import RekeyIke
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.states import State

REKEYED_S: Final = 60.0  # how long an IKE SA waits for its Delete once it has a successor
REPLACED_S: Final = 60.0  # and once the peer has authenticated anew
FAREWELL_S: Final = 2.0  # for the answer to a Delete at the end
OVER_TIME: Final = 0.1  # share of its rekeying time for which an IKE SA may go on after it
LATER: Final = (
    0.1  # share of its time for which the responder of two fwds waits longer: the initiator's probe is its own
)


class Due(Enum):
    """What is to be done about an IKE SA. Of several at one time the first goes first."""

    FORGET = "without a word"
    END = "its life is over"
    DELETE = "another one is there"
    REKEY = "it needs a successor"
    PROBE = "the peer is to show that it lives"
    TELL = "the peer is to know whether we are being drained"


def when_due(sa: IkeSa, sas: Sequence[IkeSa]) -> dict[Due, float]:
    """When which is due; `sas`: all IKE SAs of its connection."""
    connection, idle = sa.connection, sa.state is State.ESTABLISHED and not sa.busy
    if sa.state is State.REKEYED:
        return {Due.FORGET: sa.rekeyed_at + REKEYED_S}
    if sa.state is State.CONNECTING:
        return {} if sa.initiator else {Due.FORGET: sa.begun_at + HALF_OPEN_S}
    if sa.state is State.DEAD:
        return {}

    found = {Due.END: ends_at(sa) + (FAREWELL_S if sa.state is State.DELETING else 0)}
    if idle and is_double(sa, sas):
        found[Due.DELETE] = sa.established_at + DOUBLE_S
    elif idle and (since := replaced_at(sa, sas)) is not None:
        found[Due.DELETE] = since + REPLACED_S
    rekey_s = min((one for one in (connection.rekey_s, sa.rekey_s) if one), default=0.0)
    if idle and rekey_s and not sa.is_planned(RekeyIke):
        found[Due.REKEY] = sa.established_at + rekey_s
    if idle and connection.liveness_s:
        is_second = sa.peer.is_fwd and not sa.initiator
        found[Due.PROBE] = sa.heard_at + connection.liveness_s * (1 + LATER * is_second)
    if idle and sa.owes_status:
        found[Due.TELL] = sa.established_at
    return found


def what_is_due(sa: IkeSa, sas: Sequence[IkeSa], now: float) -> Due | None:
    """The first of what is due at `now`."""
    found = when_due(sa, sas)
    return next((due for due in Due if found.get(due, now + 1) <= now), None)


def do_what_is_due(sa: IkeSa, sas: Sequence[IkeSa], now: float) -> None:
    """Do what is due at `now`."""
    match what_is_due(sa, sas, now):
        case Due.FORGET:
            sa.world.fail(Failure.HALF_OPEN_TIMED_OUT if sa.state is State.CONNECTING else None)
            sa.die("", By.REPLACED)
        case Due.END if sa.state is State.ESTABLISHED and not sa.busy:
            sa.distrusts = now >= sa.standing.ends_at
            sa.submit(DeleteIke(why_ended(sa, now), By.TIMER), now)
        case Due.END:
            sa.distrusts = now >= sa.standing.ends_at
            sa.say_farewell()
            sa.die(sa.error or why_ended(sa, now), By.TIMER)
        case Due.DELETE:
            sa.submit(DeleteIke(), now)
        case Due.REKEY:
            sa.submit(RekeyIke(), now)
        case Due.PROBE | Due.TELL:
            sa.submit(Liveness(), now)


def ends_at(sa: IkeSa) -> float:
    """When its life is over: as it was when it was established, so that a shorter time leaves it one to be rekeyed."""
    by_time = sa.established_at + sa.rekey_s * (1 + OVER_TIME) if sa.rekey_s else float("inf")
    return min(by_time, sa.standing.ends_at)


def why_ended(sa: IkeSa, now: float) -> str:
    """In words for the user."""
    if now >= sa.standing.ends_at:
        return sa.standing.ends_why
    return "it could not be rekeyed in time"
