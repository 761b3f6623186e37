"""The anti-replay window, against a set of numbers and a list of cases (RFC 4303 §3.4.3 and appendix A)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.drops import DropReason
from fwd.proto.replay import ReplayWindow

SIZES = st.sampled_from([1, 2, 31, 64, 65, 1024])
BASES = st.sampled_from([0, 1, 100, 2**31, 2**32 - 40, 2**32 + 5, 5 * 2**32 - 1])


class Model:
    """The window as a set: slow and plainly right."""

    def __init__(self, size: int, floor: int) -> None:
        self.size, self.floor, self.top = size, floor, floor
        self.seen: set[int] = set()

    def take(self, number: int) -> DropReason | None:
        if number < 1 or number <= self.top - self.size:
            return DropReason.TOO_OLD
        if number <= self.floor or number in self.seen:
            return DropReason.REPLAYED
        self.seen.add(number)
        self.top = max(self.top, number)
        return None


@given(SIZES, BASES, st.lists(st.integers(-1100, 1200), max_size=60))
def test_the_window_agrees_with_the_model(size: int, floor: int, steps: list[int]) -> None:
    window, model = ReplayWindow(size, esn=True, floor=floor), Model(size, floor)
    for step in steps:
        number = max(model.top + step, 0)
        assert window.check(number) == (reason := model.take(number))
        assert window.commit(number) == reason
        assert window.top == model.top


@given(SIZES, BASES, st.lists(st.integers(-40, 40), max_size=20), st.integers(0, 2000), st.integers(1, 2000))
def test_a_run_is_its_numbers_one_by_one(size: int, floor: int, before: list[int], gap: int, count: int) -> None:
    at_once, singly = (ReplayWindow(size, esn=True, floor=floor) for _ in range(2))
    for step in before:
        number = at_once.top + step
        assert at_once.commit(number) == singly.commit(number)
    first = at_once.top + 1 + gap
    at_once.commit_run(first, count)
    for number in range(first, first + count):
        assert singly.commit(number) is None
    assert at_once.top == singly.top == first + count - 1
    for number in range(at_once.top - size - 2, at_once.top + 2):
        assert at_once.check(number) == singly.check(number)


@given(SIZES, BASES, st.lists(st.integers(-1100, 1200), max_size=60))
def test_mark_is_commit_for_what_was_just_checked(size: int, floor: int, steps: list[int]) -> None:
    marked, committed = (ReplayWindow(size, esn=True, floor=floor) for _ in range(2))
    for step in steps:
        number = max(marked.top + step, 0)
        if marked.check(number) is None:
            marked.mark(number)
        committed.commit(number)
    assert marked.top == committed.top
    for number in range(marked.top - size - 2, marked.top + 2):
        assert marked.check(number) == committed.check(number)


@given(SIZES, BASES, st.integers(0, 2**32 - 1))
def test_the_full_number_is_the_one_from_the_windows_left_edge_on(size: int, top: int, ahead: int) -> None:
    window = ReplayWindow(size, esn=True, floor=top)
    number = top - size + 1 + ahead
    assert window.full_number(number & 0xFFFFFFFF) == number


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_without_esn_the_number_is_what_the_packet_says(top: int, low: int) -> None:
    assert ReplayWindow(1024, esn=False, floor=top).full_number(low) == low


def test_a_number_before_the_first_is_refused() -> None:
    window = ReplayWindow(1024, esn=True, floor=3)
    number = window.full_number(2**32 - 1)  # would be -1
    assert number < 1
    assert window.check(number) is DropReason.TOO_OLD


def test_check_changes_nothing() -> None:
    window = ReplayWindow(64, esn=True)
    for _ in range(2):
        assert window.check(10**9) is None
    assert window.top == 0
    assert window.commit(1) is None


def test_a_refused_commit_changes_nothing() -> None:
    window = ReplayWindow(64, esn=True)
    window.commit(100)
    for number in (100, 36, 0):
        assert window.commit(number) is not None
    assert window.top == 100
    assert window.commit(99) is None


W = 1024
LAST = 2**64 - 1
# (number, accepted). The idea of wireguard-go's list (device replay filter test): repeats, both edges of the window,
# a step within a word, a jump past all of it, and the end of the number space; numbers here start at 1.
CASES = [
    (0, False), (1, True), (2, True), (2, False), (10, True), (9, True), (8, True), (8, False),
    (W + 1, True), (W, True), (W, False), (W - 1, True), (3, True), (3, False),
    (W + 17, True), (4, False), (W + 17, False), (18, True), (17, False),
    (4 * W, True), (3 * W + 1, True), (11, False), (3 * W, False), (3 * W - 1, False), (3 * W + 2, True),
    (3 * W + 1, False), (0, False),
    (LAST, True), (LAST, False), (LAST - 1, True), (LAST - 1, False), (LAST - 2, True), (LAST - W, False),
    (LAST - W + 1, True), (LAST - W + 1, False), (1, False), (0, False),
]  # fmt: skip


def test_the_numbered_cases_in_order() -> None:
    window = ReplayWindow(W, esn=True)
    for case, (number, accepted) in enumerate(CASES, 1):
        assert (window.commit(number) is None) is accepted, f"case {case}: {number}"


BULKS = {
    "rising, from the first": (range(1, W + 1), [0, 1, W]),
    "rising, past the window": (range(2, W + 2), [0, 1, W + 1]),
    "falling, exactly the window": (range(W, 0, -1), [0, 1, W]),
    "falling, above the first": (range(W + 1, 1, -1), [0, 1, W + 1]),
    "falling, then one ahead": ([*range(W, 0, -1), W + 1], [0, 1, W + 1]),
    "rising in steps of a window": (range(W, 10 * W, W), [W, 8 * W, 9 * W]),
}


@pytest.mark.parametrize(("accepted", "refused"), BULKS.values(), ids=BULKS.keys())
def test_bulks(accepted: list[int], refused: list[int]) -> None:
    window = ReplayWindow(W, esn=True)
    assert all(window.commit(number) is None for number in accepted)
    assert all(window.commit(number) is not None for number in refused)


def test_one_packet_below_a_full_falling_window_is_too_old() -> None:
    window = ReplayWindow(W, esn=True)
    for number in range(W + 1, 1, -1):
        assert window.commit(number) is None
    assert window.check(1) is DropReason.TOO_OLD


def test_a_successor_refuses_all_up_to_the_floor_and_nothing_above() -> None:
    window = ReplayWindow(W, esn=True, floor=5000)
    assert all(window.check(number) is not None for number in range(5001))
    assert all(window.check(number) is None for number in range(5001, 9000))
