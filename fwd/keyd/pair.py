"""One Child SA of a member: its state (pair_states.py), and its times: when it is to be replaced, and when it ends.

Both count from when it was negotiated, whether it is sent on or waits as a spare. Its SAs carry their end with them (a
deadline in CLOCK_BOOTTIME, which is keyd's clock, too), and members keep it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from fwd.keyd.accepted import Accepted
from fwd.keyd.pair_states import Happening, Life, after
from fwd.proto.ike.causes import By
from fwd.proto.ike.events import ChildKeys, Standing

AGAIN_MIN_S: Final = 0.5  # between two attempts to replace it
AGAIN_MAX_S: Final = 10.0
_AGAIN_SHARE = 0.25  # of the time between the first attempt and its end
_JITTER = 0.1


@dataclass(frozen=True)
class Times:
    """Of a peering, in seconds. 0: never."""

    rekey_s: float
    life_s: float

    @property
    def again_s(self) -> float:
        """Between two attempts to replace what is old; a refusal is no reason to wait until it ends."""
        if not self.life_s:
            return AGAIN_MAX_S
        return min(max((self.life_s - self.replace_s) * _AGAIN_SHARE, AGAIN_MIN_S), AGAIN_MAX_S)

    @property
    def replace_s(self) -> float:
        """The age at which it is to be replaced; some are a little earlier."""
        return self.rekey_s or self.life_s * (1 - _JITTER)


@dataclass
class Pair:
    """One Child SA of this member."""

    keys: ChildKeys
    receiver: Accepted  # who has its inbound half
    standing: Standing  # of the IKE SA that it was made on
    times: Times  # that were in force then
    made_at: float
    ready_at: float  # the far side has its half by then
    life: Life
    ends_at: float = float("inf")
    ends_early: bool = False  # than its SAs say that were handed out already
    share: float = field(default_factory=lambda: 1 - _JITTER * os.urandom(1)[0] / 255)  # of its time, then replaced
    taken_at: float = 0.0  # when it was sent on first
    asked_at: float = float("-inf")  # when it was to be replaced last
    left_by: By = By.REPLACED  # why the member has left it
    retire_at: float | None = None  # when it is to be deleted, then
    gone_at: float | None = None  # when its inbound SA goes, once the far side has left it
    successor: int | None = None  # the pair that replaces it
    outdated: bool = False  # the peering's subnets are others than were offered: it is superseded, and not rekeyed
    deaf: bool = False  # the peer accepts nothing on it any more

    @classmethod
    def made(
        cls, keys: ChildKeys, receiver: Accepted, standing: Standing, times: Times, now: float, wait_s: float
    ) -> Pair:
        """A pair as it is negotiated; who has answered is ahead of who has asked, by `wait_s` at most."""
        ends_at = min(now + times.life_s if times.life_s else float("inf"), standing.ends_at)
        if ends_at != float("inf"):
            keys = _ending(keys, ends_at)
        life = Life.SPARE if keys.initiated else Life.WAITING
        ready_at = now if keys.initiated else now + wait_s
        return cls(keys, receiver, standing, times, now, ready_at, life, ends_at, outdated=keys.outdated)

    @property
    def spi(self) -> int:
        return self.keys.inbound.spi

    def note(self, happening: Happening) -> None:
        """Every change of state. Raises IllegalMoveError, and changes nothing, if it cannot be (pair_states.py)."""
        self.life = after(self.life, happening)

    @property
    def spare(self) -> bool:
        """Whether nobody has sent on it, and it may yet be."""
        return self.life is Life.SPARE

    @property
    def gone(self) -> bool:
        """Whether the far side has left it."""
        return self.life is Life.GONE

    def is_fresh(self, authentication: int) -> bool:
        """Whether it rests on this authentication, or a later one, and carries what is configured."""
        return not self.outdated and self.standing.authentication >= authentication

    def is_old(self, times: Times, now: float) -> bool:
        """Whether it is time to replace it: shorter times hold at once, longer ones would let it end first."""
        replace_s = min((one.replace_s for one in (times, self.times) if one.replace_s), default=float("inf"))
        return self.outdated or now >= self.made_at + replace_s * self.share

    def is_ready_by(self, now: float) -> bool:
        """Whether the peer, whose half was not there for certain, has it by now."""
        return self.life is Life.WAITING and (now >= self.ready_at or self.receiver.heard(self.spi))

    def is_settled(self, times: Times, now: float) -> bool:
        """Whether nothing is to become of it: it is not on its way, nor going, nor old."""
        moves = self.life in (Life.WAITING, Life.GONE) or self.retire_at is not None
        return not moves and not self.is_old(times, now)

    def take(self, now: float) -> None:
        """Note that the member sends on it."""
        self.note(Happening.SENT_ON)
        self.taken_at, self.retire_at = now, None

    def may_ask_again(self, times: Times, now: float) -> bool:
        """Whether the last attempt to replace it was long enough ago."""
        return now >= self.asked_at + min(times.again_s, self.times.again_s)

    def is_left_to_end(self, times: Times, now: float) -> bool:
        """Whether the far side was asked to replace it, has not, and its end comes near."""
        asked = self.asked_at > float("-inf") and self.may_ask_again(times, now)
        return asked and self.successor is None and self.is_old(times, now)

    def end_by(self, at: float) -> None:
        """Let both its SAs end earlier than they were to."""
        self.ends_at, self.ends_early = at, True
        self.keys = _ending(self.keys, at)
        self.receiver.end_one_by(self.spi, self.keys.inbound.deadline_ms)


def next_end(pairs: Iterable[Pair]) -> float | None:
    """When the life of one of them is over next; None: never."""
    return min((pair.ends_at for pair in pairs if pair.ends_at < float("inf")), default=None)


def next_renewal(pairs: Iterable[Pair], times: Times) -> float | None:
    """When one of them is to be replaced next; None: never."""
    after_s = times.replace_s
    return min((pair.made_at + after_s * pair.share for pair in pairs if after_s), default=None)


def _ending(keys: ChildKeys, at: float) -> ChildKeys:
    deadline_ms = max(1, int(at * 1000))
    inbound, outbound = (replace(one, deadline_ms=deadline_ms) for one in (keys.inbound, keys.outbound))
    return replace(keys, inbound=inbound, outbound=outbound)
