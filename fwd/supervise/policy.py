"""When a process is started, aborted, killed or left alone: decisions as pure functions of state and time.

    RUNNING  --exit, life ≥ SHORT_LIFE_S-->      start again at once
             --exit, life shorter-->             BACKOFF, longer each time
             --exit, STORM short lives in a row--> FAILED (members: their buckets move), tried again after FAILED_S
             --hangs-->                          SIGABRT for a traceback, SIGKILL KILL_AFTER_S later

A loop with nothing to do says until when it rests (datapath.shared), and is left alone until work waits for it. Any
other that does not turn hangs or is starved of CPU; the process's own CPU clock and state tell which. It hangs if it
has used SPUN_S of CPU since its last turn, or has neither run nor wanted to run for HANG_S. One that wants to run and
is not let has STARVED_S. A supervisor that overslept (suspend, a paused container) forgives: every deadline starts
anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fwd.datapath.shared import ProcessState

HANG_S: Final = 0.8  # idle ticks come every 0.2 s
SPUN_S: Final = 0.5  # of its own CPU time
STARVED_S: Final = 5.0
LATE_S: Final = 0.25  # an idle tick is missed: from here on its state is looked at, too
KILL_AFTER_S: Final = 0.1
SHORT_LIFE_S: Final = 0.5
BACKOFF_S: Final = 0.05  # after the first short life; doubles
STORM: Final = 5
FAILED_S: Final = 10.0
OVERSLEPT_S: Final = 0.5  # between two turns of the supervisor, which take TICK_S, or LOOK_S
TICK_S: Final = 0.05
LOOK_S: Final = 0.4  # while every child rests: nobody is late then, and who ends wakes it
WHOLE_S: Final = 1.0  # and between turns that look at what none of them has to do with
ABSENT_S: Final = 0.3  # a member away for longer gives up its buckets until it is back
BACK_S: Final = 0.2  # after nobody could send, from the first who can until the others give up theirs


class Action(Enum):
    NONE = auto()
    START = auto()
    ABORT = auto()
    KILL = auto()


@dataclass
class Life:
    """What is known of one process slot."""

    state: ProcessState = ProcessState.STOPPED
    started_at: float = 0.0
    ended_at: float = 0.0
    start_at: float = 0.0  # while not running: when to start
    short_lives: int = 0
    aborted_at: float | None = None
    restarts: int = 0
    incarnation: int = 0
    failed: bool = False  # its last state before this life was FAILED
    beat_at: float = 0.0  # its heartbeat as last seen: a time to come while it rests
    turned_at: float = 0.0  # its loop's last turn, by its own word, or when it was last seen to rest rightly
    cpu_s: float = 0.0  # its CPU clock as last seen
    cpu_at_turn_s: float = 0.0  # infinite while it rests, when nobody looks at that clock
    active_at: float = 0.0  # when it was last seen to have run, or to want to

    @property
    def spun_s(self) -> float:
        """CPU time that it has used since its last turn."""
        return max(0.0, self.cpu_s - self.cpu_at_turn_s)


def started(life: Life, now: float) -> None:
    """A process is about to be forked."""
    life.failed = life.state is ProcessState.FAILED
    life.restarts += life.incarnation > 0
    life.incarnation += 1
    life.state = ProcessState.RUNNING
    life.started_at = life.active_at = now
    life.aborted_at = None
    life.beat_at = life.turned_at = life.cpu_s = life.cpu_at_turn_s = 0.0


def exited(life: Life, now: float) -> None:
    """The process was reaped, or could not be forked. After FAILED, one more short life is enough to fail again."""
    short = now - life.started_at < SHORT_LIFE_S
    life.short_lives = life.short_lives + 1 if short else 0
    life.ended_at = now
    if life.short_lives >= STORM:
        life.state = ProcessState.FAILED
        life.start_at = now + FAILED_S
    else:
        life.state = ProcessState.BACKOFF
        life.start_at = now + (BACKOFF_S * 2 ** (life.short_lives - 1) if short and life.short_lives > 1 else 0.0)


def at_once(life: Life, now: float) -> None:
    """What its processes died of is over: the next starts at once, and none that died counts against it."""
    life.short_lives = 0
    life.start_at = min(life.start_at, now)


def rests(life: Life, beat_at: float, now: float) -> bool:
    """Take note of a running process for which no work waits; True if it rests, and so need not be looked at."""
    if beat_at <= now:
        return False
    life.beat_at, life.turned_at, life.cpu_at_turn_s = beat_at, now, float("inf")
    return True


def observed(life: Life, beat_at: float, cpu_s: float, now: float, *, wants_cpu: bool) -> None:
    """Take note of a running process that does not rest, or for which work waits while it does.

    `cpu_s` must have been read before `beat_at`, or a turn between would count.
    """
    if beat_at != life.beat_at:
        life.beat_at, life.turned_at, life.cpu_at_turn_s = beat_at, min(beat_at, now), cpu_s
    life.cpu_at_turn_s = min(life.cpu_at_turn_s, cpu_s)
    if cpu_s != life.cpu_s or wants_cpu:
        life.cpu_s, life.active_at = cpu_s, now


def silent_s(life: Life, forgiven_at: float, now: float) -> float:
    """How long a running process's loop has not turned."""
    return now - max(life.turned_at, life.started_at, forgiven_at)


def decide(life: Life, forgiven_at: float, now: float) -> Action:
    """What to do with the process now. `forgiven_at`: when the supervisor last overslept."""
    if life.state is not ProcessState.RUNNING:
        waits = life.state in (ProcessState.BACKOFF, ProcessState.FAILED)
        return Action.START if waits and now >= life.start_at else Action.NONE
    if life.aborted_at is not None:
        return Action.KILL if now - max(life.aborted_at, forgiven_at) >= KILL_AFTER_S else Action.NONE
    silence_s = silent_s(life, forgiven_at, now)
    blocked = min(silence_s, now - life.active_at) >= HANG_S
    return Action.ABORT if blocked or life.spun_s >= SPUN_S or silence_s >= STARVED_S else Action.NONE


@dataclass
class Comeback:
    """Of members of whom nobody could send, and then one can: mostly the far host was away, and the others follow."""

    none_could: bool = False
    until: float = float("-inf")
    is_awaited: bool = False  # so none of them gives up its buckets yet

    def note(self, now: float, *, one_can: bool) -> None:
        """Take note of whether one of them can send."""
        if one_can and self.none_could:
            self.until = now + BACK_S
        self.none_could = not one_can
        self.is_awaited = one_can and now < self.until


def live_mask(
    lives: Sequence[Life],
    has_begun: Sequence[bool],
    can_send: Sequence[bool],
    forgiven_at: float,
    now: float,
    comeback: Comeback | None = None,
) -> int:
    """Bit i: member i may own buckets.

    `has_begun`: it has had an SA to send on; until then it is as absent as a dead one. One whose loop does not turn, or
    that cannot send (`can_send`: its path is down, its SA has ended), counts only while there is no better one, and
    none is just coming back.
    """
    there = [_is_there(life, begun, now) for life, begun in zip(lives, has_begun, strict=True)]
    up = [here and able for here, able in zip(there, can_send, strict=True)]
    if comeback is not None:
        comeback.note(now, one_can=any(up))
        up = there if comeback.is_awaited else up
    turning = [
        good and not (life.state is ProcessState.RUNNING and silent_s(life, forgiven_at, now) >= HANG_S)
        for good, life in zip(up, lives, strict=True)
    ]
    chosen = next((some for some in (turning, up) if any(some)), there)
    return sum(1 << i for i, yes in enumerate(chosen) if yes)


def _is_there(life: Life, has_begun: bool, now: float) -> bool:
    """Whether a member is there to send, or away for a moment only: its successor may just be starting."""
    if life.state is ProcessState.RUNNING and has_begun:
        return True
    return life.state in (ProcessState.RUNNING, ProcessState.BACKOFF) and now - life.ended_at < ABSENT_S
