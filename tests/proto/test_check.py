"""A check of a path: as many echoes as it takes, and what came back."""

from __future__ import annotations

import pytest

from fwd.proto.check import ECHOES, EVERY_S, Check
from fwd.proto.echo import CHECK_FIRST, MOVED
from fwd.proto.pulse import Pulse


def run_whole(check: Check, now: float, *, answers: bool = True) -> list[int]:
    """Poll it at each of its times: the numbers that it sent."""
    numbers = []
    while check.next_timeout(now) != float("inf"):
        now += check.next_timeout(now)
        number = check.poll(now)
        assert number is not None
        assert check.poll(now) is None
        numbers.append(number)
        if answers:
            assert check.answered(number, now + 0.001)
    return numbers


def test_nothing_is_sent_unless_it_is_asked_for() -> None:
    check = Check(7)
    assert not check.follow(7, 1.0)
    assert check.next_timeout(1.0) == float("inf")
    assert check.poll(1.0) is None


def test_a_check_sends_its_echoes_and_counts_what_comes_back() -> None:
    check = Check(0)
    assert check.follow(1, 1.0)
    numbers = run_whole(check, 1.0)
    assert len(set(numbers)) == ECHOES
    assert (check.run, check.sent, check.back) == (1, ECHOES, ECHOES)
    assert check.rtts_s == pytest.approx([0.001] * ECHOES)


def test_what_is_lost_is_not_back() -> None:
    check = Check(0)
    check.follow(1, 1.0)
    numbers = run_whole(check, 1.0, answers=False)
    assert check.answered(numbers[3], 2.0)
    assert not check.answered(numbers[3], 2.0)
    assert not check.answered(CHECK_FIRST - 1, 2.0)
    assert (check.sent, check.back) == (ECHOES, 1)


def test_another_check_begins_anew_and_takes_no_answer_of_the_one_before() -> None:
    check = Check(0)
    check.follow(1, 1.0)
    old = run_whole(check, 1.0, answers=False)
    assert check.follow(2, 5.0)
    assert (check.sent, check.back, check.rtts_s) == (0, 0, [])
    assert not any(check.answered(number, 5.0) for number in old)
    assert not set(run_whole(check, 5.0)) & set(old)


def test_a_late_loop_sends_no_burst() -> None:
    check = Check(0)
    check.follow(1, 1.0)
    assert check.poll(9.0) is not None
    assert check.poll(9.0 + EVERY_S / 2) is None


@pytest.mark.parametrize("run", [0, 1, 6553, 6554, 2**40, 2**64 - 1])
def test_its_numbers_are_nobody_elses(run: int) -> None:
    check, pulse = Check(run - 1 if run else 5), Pulse()
    check.follow(run, 1.0)
    assert all(CHECK_FIRST <= number < MOVED for number in run_whole(check, 1.0))
    pulse._number = CHECK_FIRST - 2**31 - 2  # as after years
    for tick in range(4):
        pulse.sent()
        number = pulse.poll(1.0 + tick)
        assert number is not None
        assert 2**31 <= number < CHECK_FIRST
