"""The supervisor's decisions: tables of what is known, and what follows."""

from __future__ import annotations

import pytest

from fwd.datapath.shared import ProcessState
from fwd.supervise import policy
from fwd.supervise.policy import Action, Life

RUNNING, BACKOFF, FAILED, STOPPED = (
    ProcessState.RUNNING, ProcessState.BACKOFF, ProcessState.FAILED, ProcessState.STOPPED
)  # fmt: skip
TINY = 0.001


def running(since: float = 0.0) -> Life:
    life = Life(state=BACKOFF)
    policy.started(life, since)
    return life


def live_and_die(life: Life, now: float, seconds: float) -> float:
    policy.started(life, now)
    policy.exited(life, now + seconds)
    return now + seconds


# life, heartbeat, forgiven, now → action
DECISIONS = [
    ("a new slot that nobody wants yet", Life(), 0, 0, 9, Action.NONE),
    ("a new slot to be started", Life(state=BACKOFF), 0, 0, 0, Action.START),
    ("runs, fresh heartbeat", running(), 9.9, 0, 10, Action.NONE),
    ("runs, an idle tick late", running(), 9.5, 0, 10, Action.NONE),
    ("hangs", running(), 10 - policy.HANG_S - TINY, 0, 10, Action.ABORT),
    ("just started, with its predecessor's heartbeat", running(9.9), 1.0, 0, 10, Action.NONE),
    ("has not turned yet", running(0), 0, 0, policy.FIRST_TURN_S - TINY, Action.NONE),
    ("never gave a heartbeat", running(0), 0, 0, policy.FIRST_TURN_S + TINY, Action.ABORT),
    ("a predecessor's heartbeat", running(5), 4.9, 0, 5 + policy.HANG_S + TINY, Action.NONE),
    ("silent, but the supervisor overslept", running(), 1.0, 9.9, 10, Action.NONE),
    ("silent since, too", running(), 1.0, 9.0, 10, Action.ABORT),
]


@pytest.mark.parametrize(
    ("what", "life", "heartbeat", "forgiven", "now", "action"), DECISIONS, ids=lambda v: str(v)[:40]
)
def test_decisions(what: str, life: Life, heartbeat: float, forgiven: float, now: float, action: Action) -> None:
    assert policy.decide(life, heartbeat, forgiven, now) is action, what


def test_one_that_hangs_is_aborted_then_killed() -> None:
    life = running()
    life.aborted_at = 10.0
    assert policy.decide(life, 1.0, 0, 10.0) is Action.NONE
    assert policy.decide(life, 1.0, 0, 10.0 + policy.KILL_AFTER_S - TINY) is Action.NONE
    assert policy.decide(life, 1.0, 0, 10.0 + policy.KILL_AFTER_S + TINY) is Action.KILL
    assert policy.decide(life, 1.0, 10.1, 10.15) is Action.NONE  # overslept meanwhile: it may be writing its traceback
    assert policy.decide(life, 10.05, 0, 10.2) is Action.KILL  # a late heartbeat does not save an aborted one


def test_one_that_lived_is_started_again_at_once() -> None:
    life = running()
    policy.exited(life, policy.SHORT_LIFE_S)
    assert life.state is BACKOFF
    assert policy.decide(life, 0, 0, policy.SHORT_LIFE_S) is Action.START


def test_the_first_short_life_is_forgiven_then_waits_double() -> None:
    life, now, waits = Life(state=BACKOFF), 0.0, []
    for _ in range(policy.STORM - 1):
        now = live_and_die(life, now, 0.1)
        assert life.state is BACKOFF
        waits.append(round(life.start_at - now, 6))
        assert policy.decide(life, 0, 0, life.start_at) is Action.START
        if life.start_at > now:
            assert policy.decide(life, 0, 0, now) is Action.NONE
    assert waits == [0.0, *[round(policy.BACKOFF_S * 2**n, 6) for n in range(1, policy.STORM - 1)]]


def test_a_storm_makes_failed_and_one_more_short_life_fails_again() -> None:
    life, now = Life(state=BACKOFF), 0.0
    for _ in range(policy.STORM):
        now = live_and_die(life, max(now, life.start_at), 0.1)
    assert life.state is FAILED
    assert policy.decide(life, 0, 0, now + policy.FAILED_S - TINY) is Action.NONE
    assert policy.decide(life, 0, 0, now + policy.FAILED_S) is Action.START
    now = live_and_die(life, now + policy.FAILED_S, 0.1)
    assert life.failed, "it must know that it comes from failed"
    assert life.state is FAILED
    now = live_and_die(life, now + policy.FAILED_S, policy.SHORT_LIFE_S + 1)
    assert life.state is BACKOFF
    policy.started(life, now)
    assert not life.failed
    assert life.short_lives == 0


def test_a_long_life_ends_a_row_of_short_ones() -> None:
    life, now = Life(state=BACKOFF), 0.0
    for _ in range(3 * policy.STORM):
        now = live_and_die(life, now, 0.1)
        now = live_and_die(life, now, 10.0)
        assert life.state is BACKOFF


def test_lives_are_numbered() -> None:
    life = Life(state=BACKOFF)
    for n in range(1, 5):
        policy.started(life, float(n))
        assert (life.incarnation, life.restarts, life.state, life.aborted_at) == (n, n - 1, RUNNING, None)
        life.aborted_at = n + 0.1
        policy.exited(life, n + 0.2)


UP, DOWN = False, True
MASKS = [
    ("all run", [RUNNING] * 3, [UP] * 3, 0.0, 0b111),
    ("one failed", [RUNNING, FAILED, RUNNING], [UP] * 3, 0.0, 0b101),
    ("one away for a moment keeps its buckets", [RUNNING, BACKOFF], [UP] * 2, policy.ABSENT_S - TINY, 0b11),
    ("one away for longer", [RUNNING, BACKOFF], [UP] * 2, policy.ABSENT_S + TINY, 0b01),
    ("one not started yet", [RUNNING, STOPPED], [UP] * 2, 0.0, 0b01),
    ("a path is down", [RUNNING] * 3, [UP, DOWN, UP], 0.0, 0b101),
    ("all paths are down: better than nothing", [RUNNING] * 2, [DOWN, DOWN], 0.0, 0b11),
    ("the only one with a path has failed", [FAILED, RUNNING], [UP, DOWN], 0.0, 0b10),
    ("nobody", [FAILED, FAILED], [UP, UP], 0.0, 0),
    ("sixty-four", [RUNNING] * 64, [UP] * 64, 0.0, 2**64 - 1),
]


@pytest.mark.parametrize(("what", "states", "down", "away_s", "mask"), MASKS, ids=lambda v: str(v)[:40])
def test_live_mask(what: str, states: list[ProcessState], down: list[bool], away_s: float, mask: int) -> None:
    lives = [Life(state=state, ended_at=100.0) for state in states]
    assert policy.live_mask(lives, down, 100.0 + away_s) == mask, what
