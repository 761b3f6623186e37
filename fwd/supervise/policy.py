"""When a process is started, aborted, killed or left alone: decisions as pure functions of state and time.

    RUNNING  --exit, life ≥ SHORT_LIFE_S-->      start again at once
             --exit, life shorter-->             BACKOFF, longer each time
             --exit, STORM short lives in a row--> FAILED (members: their buckets move), tried again after FAILED_S
             --exit for want of keys-->          FAILED, tried again after KEYLESS_S
             --no heartbeat for HANG_S-->        SIGABRT for a traceback, SIGKILL KILL_AFTER_S later

A supervisor that overslept (suspend, a paused container) forgives: every deadline starts anew, and nobody is killed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fwd.datapath.shared import ProcessState

FIRST_TURN_S: Final = 2.0  # of a new process, which a busy machine may not run for a while; dead, it would wait anew
HANG_S: Final = 0.8  # idle ticks come every 0.2 s
KILL_AFTER_S: Final = 0.1
SHORT_LIFE_S: Final = 0.5
BACKOFF_S: Final = 0.05  # after the first short life; doubles
STORM: Final = 5
FAILED_S: Final = 10.0
KEYLESS_S: Final = 1.0  # keyd is dead, and will be back
OVERSLEPT_S: Final = 0.4  # between two turns of the supervisor, which take TICK_S
TICK_S: Final = 0.05
ABSENT_S: Final = 0.3  # a member away for longer gives up its buckets until it is back


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


def started(life: Life, now: float) -> None:
    """A process was forked."""
    life.failed = life.state is ProcessState.FAILED
    life.restarts += life.incarnation > 0
    life.incarnation += 1
    life.state = ProcessState.RUNNING
    life.started_at = now
    life.aborted_at = None


def exited(life: Life, now: float, *, keyless: bool = False) -> None:
    """The process was reaped. After FAILED, one more short life is enough to fail again.

    `keyless`: it found no boot record, and so did nothing.
    """
    short = now - life.started_at < SHORT_LIFE_S
    life.short_lives = life.short_lives + 1 if short else 0
    life.ended_at = now
    if keyless:
        life.state = ProcessState.FAILED
        life.start_at = now + KEYLESS_S
    elif life.short_lives >= STORM:
        life.state = ProcessState.FAILED
        life.start_at = now + FAILED_S
    else:
        life.state = ProcessState.BACKOFF
        life.start_at = now + (BACKOFF_S * 2 ** (life.short_lives - 1) if short and life.short_lives > 1 else 0.0)


def decide(life: Life, heartbeat_at: float, forgiven_at: float, now: float) -> Action:
    """What to do with the process now. `forgiven_at`: when the supervisor last overslept."""
    if life.state is not ProcessState.RUNNING:
        waits = life.state in (ProcessState.BACKOFF, ProcessState.FAILED)
        return Action.START if waits and now >= life.start_at else Action.NONE
    if life.aborted_at is not None:
        return Action.KILL if now - max(life.aborted_at, forgiven_at) >= KILL_AFTER_S else Action.NONE
    patience_s = HANG_S if heartbeat_at > life.started_at else FIRST_TURN_S
    silent_since = max(heartbeat_at, life.started_at, forgiven_at)
    return Action.ABORT if now - silent_since >= patience_s else Action.NONE


def live_mask(lives: Sequence[Life], path_down: Sequence[bool], now: float) -> int:
    """Bit i: member i may own buckets. A path that is down counts only while another one is up."""
    there = [
        life.state is ProcessState.RUNNING or (life.state is ProcessState.BACKOFF and now - life.ended_at < ABSENT_S)
        for life in lives
    ]
    up = [here and not down for here, down in zip(there, path_down, strict=True)]
    chosen = up if any(up) else there
    return sum(1 << i for i, yes in enumerate(chosen) if yes)
