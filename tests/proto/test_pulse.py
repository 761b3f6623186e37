"""The pulse of a path, against a simulated path that answers after a while, or not, and a loop that may be late."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.pulse import (
    CALM_S,
    DOWN_ECHO_S,
    ECHO_S,
    FALSE_ALARM_S,
    LATE_S,
    LOSS_ECHOES,
    LOSS_S,
    MISSES,
    MISSES_MAX,
    Pulse,
)

START = 1000.0
TICK_S = 0.01


class Path:
    """Records are sent all the time, and echoes are answered after `delay_s`; None: they are not."""

    def __init__(self, delay_s: float | None = 0.02) -> None:
        self.now = START
        self.pulse = Pulse()
        self.delay_s = delay_s
        self.sending = True
        self.asked: list[float] = []
        self.downs = 0
        self.loses = lambda: False
        self._due: list[tuple[float, int]] = []

    def run(self, seconds: float, tick_s: float = TICK_S) -> None:
        """Turn the loop every `tick_s`: answers first, then what is due, as a member does."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += tick_s
            if self.sending:
                self.pulse.sent()
            for due, answered in list(self._due):
                if due <= self.now:
                    self._due.remove((due, answered))
                    self.pulse.answered(answered, self.now)
            was_up, number = self.pulse.up, self.pulse.poll(self.now)
            self.downs += was_up and not self.pulse.up
            if number is not None:
                self.asked.append(self.now)
                if self.delay_s is not None and not self.loses():
                    self._due.append((self.now + self.delay_s, number))


def test_who_sends_nothing_asks_nothing() -> None:
    path = Path()
    path.sending = False
    path.run(20)
    assert path.asked == []
    assert path.pulse.next_timeout(path.now) == float("inf")


def test_while_there_is_traffic_an_echo_goes_every_tenth_of_a_second() -> None:
    path = Path()
    path.run(10)
    assert path.pulse.up
    assert 10 / (ECHO_S + 2 * TICK_S) <= len(path.asked) <= 10 / ECHO_S + 1


def test_after_the_last_packet_one_answer_ends_the_asking() -> None:
    path = Path()
    path.run(1)
    path.sending = False
    path.run(3 * ECHO_S)
    before = len(path.asked)
    path.run(20)
    assert len(path.asked) == before


def test_the_last_packet_before_a_silence_is_judged_all_the_same() -> None:
    path = Path(delay_s=None)
    path.run(TICK_S)
    path.sending = False
    path.run((MISSES + 1) * ECHO_S)
    assert not path.pulse.up


@pytest.mark.parametrize("before_s", [0.93, 1.0, 1.05])
def test_a_dead_path_is_down_after_three_missed_echoes(before_s: float) -> None:
    path = Path()
    path.run(before_s)
    path.delay_s = None
    path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
    assert not path.pulse.up


def test_two_missed_echoes_are_not_down() -> None:
    path = Path()
    path.run(1)
    path.delay_s = None
    path.run((MISSES - 1) * ECHO_S)
    path.delay_s = 0.02
    path.run(10)
    assert path.downs == 0


def test_the_first_answer_brings_it_up_again() -> None:
    path = Path(delay_s=None)
    path.run(30)
    assert not path.pulse.up
    path.delay_s = 0.02
    path.run(DOWN_ECHO_S + 0.02 + 2 * TICK_S)
    assert path.pulse.up


def test_a_path_that_is_down_is_asked_on_without_traffic_and_less_often() -> None:
    path = Path(delay_s=None)
    path.run(3)
    path.sending = False
    before = len(path.asked)
    path.run(10)
    assert 10 / (DOWN_ECHO_S + 2 * TICK_S) - 1 <= len(path.asked) - before <= 10 / DOWN_ECHO_S + 1


@pytest.mark.parametrize("delay_s", [0.25, 0.4, 0.7, 1.5])
def test_a_long_way_is_not_down_once_it_is_known_to_be_long(delay_s: float) -> None:
    path = Path(delay_s)
    path.run(3 * delay_s + CALM_S)
    known = path.downs
    path.run(60)
    assert path.pulse.up
    assert path.downs == known <= 2


def test_a_dead_path_is_down_soon_though_an_answer_took_long_once() -> None:
    path = Path(0.3)
    path.run(1)
    path.delay_s = 0.02
    path.run(5)
    path.delay_s = None
    path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
    assert not path.pulse.up


# -- a loop that is late ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("stall_s", [LATE_S + ECHO_S, 0.35, 0.5, 2.0, 60.0])
def test_a_loop_that_was_late_judges_nobody(stall_s: float) -> None:
    """Answers lie unread meanwhile, and may be read after the next echo is due."""
    path = Path()
    path.run(1)
    for _ in range(20):
        pulse, late = path.pulse, path.now + stall_s
        path.now = late
        pulse.poll(late)  # before anything is read
        path.run(ECHO_S / 2)
    assert pulse.up


def test_a_starved_loop_judges_nobody_though_no_answer_comes() -> None:
    path = Path(delay_s=None)
    path.run(20, tick_s=ECHO_S + LATE_S + TICK_S)
    assert path.pulse.up
    path.run((MISSES + 1) * ECHO_S + 3 * TICK_S)  # and judges again once it runs
    assert not path.pulse.up


def test_how_long_answers_took_while_the_loop_was_late_is_not_believed() -> None:
    path = Path()
    path.run(1)
    path.now += 5.0  # what was asked before is answered, and read, only now
    path.run(TICK_S)
    path.run(0.2)
    path.delay_s = None
    path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
    assert not path.pulse.up


# -- false alarms ----------------------------------------------------------------------------------------------


def test_a_lossy_path_is_given_up_ever_later() -> None:
    path = Path()
    lost = random.Random(1)
    path.loses = lambda: lost.random() < 0.5
    path.run(30)
    first = path.downs
    path.run(30)
    assert first > path.downs - first


def test_a_path_that_was_really_down_is_given_up_as_early_the_next_time() -> None:
    path = Path()
    for _ in range(20):
        path.run(1)
        path.delay_s = None
        path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
        assert not path.pulse.up
        path.run(FALSE_ALARM_S)
        path.delay_s = 0.02
        path.run(DOWN_ECHO_S + 0.02 + 2 * TICK_S)
        assert path.pulse.up


def test_after_a_calm_while_false_alarms_are_forgotten() -> None:
    path = Path()
    for _ in range(6):
        path.delay_s = None
        while path.pulse.up:
            path.run(TICK_S)
        path.delay_s = 0.02
        path.run(3 * ECHO_S)
    path.delay_s = None
    path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
    assert path.pulse.up
    path.delay_s = 0.02
    path.run(CALM_S + 1)
    path.delay_s = None
    path.run((MISSES + 1) * ECHO_S + 5 * TICK_S)
    assert not path.pulse.up


# -- answers that nobody asked for, and bounds -----------------------------------------------------------------


def test_an_answer_to_what_was_not_asked_changes_nothing() -> None:
    path = Path(delay_s=None)
    path.run(3)
    for number in (0, -1, 1, 2**31, 2**31 + 10**6, 2**32 - 1):
        assert not path.pulse.answered(number, path.now)
    assert not path.pulse.up


def test_an_answer_counts_once() -> None:
    pulse = Pulse()
    pulse.sent()
    number = pulse.poll(START)
    assert number is not None
    pulse.answered(number, START + 0.01)
    for tick in range(1, MISSES + 3):
        pulse.sent()
        pulse.answered(number, START + tick * (ECHO_S + 0.001))
        pulse.poll(START + tick * (ECHO_S + 0.001))
    assert not pulse.up


def test_where_nobody_answers_echoes_the_path_counts_as_up() -> None:
    path = Path(delay_s=None)
    path.run(3)
    path.pulse.trust()
    assert path.pulse.up
    assert path.pulse.next_timeout(path.now) <= ECHO_S


STEPS = st.lists(st.tuples(st.sampled_from(["sent", "poll", "answer"]), st.integers(0, 3000)), max_size=80)


@given(STEPS)
def test_any_sequence_of_events_stays_in_bounds(steps: list[tuple[str, int]]) -> None:
    pulse, now = Pulse(), START
    numbers: list[int] = []
    for what, value in steps:
        now += value / 1000
        if what == "sent":
            pulse.sent()
        elif what == "answer" and numbers:
            pulse.answered(numbers[value % len(numbers)], now)
        elif what == "poll" and (number := pulse.poll(now)) is not None:
            assert 2**31 <= number < 2**32
            numbers.append(number)
        assert pulse.next_timeout(now) >= 0
        assert MISSES <= pulse._misses <= MISSES_MAX
        assert len(pulse._waiting) <= 64
    assert len(set(numbers)) == len(numbers)


# -- how much is lost ---------------------------------------------------------------------------------------------


def lossy(one_of: int) -> Path:
    """A path that answers all echoes but one of so many."""
    path, count = Path(), itertools.count(1)
    path.loses = lambda: next(count) % one_of == 0
    return path


def test_a_path_that_answers_all_loses_nothing() -> None:
    path = Path()
    assert path.pulse.loss(path.now) == 0.0
    path.run(20.0)
    assert path.pulse.loss(path.now) == 0.0


@pytest.mark.parametrize("one_of", [5, 20])
def test_the_share_of_echoes_that_are_not_answered_is_told(one_of: int) -> None:
    path = lossy(one_of)
    path.run(15.0)
    assert path.pulse.loss(path.now) == pytest.approx(1 / one_of, abs=0.01)


def test_what_is_still_under_way_is_not_lost() -> None:
    path = Path(delay_s=0.25)
    path.run(5.0)
    assert path.pulse.loss(path.now) == 0.0


def test_a_loss_passes_once_the_path_is_clean_or_at_rest() -> None:
    path = lossy(5)
    path.run(15.0)
    path.loses = lambda: False
    path.run(LOSS_ECHOES * ECHO_S + 1.0)
    assert path.pulse.loss(path.now) == 0.0
    path = lossy(5)
    path.run(15.0)
    assert path.pulse.loss(path.now + LOSS_S) == 0.0


def test_what_a_late_loop_has_missed_is_not_lost() -> None:
    path = Path()
    path.run(5.0)
    path.now += 1.0
    path.run(5.0)
    assert path.pulse.loss(path.now) == 0.0


def test_how_long_answers_took_lately_is_told() -> None:
    path = Path(delay_s=0.08)
    assert path.pulse.rtt_s == 0.0
    path.run(2.0)
    assert path.pulse.rtt_s == pytest.approx(0.08, abs=TICK_S)
    path.delay_s = 0.01
    path.run(5.0)
    assert path.pulse.rtt_s == pytest.approx(0.01, abs=TICK_S)
