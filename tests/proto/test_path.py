"""The path monitor against a simulated path that takes packets up to a size, or none at all."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.path import (
    CHECK_S,
    PLATEAUS,
    RAISE_S,
    SILENCE_S,
    TRIES,
    TRY_S,
    VAIN_TRY_S,
    Echo,
    PathMonitor,
)

START = 1000.0
TICK_S = 0.01
DELAY_S = 0.02


class Path:
    """Records are sent all the time; echoes of at most `takes` octets are answered after DELAY_S."""

    def __init__(self, mtu: int = 1500, takes: int = 1500) -> None:
        self.now = START
        self.monitor = PathMonitor(mtu, self.now)
        self.takes = takes
        self.sending = True
        self.echoes: list[tuple[float, Echo]] = []
        self._due: list[tuple[float, int]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += TICK_S
            if self.sending:
                self.monitor.sent(self.now)
            for due, number in list(self._due):
                if due <= self.now:
                    self._due.remove((due, number))
                    self.monitor.answered(number, self.now)
            for echo in self.monitor.poll(self.now):
                self.echoes.append((self.now, echo))
                if echo.mtu_bytes <= self.takes:
                    self._due.append((self.now + DELAY_S, echo.number))


# -- when it asks ----------------------------------------------------------------------------------------------


def test_who_sends_nothing_asks_nothing() -> None:
    path = Path()
    path.sending = False
    path.run(20)
    assert path.echoes == []


def test_who_hears_asks_only_to_confirm_the_size() -> None:
    monitor = PathMonitor(1500, START)
    echoes = []
    for tick in range(int(35 / TICK_S)):
        now = START + tick * TICK_S
        monitor.sent(now)
        for echo in monitor.poll(now):
            echoes.append(echo)
            monitor.answered(echo.number, now)
        monitor.heard(now)
    assert 3 <= sum(echo.mtu_bytes == 1500 for echo in echoes) <= 5


def test_what_is_heard_at_once_does_not_put_the_first_confirmation_off() -> None:
    """Whoever has sent anything confirms the full size, however soon it was answered and looked at."""
    monitor = PathMonitor(1500, 0.0)
    monitor.sent(0.0)
    monitor.heard(0.01)
    assert monitor.next_timeout(0.2) == 0.0
    assert [echo.mtu_bytes for echo in monitor.poll(0.2)] == [0, 1500]


def test_silence_after_sending_starts_a_round_with_a_small_and_a_full_echo() -> None:
    monitor = PathMonitor(1500, START)
    monitor._checked = START  # the size has just been confirmed
    monitor.sent(START)
    assert monitor.poll(START + SILENCE_S - 0.001) == []
    assert [echo.mtu_bytes for echo in monitor.poll(START + SILENCE_S + 0.001)] == [0, 1500]


def test_an_answered_path_keeps_its_size() -> None:
    path = Path()
    path.run(60)
    assert path.monitor.mtu_bytes == 1500


def test_a_path_that_is_up_again_is_asked_for_its_size_at_once() -> None:
    path = Path()
    path.run(1)
    path.takes = 1492
    path.monitor.check(path.now)
    path.run(TRIES * TRY_S + 4 * TICK_S)
    assert path.monitor.mtu_bytes == 1492


def test_a_dead_path_is_asked_on_and_keeps_its_size() -> None:
    path = Path(takes=-1)
    path.run(2)
    before = len(path.echoes)
    path.run(10)
    assert 2 * 10 / VAIN_TRY_S - 4 <= len(path.echoes) - before <= 2 * 10 / VAIN_TRY_S + 2
    assert path.monitor.mtu_bytes == 1500


def test_one_lost_try_shrinks_nothing() -> None:
    monitor = PathMonitor(1500, START)
    monitor.sent(START)
    lost = monitor.poll(START + SILENCE_S)
    again = monitor.poll(START + SILENCE_S + TRY_S)
    assert len(lost) == len(again) == 2
    for echo in again:
        monitor.answered(echo.number, START + SILENCE_S + TRY_S + 0.01)
    assert monitor.mtu_bytes == 1500
    assert monitor.poll(START + SILENCE_S + 2 * TRY_S) == []


# -- size ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [1400, 1492, 1280, 576])
def test_unanswered_full_echoes_shrink_to_what_the_path_takes(takes: int) -> None:
    path = Path()
    path.run(1)
    path.takes = takes
    path.run(30)
    assert path.monitor.mtu_bytes == takes


def test_a_smaller_path_is_found_while_other_packets_are_heard() -> None:
    path = Path(takes=1400)
    for _ in range(int(15 / TICK_S)):
        path.run(TICK_S)
        path.monitor.heard(path.now)
    assert path.monitor.mtu_bytes == 1400


def test_a_path_below_every_size_is_left_at_the_smallest() -> None:
    path = Path(takes=100)
    path.run(60)
    assert path.monitor.mtu_bytes == PLATEAUS[-1]


def test_the_first_size_is_tried_again_and_taken_back_into_use() -> None:
    path = Path(takes=1400)
    path.run(30)
    path.takes = 1500
    path.run(RAISE_S - 60)
    assert path.monitor.mtu_bytes == 1400
    path.run(90 + CHECK_S)
    assert path.monitor.mtu_bytes == 1500


def test_a_raise_that_the_path_does_not_take_changes_nothing() -> None:
    path = Path(takes=1400)
    path.run(30)
    path.run(RAISE_S + CHECK_S)
    assert any(echo.mtu_bytes == 1500 for at, echo in path.echoes if at > START + 60)
    assert path.monitor.mtu_bytes == 1400


def test_the_kernels_smaller_size_is_asked_about_at_once_and_believed_when_echoes_fail() -> None:
    path = Path()
    path.run(12)
    path.takes = 1420
    path.monitor.too_big(1410, path.now)
    assert path.monitor.mtu_bytes == 1500
    path.run(TRIES * TRY_S + 3 * TICK_S)
    assert path.monitor.mtu_bytes == 1410
    path.run(5)
    assert path.monitor.mtu_bytes == 1410


def test_the_kernels_smaller_size_is_dropped_when_an_echo_contradicts_it() -> None:
    path = Path()
    path.run(12)
    before = len(path.echoes)
    for _ in range(int(CHECK_S / TICK_S)):  # it goes on saying so
        path.monitor.too_big(552, path.now)
        path.monitor.heard(path.now)  # records of the far side: silence asks nothing
        path.run(TICK_S)
    assert path.monitor.mtu_bytes == 1500
    assert len(path.echoes) - before <= 6


def test_a_forged_size_that_the_path_does_not_take_either_is_left_for_the_next_smaller_one() -> None:
    path = Path()
    path.run(12)
    path.takes = 1280
    path.monitor.too_big(1400, path.now)
    path.run(20)
    assert path.monitor.mtu_bytes == 1280


@pytest.mark.parametrize("mtu", [0, -1, 1500, 9000])
def test_the_kernels_size_that_is_none_or_no_smaller_is_ignored(mtu: int) -> None:
    monitor = PathMonitor(1500, START)
    monitor.too_big(mtu, START + 1)
    assert monitor.mtu_bytes == 1500
    assert monitor.poll(START + 1) == []


def test_numbers_of_echoes_stay_below_those_of_the_pulse() -> None:
    monitor, now, numbers = PathMonitor(1500, START), START, []
    monitor._number = 2**31 - 6
    for _ in range(5):
        now += CHECK_S
        monitor.sent(now)
        echoes = monitor.poll(now)
        numbers += [echo.number for echo in echoes]
        monitor.answered(echoes[1].number, now)
    assert all(0 < number < 2**31 for number in numbers)
    assert len(set(numbers)) == len(numbers) == 10


def test_where_nobody_answers_echoes_the_kernel_is_followed_both_ways() -> None:
    monitor = PathMonitor(1400, START, 1500)
    for told, wanted in ((552, 552), (0, 552), (1500, 1500), (9000, 1500)):
        monitor.follow(told)
        assert monitor.mtu_bytes == wanted


# -- answers that nobody asked for -----------------------------------------------------------------------------


def test_a_reply_to_what_was_not_asked_changes_nothing() -> None:
    path = Path(takes=-1)
    path.run(3)
    before = len(path.echoes)
    for number in (0, -1, 10**9, 1):
        path.monitor.answered(number, path.now)
    path.run(2 * VAIN_TRY_S)
    assert len(path.echoes) > before  # nothing is confirmed


def test_a_reply_counts_once() -> None:
    monitor = PathMonitor(1500, START)
    monitor.sent(START)
    small, full = monitor.poll(START + SILENCE_S)
    monitor.answered(full.number, START + 0.31)
    monitor.sent(START + 0.32)
    monitor.answered(full.number, START + 0.5)
    monitor.answered(small.number, START + 0.5)
    assert monitor.poll(START + 0.321 + SILENCE_S)


# -- bounds ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takes", [-1, 0, 100, 1400, 1500])
def test_echoes_are_few_and_their_numbers_never_repeat(takes: int) -> None:
    path = Path(takes=takes)
    path.run(120)
    times = [at for at, _ in path.echoes]
    numbers = [echo.number for _, echo in path.echoes]
    assert numbers == sorted(set(numbers))
    for first, third in itertools.pairwise(times[::2]):
        assert third - first >= TRY_S - 2 * TICK_S
    assert len(path.monitor._asked) <= 2 * TRIES


STEPS = st.lists(
    st.tuples(st.sampled_from(["sent", "heard", "poll", "answer", "big"]), st.integers(0, 3000)), max_size=80
)


@given(STEPS)
def test_any_sequence_of_events_stays_in_bounds(steps: list[tuple[str, int]]) -> None:
    monitor, now, asked = PathMonitor(1500, START), START, 0
    for what, value in steps:
        now += value / 1000
        if what == "sent":
            monitor.sent(now)
        elif what == "heard":
            monitor.heard(now)
        elif what == "big":
            monitor.too_big(value, now)
        elif what == "answer":
            monitor.answered(value % (asked + 2), now)
        else:
            echoes = monitor.poll(now)
            assert len(echoes) in (0, 2)
            asked = max([asked, *(echo.number for echo in echoes)])
        assert 0 < monitor.mtu_bytes <= 1500
        assert 0 <= monitor.next_timeout(now) <= RAISE_S or monitor.next_timeout(now) == float("inf")


def test_polling_at_the_timeout_loses_nothing() -> None:
    monitor, now = PathMonitor(1500, START), START
    monitor.sent(now)
    for _ in range(12):
        now += monitor.next_timeout(now) + 1e-9
        monitor.poll(now)
    assert now - START < 12 * VAIN_TRY_S


@pytest.mark.parametrize(("takes", "wanted"), [(1500, 1500), (1400, 1400), (-1, 1400)])
def test_who_begins_below_the_ceiling_asks_for_it_at_once(takes: int, wanted: int) -> None:
    """What the kernel says at the start may be of a path that is gone, or forged."""
    path = Path(takes=takes)
    path.monitor = PathMonitor(1400, path.now, 1500)
    path.run(2)
    assert path.monitor.mtu_bytes == wanted
