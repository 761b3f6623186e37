"""Where the peer is: which address and port of its messages count, and when (RFC 7296 §2.23, RFC 4555 §3.7).

| what an authentic, fresh message shows | mobility none | port | address |
|---|---|---|---|
| another port of the same address | passed over | followed | followed |
| another address, no NAT before the peer | passed over | passed over | checked, then followed |
| another address, a NAT before the peer | passed over | checked, then followed | checked, then followed |

Before the peer has proved who it is, only its port is followed; from behind a NAT of our own nothing is, since who can
write to us could misdirect us. *Checked* means: a request goes there, and its answer must come from there. So nobody
can point what we send at a third party by sending on, or by writing, a message of the peer's with another source
address. Another fwd must give back random octets, so it cannot answer what it has not received.
"""

from __future__ import annotations

import hmac
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

from fwd.proto.ike.events import Address, Moved, Strayed
from fwd.proto.ike.numbers import Exchange, Notify, ProtocolError
from fwd.proto.ike.payloads import AnyPayload, Notification, notified

if TYPE_CHECKING:
    from fwd.proto.ike.sa import IkeSa

Mobility = Literal["none", "port", "address"]
Path = tuple[Address, Address]  # our address, the peer's
PROBE_TRIES: Final = 3  # requests to an address from which nothing comes, about 3 s
PROBE_EVERY_S: Final = 5.0  # between the end of one check and the next
COOKIE2_BYTES: Final = 16
_COOKIE2_SIZES: Final = range(8, 65)  # RFC 4555 §4.2.5


class Whereabouts(Enum):
    """What a message's path means for where we send."""

    STAY = "stay"
    MOVE = "move"
    CHECK = "check"
    STRAY = "stray"  # the peer is elsewhere, and must not be


def judge(
    mobility: Mobility, known: Path, seen: Path, *, established: bool, nat_before_us: bool, nat_before_peer: bool
) -> Whereabouts:
    """Decide by the table above."""
    if seen == known:
        return Whereabouts.STAY
    if not established:
        return Whereabouts.MOVE if seen[1][0] == known[1][0] else Whereabouts.STAY
    if nat_before_us:
        return Whereabouts.STAY
    if mobility == "none":
        return Whereabouts.STRAY if seen[1] != known[1] else Whereabouts.STAY
    if seen[1][0] == known[1][0]:
        return Whereabouts.MOVE
    return Whereabouts.CHECK if mobility == "address" or nat_before_peer else Whereabouts.STRAY


def consider(sa: IkeSa, path: Path, now: float) -> None:
    """Something of the peer's, authentic and new, has taken this path: follow, look, or stay."""
    verdict = judge(
        sa.connection.mobility, (sa.local, sa.remote), path,
        established=sa.speaks, nat_before_us=sa.peer.sees_nat, nat_before_peer=sa.peer.behind_nat,
    )  # fmt: skip
    if verdict is Whereabouts.MOVE:
        follow(sa, path)
    elif verdict is Whereabouts.STRAY:
        stray(sa, path[1], f"mobility is {sa.connection.mobility}")
    elif verdict is Whereabouts.CHECK and now >= sa.probe_not_before:
        looks = any(isinstance(task, Probe) and task.path is not None for task in sa.tasks())
        if not looks:
            sa.submit_first(Probe(path), now)


def heard_from(sa: IkeSa, remote: Address, now: float) -> None:
    """Traffic of the peer's, authentic and new, has come from this address; port 0: from which is not known."""
    consider(sa, (sa.local, (remote[0], remote[1] or sa.remote[1])), now)


def follow(sa: IkeSa, path: Path) -> None:
    """From now on the peer is there."""
    sa.local, sa.remote = path
    if sa.speaks:
        sa.world.tell(Moved(sa.connection.name, sa.remote))


def stray(sa: IkeSa, remote: Address, reason: str) -> None:
    """The peer is not followed there."""
    sa.world.tell(Strayed(sa.connection.name, remote, reason))


class Probe:
    """Whether the peer can be reached on a path: an INFORMATIONAL request that goes there, whoever else is waiting.

    If nothing comes back, the exchange is ended where the peer was: message ids must go on.
    """

    exchange = Exchange.INFORMATIONAL
    about_children = False

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path  # None: given up
        self._cookie = b""

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        if not sa.speaks or self.path is None:
            return None
        if not sa.peer.is_fwd:
            return []
        self._cookie = sa.world.random(COOKIE2_BYTES)
        return [Notification(Notify.COOKIE2, self._cookie)]

    def give_up(self, sa: IkeSa) -> None:
        """Nobody has answered from there. What is sent to where the peer was must not say the cookie."""
        assert self.path is not None
        stray(sa, self.path[1], "no answer came from there")
        self.path = None

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        sa.probe_not_before = now + PROBE_EVERY_S
        if self.path is None:
            return
        given = notified(reply, Notify.COOKIE2)
        if self._cookie and not (given and hmac.compare_digest(given.data, self._cookie)):
            stray(sa, self.path[1], "the answer is not to our request")
        elif sa.answered_from != self.path[1]:
            stray(sa, self.path[1], "the answer came from elsewhere")
        else:
            follow(sa, self.path)

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        sa.probe_not_before = now + PROBE_EVERY_S


def cookie2_of(request: list[AnyPayload]) -> list[AnyPayload]:
    """What an answer gives back of a request that checks our address (RFC 4555 §3.7)."""
    cookie = notified(request, Notify.COOKIE2)
    return [Notification(Notify.COOKIE2, cookie.data)] if cookie and len(cookie.data) in _COOKIE2_SIZES else []
