"""One Child SA of a member, and its times: from when on it is to be replaced, and when it ends.

Both count from when it was negotiated, whether it is sent on or waits as a spare. Its SAs carry their end with them (a
deadline in CLOCK_BOOTTIME, which is keyd's clock, too), and members keep it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Final

from fwd.keyd.accepted import Accepted
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
    ready_at: float  # the far side has its half, too
    ends_at: float = float("inf")
    ends_early: bool = False  # than its SAs say that were handed out already
    ready: bool = False
    share: float = field(default_factory=lambda: 1 - _JITTER * os.urandom(1)[0] / 255)  # of its time, then replaced
    taken_at: float = 0.0  # when it was sent on first
    asked_at: float = float("-inf")  # when it was to be replaced last
    used: bool = False  # its outbound SA was handed out for good
    left: bool = False  # it was used, and is not any more
    left_by: By = By.REPLACED  # and why
    retire_at: float | None = None  # when it is to be deleted, then
    gone_at: float | None = None  # the far side has left it: when its inbound SA goes
    successor: int | None = None  # the pair that replaces it
    outdated: bool = False  # the peering's subnets are others by now

    @classmethod
    def made(
        cls, keys: ChildKeys, receiver: Accepted, standing: Standing, times: Times, now: float, wait_s: float
    ) -> Pair:
        """A pair as it is negotiated; who has answered is ahead of who has asked, by `wait_s` at most."""
        ends_at = min(now + times.life_s if times.life_s else float("inf"), standing.ends_at)
        if ends_at != float("inf"):
            keys = _ending(keys, ends_at)
        return cls(
            keys, receiver, standing, times, now, now if keys.initiated else now + wait_s, ends_at, ready=keys.initiated
        )

    @property
    def spi(self) -> int:
        return self.keys.inbound.spi

    @property
    def spare(self) -> bool:
        """Whether nobody has sent on it, and it may yet be."""
        return self.ready and not self.used and self.gone_at is None and self.successor is None

    def is_old(self, times: Times, now: float) -> bool:
        """Whether it is time to replace it: shorter times hold at once, longer ones would let it end first."""
        replace_s = min((one.replace_s for one in (times, self.times) if one.replace_s), default=float("inf"))
        return self.outdated or now >= self.made_at + replace_s * self.share

    def is_settled(self, times: Times, now: float) -> bool:
        """Whether nothing is to become of it: it is not on its way, nor going, nor old."""
        return self.ready and self.gone_at is None and self.retire_at is None and not self.is_old(times, now)

    def take(self, now: float) -> None:
        """Note that somebody sends on it."""
        self.used, self.taken_at = True, now
        self.left, self.retire_at = False, None

    def again_s(self, times: Times) -> float:
        """Between two attempts to replace it."""
        return min(times.again_s, self.times.again_s)

    def end_by(self, at: float) -> None:
        """Let it end earlier than it was to."""
        self.ends_at, self.ends_early = at, True
        self.keys = _ending(self.keys, at)


def _ending(keys: ChildKeys, at: float) -> ChildKeys:
    deadline_ms = max(1, int(at * 1000))
    inbound, outbound = (replace(one, deadline_ms=deadline_ms) for one in (keys.inbound, keys.outbound))
    return replace(keys, inbound=inbound, outbound=outbound)
