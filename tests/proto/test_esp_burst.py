"""seal_burst and open_burst: what one call does to many packets (RFC 4303 §3.3.3, §3.4.3; rules 1 and 2)."""

from __future__ import annotations

import random

import pytest
from espkit import ROWS, WINDOW, Opened, forged, open_all, packet, receiver, row_of, rows_of, sender
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.burst import open_burst, seal_burst
from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.esp import (
    OVERHEAD_BYTES,
    PacketTable,
    SaExhausted,
    padded,
    payload_length,
    write_trailer,
)

pytestmark = pytest.mark.usefixtures("form")


def accepted(opened: Opened) -> list[int]:
    """The numbers accepted, after a check that each row holds what was sealed under its number."""
    for number, row in zip(opened.numbers, opened.rows, strict=True):
        if number:
            assert row == row_of(number)
    return [number for number in opened.numbers if number]


# -- sealing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("esn", [True, False])
@pytest.mark.parametrize(("full", "tail"), [(1, 0), (0, 20), (2, 0), (1, 20), (2, 20), (3, 0), (44, 20), (64, 0)])
def test_a_burst_is_its_packets_sealed_one_by_one(esn: bool, full: int, tail: int) -> None:
    sa, first, size = sender(esn=esn), 1000, 64 + OVERHEAD_BYTES
    table = PacketTable(bytearray(size * (full + 1)), size, full + 1)
    rows = rows_of(64, 2 + full + 1, bytes(2 * 64) + b"".join(row_of(first + i) for i in range(full + 1)))
    end = seal_burst(sa, first, rows, 2, full, tail, table)
    expected = b"".join(packet(first + i, esn=esn) for i in range(full))
    if tail:
        expected += packet(first + full, esn=esn, size=tail)
    assert bytes(table.view[:end]) == expected


def test_numbers_start_at_one_and_are_never_given_twice() -> None:
    sa = sender()
    assert [sa.claim(3), sa.claim(1), sa.claim(44), sa.claim(1)] == [1, 4, 5, 49]


def test_without_esn_the_last_number_is_the_last() -> None:
    sa = sender(esn=False)
    sa.number = 2**32 - 3
    assert sa.claim(2) == 2**32 - 2
    with pytest.raises(SaExhausted):
        sa.claim(1)
    assert sa.number == 2**32 - 1


def test_a_burst_that_does_not_fit_takes_no_number_at_all() -> None:
    sa = sender(esn=False)
    sa.number = 2**32 - 3
    with pytest.raises(SaExhausted):
        sa.claim(3)
    assert sa.number == 2**32 - 3


def test_with_esn_numbers_go_past_2_to_the_32() -> None:
    sa = sender()
    sa.number = 2**32 - 1
    assert sa.claim(1) == 2**32
    sa.number = 2**64 - 1
    with pytest.raises(SaExhausted):
        sa.claim(1)


# -- opening ---------------------------------------------------------------------------------------------------


def test_packets_in_order_are_all_accepted_as_a_range() -> None:
    opened = open_all(receiver(), [packet(n) for n in range(1, 45)])
    assert opened.is_range
    assert accepted(opened) == list(range(1, 45))
    assert not opened.drops


def test_a_burst_may_start_anywhere_in_the_table() -> None:
    size = 64 + OVERHEAD_BYTES
    table = PacketTable(bytearray(b"".join(packet(n) for n in range(1, 11))), size, 10)
    rows, drops = rows_of(64, 7), [0] * N_REASONS
    assert list(open_burst(receiver(), table, 5, 4, (), rows, 3, drops)) == [6, 7, 8, 9]
    assert [bytes(row) for row in rows.rows[3:]] == [row_of(n) for n in (6, 7, 8, 9)]


def test_packets_shorter_than_the_table_are_opened_with_the_others() -> None:
    size = 64 + OVERHEAD_BYTES
    sealed = [packet(n, size=40 if n == 3 else 64).ljust(size, b"\0") for n in range(1, 7)]
    table, rows, drops = PacketTable(bytearray(b"".join(sealed)), size, 6), rows_of(64, 6), [0] * N_REASONS
    assert open_burst(receiver(), table, 0, 6, [(2, 40 + OVERHEAD_BYTES)], rows, 0, drops) == range(1, 7)
    assert [bytes(row) for row in rows.rows] == [row_of(n, 40 if n == 3 else 64).ljust(64, b"\0") for n in range(1, 7)]


@pytest.mark.parametrize("at", [0, 1, 5, 9])
def test_a_forged_packet_is_counted_and_the_others_are_opened(at: int) -> None:
    batch = [forged(n) if n - 1 == at else packet(n) for n in range(1, 11)]
    opened = open_all(receiver(), batch)
    assert opened.numbers == [0 if n - 1 == at else n for n in range(1, 11)]
    accepted(opened)
    assert opened.drops == {DropReason.BAD_ICV: 1}


def test_neighbouring_forged_packets_are_each_counted() -> None:
    batch = [forged(n) if n in (1, 4, 5, 6, 10) else packet(n) for n in range(1, 11)]
    opened = open_all(receiver(), batch)
    assert accepted(opened) == [2, 3, 7, 8, 9]
    assert opened.drops == {DropReason.BAD_ICV: 5}


def test_a_forged_number_can_still_be_used_by_its_owner() -> None:
    sa = receiver()
    open_all(sa, [forged(n) for n in range(1, 6)])
    assert accepted(open_all(sa, [packet(n) for n in range(1, 6)])) == [1, 2, 3, 4, 5]


def test_eight_copies_in_one_batch_give_exactly_one() -> None:
    opened = open_all(receiver(), [packet(5)] * 8)
    assert accepted(opened) == [5]
    assert opened.drops == {DropReason.REPLAYED: 7}


def test_duplicates_between_others_in_one_batch_are_caught() -> None:
    opened = open_all(receiver(), [packet(n) for n in (1, 2, 2, 3, 1, 4, 4)])
    assert opened.numbers == [1, 2, 0, 3, 0, 4, 0]
    assert opened.drops == {DropReason.REPLAYED: 3}


def test_a_whole_batch_again_is_replayed() -> None:
    sa, batch = receiver(), [packet(n) for n in range(1, 21)]
    open_all(sa, batch)
    opened = open_all(sa, batch)
    assert accepted(opened) == []
    assert opened.drops == {DropReason.REPLAYED: 20}


def test_descending_order_is_accepted() -> None:
    opened = open_all(receiver(), [packet(n) for n in range(20, 0, -1)])
    assert accepted(opened) == list(range(20, 0, -1))


def test_holes_stay_open_for_late_packets() -> None:
    sa = receiver()
    assert accepted(open_all(sa, [packet(n) for n in (1, 3, 5, 9)])) == [1, 3, 5, 9]
    opened = open_all(sa, [packet(n) for n in (2, 3, 4, 8)])
    assert opened.numbers == [2, 0, 4, 8]
    assert opened.drops == {DropReason.REPLAYED: 1}


def test_left_of_the_window_is_too_old() -> None:
    sa = receiver(esn=False)
    open_all(sa, [packet(WINDOW + 5, esn=False)])
    opened = open_all(sa, [packet(n, esn=False) for n in (5, 6)])
    assert opened.numbers == [0, 6]
    assert opened.drops == {DropReason.TOO_OLD: 1}


def test_left_of_the_window_stands_for_2_to_the_32_later_with_esn_and_fails_there() -> None:
    sa = receiver()
    open_all(sa, [packet(WINDOW + 5)])
    opened = open_all(sa, [packet(n) for n in (5, 6)])
    assert opened.numbers == [0, 6]
    assert opened.drops == {DropReason.BAD_ICV: 1}


@pytest.mark.parametrize("stale", [2000, 1, 5000 - WINDOW, 2**31, 2**32 - 1])
def test_a_stale_or_forged_packet_at_the_front_does_not_cost_those_behind_it(stale: int) -> None:
    sa = receiver(floor=5000)
    opened = open_all(sa, [forged(stale), *(packet(n) for n in range(5001, 5010))])
    assert opened.numbers == [0, *range(5001, 5010)]
    assert opened.drops == {DropReason.BAD_ICV: 1}


@pytest.mark.parametrize("batches", [[17], [1] * 17])
def test_seventeen_forged_packets_far_ahead_do_not_move_the_window(batches: list[int]) -> None:
    sa = receiver()
    open_all(sa, [packet(n) for n in range(1, 11)])
    ahead = iter(range(10**6, 10**6 + 17 * 1000, 1000))
    for count in batches:
        opened = open_all(sa, [forged(next(ahead)) for _ in range(count)])
        assert opened.drops == {DropReason.BAD_ICV: count}
    assert sa.window.top == 10
    assert accepted(open_all(sa, [packet(n) for n in range(11, 21)])) == list(range(11, 21))


def test_forged_packets_far_ahead_within_a_good_batch_do_not_move_the_window() -> None:
    sa = receiver()
    opened = open_all(sa, [packet(1), packet(2), forged(10**6), packet(3)])
    assert accepted(opened) == [1, 2, 3]
    assert sa.window.top == 3


def test_a_successor_counts_everything_up_to_the_floor_as_seen() -> None:
    sa = receiver(floor=100)
    opened = open_all(sa, [packet(n) for n in (99, 100, 101, 102)])
    assert opened.numbers == [0, 0, 101, 102]
    assert opened.drops == {DropReason.REPLAYED: 2}


def test_the_high_half_rolls_over_within_a_batch() -> None:
    sa, first = receiver(floor=2**32 - 6), 2**32 - 5
    opened = open_all(sa, [packet(n) for n in range(first, first + 12)])
    assert opened.is_range
    assert accepted(opened) == list(range(first, first + 12))
    assert sa.window.top == 2**32 + 6


def test_the_high_half_rolls_over_in_a_batch_with_holes_and_a_forged_packet() -> None:
    numbers = [2**32 - 4, 2**32 - 1, 2**32 + 2, 2**32 + 3]
    opened = open_all(
        receiver(floor=2**32 - 6), [*map(packet, numbers[:2]), forged(2**32 + 1), *map(packet, numbers[2:])]
    )
    assert accepted(opened) == numbers
    assert opened.drops == {DropReason.BAD_ICV: 1}


def test_late_packets_from_before_a_rollover_are_accepted() -> None:
    sa = receiver(floor=2**32 - 6)
    open_all(sa, [packet(2**32 + 1)])
    assert accepted(open_all(sa, [packet(2**32 - 1), packet(2**32)])) == [2**32 - 1, 2**32]


def test_the_high_half_is_not_believed_from_the_iv() -> None:
    jump = 5 + (1 << 32)
    opened = open_all(receiver(), [packet(jump)])
    assert opened.drops == {DropReason.BAD_ICV: 1}


def test_without_esn_the_number_zero_is_refused() -> None:
    opened = open_all(receiver(esn=False), [packet(n, esn=False) for n in (2**32 - 2, 2**32 - 1)])
    assert accepted(opened) == [2**32 - 2, 2**32 - 1]
    opened = open_all(receiver(esn=False), [packet(n, esn=False) for n in (2**32 - 2, 2**32 - 1, 0)])
    assert opened.numbers == [2**32 - 2, 2**32 - 1, 0]
    assert opened.drops == {DropReason.TOO_OLD: 1}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_at_the_end_of_all_numbers_nothing_is_accepted_and_nothing_raises(count: int) -> None:
    opened = open_all(receiver(floor=2**64 - 2), [packet(n) for n in range(5000, 5000 + count)])
    assert opened.drops == {DropReason.TOO_OLD: count}


@given(st.integers(0, 2**32), st.data())
def test_any_batch_gives_each_authentic_number_once_and_counts_the_rest(seed: int, data: st.DataObject) -> None:
    """Two batches of numbers around the window's top, forged or not, against a set."""
    base = data.draw(st.sampled_from([50, 2**32 - 20, 2**32 + 40]))
    sa, seen = receiver(floor=base), set(range(base - 10, base + 1))
    dice = random.Random(seed)
    for _ in range(2):
        numbers = data.draw(st.lists(st.integers(base - 10, base + 60), min_size=1, max_size=16))
        good = [dice.random() < 0.8 for _ in numbers]
        opened = open_all(sa, [packet(n) if ok else forged(n) for n, ok in zip(numbers, good, strict=True)])
        expected = []
        for number, ok in zip(numbers, good, strict=True):
            fresh = ok and number not in seen
            expected.append(number if fresh else 0)
            if fresh:
                seen.add(number)
        assert opened.numbers == expected
        accepted(opened)
        assert sum(opened.drops.values()) == expected.count(0)


def test_a_burst_of_the_greatest_size_comes_back() -> None:
    sa, size = sender(), 64 + OVERHEAD_BYTES
    table = PacketTable(bytearray(size * ROWS), size, ROWS)
    sealed = rows_of(64, ROWS, b"".join(row_of(n) for n in range(1, ROWS + 1)))
    seal_burst(sa, sa.claim(ROWS), sealed, 0, ROWS, 0, table)
    rows, drops = rows_of(64, ROWS), [0] * N_REASONS
    assert open_burst(receiver(), table, 0, ROWS, (), rows, 0, drops) == range(1, ROWS + 1)
    assert rows.view == sealed.view


# -- trailers --------------------------------------------------------------------------------------------------


@given(st.integers(0, 300), st.integers(0, 20), st.integers(0, 255))
def test_a_trailer_written_is_found_again(payload: int, start: int, next_header: int) -> None:
    buffer = memoryview(bytearray(400))
    end = write_trailer(buffer, start, payload, next_header)
    assert end - start == padded(payload)
    assert (end - start) % 4 == 0
    assert buffer[end - 1] == next_header
    assert payload_length(buffer[start:end]) == payload


@pytest.mark.parametrize(
    "row",
    [b"", b"\x04", b"\x01\x04", b"abc\x04\x04", b"\x02\x02\x02\x04", b"\x00\x01\x02\x04", b"\xff\x04"],
    ids=["empty", "one octet", "pad past start", "pad past start 2", "wrong padding", "from zero", "all pad"],
)
def test_padding_that_cannot_be_is_refused(row: bytes) -> None:
    assert payload_length(memoryview(row)) == -1


@given(st.binary(max_size=300))
def test_any_row_has_a_payload_length_or_none(row: bytes) -> None:
    assert -1 <= payload_length(memoryview(row)) <= max(len(row) - 2, -1)


def test_the_longest_padding_is_accepted() -> None:
    row = b"payload" + bytes(range(1, 256)) + b"\xff\x04"
    assert payload_length(memoryview(row)) == 7
