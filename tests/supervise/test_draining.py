"""When a member that leaves gives up its flows, and when it may go."""

from __future__ import annotations

import pytest

from fwd.supervise.draining import LATE_S, QUIET_S, Leaving, Seen, Stage, leaving, stage

DEADLINE_S = 60.0
IDLE, BUSY = Seen(5, 0, waits=False), Seen(5, 7, waits=False)


@pytest.mark.parametrize(
    ("members", "wanted", "far", "gone"),
    [
        (6, 6, 6, []), (6, 6, 0, []), (6, 3, 6, [3, 4, 5]), (6, 3, 0, [3, 4, 5]), (6, 6, 2, [2, 3, 4, 5]),
        (6, 3, 2, [2, 3, 4, 5]), (2, 6, 6, []), (3, 3, 64, []), (4, 5, 4, []),
    ],
)  # fmt: skip
def test_who_gets_no_more_buckets(members: int, wanted: int, far: int, gone: list[int]) -> None:
    assert list(leaving(members, wanted, far)) == gone


@pytest.mark.parametrize(
    ("seen", "quiet_s", "age_s", "expected"),
    [
        (BUSY, 0.0, 1.0, Stage.STAYS),
        (BUSY, 50.0, 59.9, Stage.STAYS),  # nothing comes, but this side has busy buckets
        (BUSY, 50.0, DEADLINE_S, Stage.MOVES),
        (BUSY, 0.0, DEADLINE_S + LATE_S - 0.1, Stage.MOVES),
        (BUSY, 0.0, DEADLINE_S + LATE_S, Stage.GOES),  # whatever is left
        (IDLE, 0.0, 10.0, Stage.STAYS),  # the far side still sends on it
        (IDLE, QUIET_S - 0.1, 10.0, Stage.STAYS),
        (IDLE, QUIET_S, 10.0, Stage.GOES),
        (IDLE, 100.0, 0.0, Stage.STAYS),  # the far side has not heard of it yet
        (IDLE, 0.0, DEADLINE_S, Stage.MOVES),
        (Seen(5, 0, waits=True), 10.0, 10.0, Stage.STAYS),  # records wait in its ring
        (Seen(5, 0, waits=True), 10.0, DEADLINE_S + LATE_S, Stage.GOES),
    ],
)
def test_stages(seen: Seen, quiet_s: float, age_s: float, expected: Stage) -> None:
    now = 1000.0
    assert stage(Leaving(now - age_s, seen.heard, now - quiet_s), seen, DEADLINE_S, now) is expected


def test_what_comes_begins_the_silence_anew() -> None:
    one = Leaving(0.0)
    assert stage(one, IDLE, DEADLINE_S, 10.0) is Stage.STAYS
    assert stage(one, IDLE, DEADLINE_S, 10.0 + QUIET_S) is Stage.GOES
    assert stage(one, Seen(6, 0, waits=False), DEADLINE_S, 20.0) is Stage.STAYS
    assert stage(one, Seen(6, 0, waits=False), DEADLINE_S, 20.0 + QUIET_S) is Stage.GOES


def test_a_deadline_of_zero_moves_all_at_once() -> None:
    assert stage(Leaving(5.0), BUSY, 0.0, 5.0) is Stage.MOVES
