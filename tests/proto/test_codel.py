"""CoDel's decisions (RFC 8289): when a queue stands, and how often records tell so."""

from __future__ import annotations

import math

import pytest

from fwd.proto.codel import INTERVAL_NS, TARGET_NS, Codel

MS = 1_000_000
BIG, ONE = 1_000_000, 65_545  # octets that wait: much; and what one record may have


def told(codel: Codel, start_ms: int, end_ms: int, waited_ms: float) -> list[int]:
    """The milliseconds at which a record tells, of one that leaves each millisecond."""
    waited_ns = int(waited_ms * MS)
    return [ms for ms in range(start_ms, end_ms) if codel.tells(ms * MS, waited_ns, BIG, ONE)]


@pytest.mark.parametrize("waited_ms", [0, 1, TARGET_NS / MS - 0.001])
def test_a_queue_whose_records_wait_little_never_stands(waited_ms: float) -> None:
    assert told(Codel(), 1, 2000, waited_ms) == []


def test_a_queue_stands_once_all_records_of_an_interval_waited_for_long() -> None:
    assert told(Codel(), 1000, 1102, 6) == [1000 + INTERVAL_NS // MS]


def test_one_record_that_waited_little_begins_the_interval_anew() -> None:
    codel = Codel()
    assert told(codel, 1000, 1090, 50) == []
    assert told(codel, 1090, 1091, 1) == []
    assert told(codel, 1091, 1191, 50) == []
    assert told(codel, 1191, 1192, 50) == [1191]


def test_a_queue_of_one_record_does_not_stand_however_long_that_waited() -> None:
    codel = Codel()
    assert not any(codel.tells(ms * MS, 500 * MS, ONE, ONE) for ms in range(1, 2000))


def test_the_longer_it_stands_the_more_often_it_tells() -> None:
    times = told(Codel(), 1000, 2000, 20)
    expected, at = [], 1100.0
    for count in range(1, 30):
        expected.append(math.ceil(at))
        at += 100 / math.sqrt(count)
    assert times[:10] == expected[:10]
    assert len(times) > 20


def test_a_queue_that_drains_stops_telling_at_once() -> None:
    codel = Codel()
    assert told(codel, 1000, 1500, 20)
    assert told(codel, 1500, 1600, 1) == []
    assert not codel.stands


@pytest.mark.parametrize(("pause_ms", "soon"), [(200, True), (5000, False)])
def test_a_queue_that_stands_again_soon_is_told_of_as_often_as_before(pause_ms: int, soon: bool) -> None:
    codel = Codel()
    before = told(codel, 1000, 3000, 20)
    told(codel, 3000, 3000 + pause_ms, 1)
    again = told(codel, 3000 + pause_ms, 3300 + pause_ms, 20)
    assert (again[1] - again[0] < 50) == soon
    assert len(before) > 50
