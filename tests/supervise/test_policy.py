"""The supervisor's decisions: tables of what is known, and what follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fwd.datapath.shared import ProcessState
from fwd.supervise import policy
from fwd.supervise.policy import Action, Life

RUNNING, BACKOFF, FAILED, STOPPED = (
    ProcessState.RUNNING, ProcessState.BACKOFF, ProcessState.FAILED, ProcessState.STOPPED
)  # fmt: skip
TINY = 0.001


def running(since: float = 0.0, *, turned_at: float = 0.0, active_at: float | None = None, spun_s: float = 0.0) -> Life:
    life = Life(state=BACKOFF)
    policy.started(life, since)
    policy.observed(life, turned_at, 0.0, max(since, turned_at), wants_cpu=False)
    life.cpu_s, life.active_at = spun_s, max(since, turned_at) if active_at is None else active_at
    return life


def live_and_die(life: Life, now: float, seconds: float) -> float:
    policy.started(life, now)
    policy.exited(life, now + seconds)
    return now + seconds


# life, forgiven, now → action
HANG, STARVED, SPUN = policy.HANG_S, policy.STARVED_S, policy.SPUN_S
DECISIONS = [
    ("a new slot that nobody wants yet", Life(), 0, 9, Action.NONE),
    ("a new slot to be started", Life(state=BACKOFF), 0, 0, Action.START),
    ("runs, has just turned", running(turned_at=9.9), 0, 10, Action.NONE),
    ("runs, an idle tick late", running(turned_at=9.5), 0, 10, Action.NONE),
    ("has not run since its last turn, nor wanted to", running(turned_at=10 - HANG - TINY), 0, 10, Action.ABORT),
    ("stopped in the middle of a turn", running(turned_at=9, active_at=9.1), 0, 9.1 + HANG + TINY, Action.ABORT),
    ("stopped a moment ago, late before", running(turned_at=6, active_at=9.5), 0, 10, Action.NONE),
    ("wants to run and is not let", running(turned_at=6, active_at=9.95), 0, 10, Action.NONE),
    ("the same for too long", running(turned_at=10 - STARVED - TINY, active_at=9.95), 0, 10, Action.ABORT),
    ("spins", running(turned_at=9.4, active_at=10, spun_s=SPUN), 0, 10, Action.ABORT),
    ("spins, and gets little CPU", running(turned_at=6, active_at=10, spun_s=SPUN), 0, 10, Action.ABORT),
    ("works for long", running(turned_at=9.4, active_at=10, spun_s=SPUN - TINY), 0, 10, Action.NONE),
    ("just started, with its predecessor's word", running(9.9, turned_at=1.0), 0, 10, Action.NONE),
    ("just started, not let run", running(0, active_at=3.9), 0, 4, Action.NONE),
    ("never let run", running(0, active_at=STARVED), 0, STARVED + TINY, Action.ABORT),
    ("never turned, does nothing", running(0), 0, HANG + TINY, Action.ABORT),
    ("never turned, spins", running(0, active_at=0.6, spun_s=SPUN), 0, 0.6, Action.ABORT),
    ("silent, but the supervisor overslept", running(turned_at=1.0), 9.9, 10, Action.NONE),
    ("silent since, too", running(turned_at=1.0), 9.0, 10, Action.ABORT),
    ("spins, and the supervisor overslept", running(turned_at=1.0, spun_s=SPUN), 9.9, 10, Action.ABORT),
    ("says that it turned in the future", running(turned_at=1e9, active_at=9), 0, 10, Action.NONE),
]


@pytest.mark.parametrize(("what", "life", "forgiven", "now", "action"), DECISIONS, ids=lambda v: str(v)[:40])
def test_decisions(what: str, life: Life, forgiven: float, now: float, action: Action) -> None:
    assert policy.decide(life, forgiven, now) is action, what


def test_cpu_time_is_counted_from_the_last_turn() -> None:
    life = running(0.0)
    for turned_at, cpu_s, spun_s in (
        (0.0, 0.2, 0.2),
        (0.3, 0.3, 0.0),
        (0.3, 0.4, 0.1),
        (0.3, 0.7, 0.4),
        (0.9, 0.8, 0.0),
    ):
        policy.observed(life, turned_at, cpu_s, 1.0, wants_cpu=False)
        assert life.spun_s == pytest.approx(spun_s)


def rested(until: float, seen_at: float) -> Life:
    """One that has been seen at rest, and not looked at before for as long as it lives."""
    life = running(0.0, turned_at=0.1)
    assert policy.rests(life, until, seen_at)
    return life


def test_one_that_rests_is_left_alone_until_the_rest_is_over() -> None:
    life = rested(14.0, seen_at=10.0)
    assert policy.decide(life, 0, 10.0) is Action.NONE
    assert policy.rests(life, 14.0, 13.9)
    assert policy.decide(life, 0, 13.9) is Action.NONE
    assert not policy.rests(life, 14.0, 14.1), "it should have turned by now"
    policy.observed(life, 14.0, 3.0, 14.1, wants_cpu=False)
    assert policy.decide(life, 0, 14.1) is Action.NONE
    policy.observed(life, 14.0, 3.0, 13.9 + HANG + TINY, wants_cpu=False)
    life.active_at = 13.9
    assert policy.decide(life, 0, 13.9 + HANG + TINY) is Action.ABORT


def test_one_that_rests_while_work_waits_hangs_from_when_it_was_seen_to_rest_rightly() -> None:
    life = rested(14.0, seen_at=10.0)
    for now in (10.2, 10.4, 10.6, 10.0 + HANG - TINY):
        policy.observed(life, 14.0, 0.0, now, wants_cpu=False)
        assert policy.decide(life, 0, now) is Action.NONE
    policy.observed(life, 14.0, 0.0, 10.0 + HANG + TINY, wants_cpu=False)
    assert policy.decide(life, 0, 10.0 + HANG + TINY) is Action.ABORT


def test_one_that_turns_for_every_piece_of_work_and_rests_again_does_not_hang() -> None:
    life = rested(14.0, seen_at=10.0)
    for tick in range(100):
        now = 10.2 + tick / 5
        policy.observed(life, now + 4, 0.0, now, wants_cpu=False)
        assert policy.decide(life, 0, now) is Action.NONE


def test_cpu_time_of_before_a_rest_is_not_counted_after_it() -> None:
    """Nobody looks at the CPU clock of one that rests: it may have worked for hours between two looks."""
    life = rested(14.0, seen_at=10.0)
    policy.observed(life, 14.0, 1000.0, 10.2, wants_cpu=True)
    assert life.spun_s == 0.0
    policy.observed(life, 14.0, 1000.0 + SPUN, 10.7, wants_cpu=True)
    assert policy.decide(life, 0, 10.7) is Action.ABORT


def test_who_has_run_or_wants_to_is_active() -> None:
    life = running(0.0)
    for now, cpu_s, wants_cpu, active_at in (
        (1, 0.0, False, 0),
        (2, 0.1, False, 2),
        (3, 0.1, False, 2),
        (4, 0.1, True, 4),
    ):
        policy.observed(life, 0.0, cpu_s, now, wants_cpu=wants_cpu)
        assert life.active_at == active_at


def test_one_that_hangs_is_aborted_then_killed() -> None:
    life = running(turned_at=1.0)
    life.aborted_at = 10.0
    assert policy.decide(life, 0, 10.0) is Action.NONE
    assert policy.decide(life, 0, 10.0 + policy.KILL_AFTER_S - TINY) is Action.NONE
    assert policy.decide(life, 0, 10.0 + policy.KILL_AFTER_S + TINY) is Action.KILL
    assert policy.decide(life, 10.1, 10.15) is Action.NONE  # overslept meanwhile: it may be writing its traceback
    policy.observed(life, 10.05, 0.0, 10.1, wants_cpu=False)
    assert policy.decide(life, 0, 10.2) is Action.KILL  # a late turn does not save an aborted one


def test_one_that_lived_is_started_again_at_once() -> None:
    life = running()
    policy.exited(life, policy.SHORT_LIFE_S)
    assert life.state is BACKOFF
    assert policy.decide(life, 0, policy.SHORT_LIFE_S) is Action.START


def test_the_first_short_life_is_forgiven_then_waits_double() -> None:
    life, now, waits = Life(state=BACKOFF), 0.0, []
    for _ in range(policy.STORM - 1):
        now = live_and_die(life, now, 0.1)
        assert life.state is BACKOFF
        waits.append(round(life.start_at - now, 6))
        assert policy.decide(life, 0, life.start_at) is Action.START
        if life.start_at > now:
            assert policy.decide(life, 0, now) is Action.NONE
    assert waits == [0.0, *[round(policy.BACKOFF_S * 2**n, 6) for n in range(1, policy.STORM - 1)]]


def test_a_storm_makes_failed_and_one_more_short_life_fails_again() -> None:
    life, now = Life(state=BACKOFF), 0.0
    for _ in range(policy.STORM):
        now = live_and_die(life, max(now, life.start_at), 0.1)
    assert life.state is FAILED
    assert policy.decide(life, 0, now + policy.FAILED_S - TINY) is Action.NONE
    assert policy.decide(life, 0, now + policy.FAILED_S) is Action.START
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


UP, DOWN, KEYLESS = (True, True), (True, False), (False, True)  # has had an SA; nothing keeps it from sending
SILENT = running(100 - policy.HANG_S - TINY)
LET = running(0, turned_at=99.9)
SUCCESSOR = replace(LET, ended_at=100.0)
MASKS = [
    ("all run", [LET] * 3, [UP] * 3, 0.0, 0b111),
    ("one failed", [LET, FAILED, LET], [UP] * 3, 0.0, 0b101),
    ("one away for a moment keeps its buckets", [LET, BACKOFF], [UP] * 2, policy.ABSENT_S - TINY, 0b11),
    ("one away for longer", [LET, BACKOFF], [UP] * 2, policy.ABSENT_S + TINY, 0b01),
    ("one not started yet", [LET, STOPPED], [UP] * 2, 0.0, 0b01),
    ("one waits for its first keys", [LET, LET], [UP, KEYLESS], 0.0, 0b01),
    ("all wait for their first keys", [LET, LET], [KEYLESS, KEYLESS], 0.0, 0),
    ("a successor has yet to take its keys", [LET, SUCCESSOR], [UP, KEYLESS], policy.ABSENT_S - TINY, 0b11),
    ("a successor has found none", [LET, SUCCESSOR], [UP, KEYLESS], policy.ABSENT_S + TINY, 0b01),
    ("a path is down", [LET] * 3, [UP, DOWN, UP], 0.0, 0b101),
    ("all paths are down: better than nothing", [LET] * 2, [DOWN, DOWN], 0.0, 0b11),
    ("the only one with a path has failed", [FAILED, LET], [UP, DOWN], 0.0, 0b10),
    ("nobody", [FAILED, FAILED], [UP, UP], 0.0, 0),
    ("one does not turn, hung or starved", [LET, SILENT], [UP] * 2, 0.0, 0b01),
    ("none turns: better than nothing", [SILENT] * 2, [UP] * 2, 0.0, 0b11),
    ("one does not turn, the other has no path", [SILENT, LET], [UP, DOWN], 0.0, 0b01),
    ("sixty-four", [LET] * 64, [UP] * 64, 0.0, 2**64 - 1),
]


@pytest.mark.parametrize(("what", "states", "members", "away_s", "mask"), MASKS, ids=lambda v: str(v)[:40])
def test_live_mask(
    what: str, states: list[Life | ProcessState], members: list[tuple[bool, bool]], away_s: float, mask: int
) -> None:
    lives = [Life(state=state, ended_at=100.0) if isinstance(state, ProcessState) else state for state in states]
    has_begun, can_send = zip(*members, strict=True)
    assert policy.live_mask(lives, has_begun, can_send, 0.0, 100.0 + away_s) == mask, what


def test_a_supervisor_that_overslept_moves_no_buckets() -> None:
    assert policy.live_mask([SILENT, LET], [True] * 2, [True] * 2, 99.9, 100.0) == 0b11


def test_when_the_far_host_is_back_no_member_that_follows_the_first_gives_up_its_buckets() -> None:
    comeback = policy.Comeback()

    def mask(seconds: float, *paths: bool) -> int:
        return policy.live_mask([LET] * 4, [True] * 4, paths, 0.0, 100.0 + seconds, comeback)

    assert mask(0.0, True, True, True, True) == 0b1111
    assert mask(0.1, True, False, True, True) == 0b1101, "one alone gives them up at once"
    assert mask(0.2, False, False, False, False) == 0b1111
    assert mask(9.0, True, False, False, False) == 0b1111
    assert mask(9.1, True, False, True, False) == 0b1111
    assert mask(9.0 + policy.BACK_S - TINY, True, False, True, True) == 0b1111
    assert mask(9.0 + policy.BACK_S + TINY, True, False, True, True) == 0b1101, "it has not followed"
    assert mask(9.5, False, False, True, True) == 0b1100


def test_one_that_does_not_turn_has_no_buckets_while_others_come_back() -> None:
    comeback = policy.Comeback()
    assert policy.live_mask([LET] * 2, [True] * 2, [False] * 2, 0.0, 99.9, comeback) == 0b11
    assert policy.live_mask([LET, SILENT], [True] * 2, [True, False], 0.0, 100.0, comeback) == 0b01
