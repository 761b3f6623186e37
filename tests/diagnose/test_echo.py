"""How `fwd diagnose` finds what a path takes, in memory."""

from __future__ import annotations

import pytest

from fwd.diagnose.echo import checksum, search
from fwd.diagnose.facts import Echo


@pytest.mark.parametrize("takes", [576, 577, 1280, 1399, 1400, 1499])
def test_the_largest_that_is_answered_is_found(takes: int) -> None:
    asked: list[int] = []

    def answered(size: int) -> bool:
        asked.append(size)
        return size <= takes

    assert search(answered, 576, 1500) == Echo(True, takes)
    assert len(asked) <= 12


def test_a_path_that_takes_all_is_asked_twice() -> None:
    asked: list[int] = []
    assert search(lambda size: not asked.append(size), 576, 9000) == Echo(True, 9000)
    assert asked == [576, 9000]


def test_silence_is_no_measurement() -> None:
    assert search(lambda size: False, 576, 1500) == Echo(False)


def test_the_checksum_of_a_message_with_its_checksum_is_zero() -> None:
    message = bytes.fromhex("0800000012345678616263")
    with_sum = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    assert checksum(with_sum) == 0
