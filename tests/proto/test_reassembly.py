"""Records out of chunks that come in order, late, or not at all: exactly those that arrived whole, each once.

The rule (docstring of fwd/proto/reassembly.py): a missing packet is given up after `later` further packets, or after
`wait_s`. A record within one chunk needs no other; any other is delivered when its last chunk comes, and may be lost
when one of its chunks came only after it was given up. Packets before the first one taken are not waited for.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from aggkit import CHUNK, LATER, WAIT_S, Chunk, Receiver, Stream, record
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples

from fwd.proto.aggfrag import row_bytes
from fwd.proto.drops import DropReason
from fwd.proto.ip import RECORD_MAX, VNET_BYTES
from fwd.proto.reassembly import _PIECES_MAX

LENGTHS = st.one_of(st.integers(20, 60), st.sampled_from([46, 56, 66, 122]), st.integers(61, 400))
BURSTS = st.lists(st.lists(LENGTHS, min_size=1, max_size=6), min_size=1, max_size=12)


def stream_of(bursts: Sequence[Sequence[int]], first_number: int = 1) -> Stream:
    stream, tag = Stream(first_number=first_number), 0
    for lengths in bursts:
        stream.add_burst([record(length, (tag := tag + 1)) for length in lengths])
    return stream


def shuffled(chunks: Sequence[Chunk], seed: int, loss: float, late: float) -> list[Chunk]:
    """The first chunk first; of the others some lost, and some up to six places late."""
    dice = random.Random(seed)
    places = [
        (i + (dice.randint(1, 6) + 0.5 if i and dice.random() < late else 0), chunk)
        for i, chunk in enumerate(chunks)
        if not i or dice.random() >= loss
    ]
    return [chunk for _, chunk in sorted(places, key=lambda place: place[0])]


def must_deliver(stream: Stream, arrivals: Sequence[Chunk], later: int = LATER) -> set[bytes]:
    """The records that have all their chunks, none of which was given up before it came."""
    top, in_time, expected = 0, set(), set()
    for chunk in arrivals:
        number = chunk.number
        if number > top or (number > top - later and number > arrivals[0].number):
            in_time.add(number)
        top = max(top, number)
        expected |= {octets for octets, span in stream.records if span == range(number, number + 1)}
    return expected | {octets for octets, span in stream.records if in_time.issuperset(span)}


def may_deliver(stream: Stream, arrivals: Sequence[Chunk]) -> set[bytes]:
    """The records that have all their chunks, however late."""
    came = {chunk.number for chunk in arrivals}
    return {octets for octets, span in stream.records if came.issuperset(span)}


def assert_delivered(receiver: Receiver, stream: Stream, arrivals: Sequence[Chunk], later: int = LATER) -> None:
    """All that must be, nothing that did not come whole, nothing twice."""
    delivered = set(receiver.records)
    assert len(delivered) == len(receiver.records)
    assert must_deliver(stream, arrivals, later) <= delivered <= may_deliver(stream, arrivals)


def batches(chunks: Sequence[Chunk], seed: int) -> list[list[Chunk]]:
    """The same chunks as several receives."""
    dice, out = random.Random(seed), []
    at = 0
    while at < len(chunks):
        size = dice.randint(1, 12)
        out.append(list(chunks[at : at + size]))
        at += size
    return out


def assert_honest(receiver: Receiver) -> None:
    """Loss and reordering alone never look like a peer that breaks the framing."""
    assert not receiver.counted(DropReason.BAD_STREAM)


# -- any stream ------------------------------------------------------------------------------------------------


@given(BURSTS, st.integers(0, 2**32), st.sampled_from([1, 7, 2**32 - 5]))
def test_in_order_every_record_is_delivered_from_rows(bursts: list[list[int]], seed: int, first: int) -> None:
    stream, receiver = stream_of(bursts, first), Receiver()
    for batch in batches(stream.chunks, seed):
        receiver.take_batch(batch)
    assert receiver.records == [octets for octets, _ in stream.records]
    assert not any(receiver.drops)
    assert receiver.rows.owner is None


@given(BURSTS)
def test_in_order_every_record_is_delivered_from_chunks(bursts: list[list[int]]) -> None:
    stream, receiver = stream_of(bursts), Receiver()
    for chunk in stream.chunks:
        receiver.take(chunk)
    assert receiver.records == [octets for octets, _ in stream.records]
    assert not any(receiver.drops)
    assert not receiver.pieces_kept()


@settings(max_examples=examples(150))
@given(BURSTS, st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.2, 0.6]))
@pytest.mark.parametrize("way", ["chunks", "rows"])
def test_lost_and_late_chunks_cost_only_the_records_they_carry(
    way: str, bursts: list[list[int]], seed: int, loss: float, late: float
) -> None:
    stream, receiver = stream_of(bursts), Receiver()
    arrivals = shuffled(stream.chunks, seed, loss, late)
    if way == "chunks":
        for chunk in arrivals:
            receiver.take(chunk)
    else:
        for batch in batches(arrivals, seed):
            receiver.take_batch(batch)
    assert_delivered(receiver, stream, arrivals)
    assert_honest(receiver)


@given(BURSTS, st.integers(0, 2**32), st.booleans())
def test_loss_alone_costs_exactly_the_records_it_hits_and_no_order(
    bursts: list[list[int]], seed: int, in_rows: bool
) -> None:
    stream, receiver = stream_of(bursts), Receiver()
    arrivals = shuffled(stream.chunks, seed, 0.2, 0.0)
    for batch in batches(arrivals, seed):
        if in_rows:
            receiver.take_batch(batch)
        else:
            for chunk in batch:
                receiver.take(chunk)
    kept = may_deliver(stream, arrivals)
    assert receiver.records == [octets for octets, _ in stream.records if octets in kept]
    assert_honest(receiver)


@given(BURSTS, st.integers(0, 2**32), st.integers(1, 8))
def test_the_wait_for_later_packets_is_as_configured(bursts: list[list[int]], seed: int, later: int) -> None:
    stream, receiver = stream_of(bursts), Receiver(later)
    arrivals = shuffled(stream.chunks, seed, 0.1, 0.4)
    for chunk in arrivals:
        receiver.take(chunk)
    assert_delivered(receiver, stream, arrivals, later)


@given(BURSTS, st.integers(0, 2**32))
def test_each_lost_packet_is_counted_as_one_hole(bursts: list[list[int]], seed: int) -> None:
    stream, receiver = stream_of(bursts), Receiver()
    arrivals = shuffled(stream.chunks, seed, 0.3, 0.0)
    for chunk in arrivals:
        receiver.take(chunk)
    receiver.reassembler.expire(10 * WAIT_S)
    assert receiver.counted(DropReason.HOLE) == arrivals[-1].number - len(arrivals)


# -- the rule, case by case ------------------------------------------------------------------------------------


def one_long_record(chunks: int = 4) -> Stream:
    return stream_of([[CHUNK * chunks - VNET_BYTES], [30], [30], [30], [30]])


def test_a_late_chunk_completes_its_record() -> None:
    stream, receiver = one_long_record(), Receiver()
    for i in (0, 1, 3, 4, 2):
        receiver.take(stream.chunks[i])
    assert receiver.records == [stream.records[1][0], stream.records[0][0]]
    assert not any(receiver.drops)


def test_a_chunk_later_than_three_packets_is_given_up() -> None:
    stream, receiver = one_long_record(), Receiver()
    for i in (0, 1, 3, 4, 5, 2):
        receiver.take(stream.chunks[i])
    assert stream.records[0][0] not in receiver.records
    assert receiver.counted(DropReason.HOLE) == 1
    assert_honest(receiver)
    assert not receiver.pieces_kept()


@pytest.mark.parametrize(("late_by_s", "delivered"), [(WAIT_S * 0.9, True), (WAIT_S * 1.1, False)])
def test_a_chunk_later_than_the_wait_is_given_up(late_by_s: float, delivered: bool) -> None:
    stream, receiver = one_long_record(), Receiver()
    for i in (0, 1, 3):
        receiver.take(stream.chunks[i], 5.0)
    receiver.take(stream.chunks[2], 5.0 + late_by_s)
    assert (receiver.records == [stream.records[0][0]]) is delivered
    assert_honest(receiver)


def test_a_hole_expires_without_a_further_packet() -> None:
    stream, receiver = one_long_record(), Receiver()
    for i in (0, 1, 3):
        receiver.take(stream.chunks[i], 5.0)
    receiver.reassembler.expire(5.0 + 1.1 * WAIT_S)
    assert receiver.counted(DropReason.HOLE) == 1
    assert not receiver.pieces_kept()


def test_one_packet_a_second_with_loss_is_delivered_as_it_comes() -> None:
    stream, receiver = stream_of([[40]] * 30), Receiver()
    for second, chunk in enumerate(stream.chunks):
        if second % 3 == 1:
            continue
        receiver.take_batch([chunk], float(second))
        assert receiver.records[-1] == chunk.data


def test_a_packet_that_carries_no_records_leaves_no_hole() -> None:
    stream, receiver = stream_of([[30]]), Receiver()
    receiver.take(stream.chunks[0])
    receiver.reassembler.passed(2, 0.0)
    receiver.take(Chunk(3, 0, record(30, 99)))
    assert len(receiver.records) == 2
    receiver.reassembler.expire(1.0)
    assert not any(receiver.drops)


def test_the_first_packets_of_an_sa_may_come_out_of_order() -> None:
    stream, receiver = stream_of([[CHUNK * 3 - VNET_BYTES], [30]]), Receiver()
    for i in (1, 2, 0, 3):
        receiver.take(stream.chunks[i])
    assert sorted(receiver.records) == sorted([stream.records[0][0], stream.records[1][0]])
    assert_honest(receiver)


def test_a_gap_of_any_width_is_counted_whole_and_costs_no_time() -> None:
    receiver = Receiver()
    receiver.take(Chunk(1, 0, record(30, 1)))
    receiver.take(Chunk(10**12, 0, record(30, 2)))
    receiver.reassembler.expire(1.0)
    assert len(receiver.records) == 2
    assert receiver.counted(DropReason.HOLE) == 10**12 - 2


@pytest.mark.parametrize("chunk", [482, 1434])
@pytest.mark.parametrize("in_rows", [True, False])
def test_the_longest_record_comes_whole(chunk: int, in_rows: bool) -> None:
    stream, receiver = Stream(), Receiver(stride=row_bytes(chunk))
    for tag in (1, 2, 4):
        stream.add_burst([record(RECORD_MAX - VNET_BYTES, tag)], chunk)
    for at in range(0, len(stream.chunks), 44):
        if in_rows:
            receiver.take_batch(stream.chunks[at : at + 44])
        else:
            for one in stream.chunks[at : at + 44]:
                receiver.take(one)
    assert receiver.records == [octets for octets, _ in stream.records]


def test_another_owner_may_take_the_rows_in_the_middle_of_a_record() -> None:
    stream, receiver = one_long_record(), Receiver()
    receiver.take_batch(stream.chunks[:2])
    receiver.reassembler.spill(receiver.rows)
    assert receiver.rows.owner is None
    receiver.rows.view[:] = bytes(len(receiver.rows.view))
    receiver.take_batch(stream.chunks[2:])
    assert receiver.records == [octets for octets, _ in stream.records]


def test_an_unfinished_record_moves_to_the_front_unharmed() -> None:
    stream, receiver = stream_of([[30, CHUNK * 4], [30]]), Receiver()
    receiver.take_batch(stream.chunks[:3])
    receiver.reassembler.to_front(receiver.rows)
    receiver.take_batch(stream.chunks[3:])
    assert receiver.records == [octets for octets, _ in stream.records]


# -- an authenticated peer that lies ---------------------------------------------------------------------------

HOSTILE = st.lists(
    st.tuples(
        st.integers(1, 6),  # how far from the highest number so far, less three
        st.integers(0, 65535),
        st.one_of(st.binary(min_size=1, max_size=CHUNK), st.just(record(3000, 1)[:CHUNK]), st.just(b"\0" * CHUNK)),
    ),
    max_size=60,
)
GOOD = [[30, 200, 64], [500]]


def run_hostile(hostile: list[tuple[int, int, bytes]], in_rows: bool) -> tuple[Receiver, int]:
    """Feed lies; numbers repeat never, as behind a replay window. Returns the receiver and the highest number."""
    receiver, used, top = Receiver(), {0}, 3
    for step, offset, data in hostile:
        number = top + step - 3
        if number in used:
            continue
        used.add(number)
        top = max(top, number)
        offset = offset if offset > 300 else offset % (CHUNK + 20)
        (receiver.take_batch if in_rows else lambda chunks: receiver.take(chunks[0]))([Chunk(number, offset, data)])
        assert receiver.pieces_kept() <= _PIECES_MAX + 2 * LATER + 4
    return receiver, top


@settings(max_examples=examples(200))
@given(HOSTILE, st.booleans(), st.booleans())
def test_after_any_lies_the_next_good_bursts_are_delivered(
    hostile: list[tuple[int, int, bytes]], lies_in_rows: bool, good_in_rows: bool
) -> None:
    receiver, top = run_hostile(hostile, lies_in_rows)
    before = len(receiver.records)
    stream = stream_of(GOOD, top + 1)
    if good_in_rows:
        receiver.take_batch(stream.chunks)
    else:
        receiver.reassembler.spill(receiver.rows)
        for chunk in stream.chunks:
            receiver.take(chunk)
    assert receiver.records[before:] == [octets for octets, _ in stream.records]


def test_a_record_that_never_ends_keeps_bounded_memory() -> None:
    receiver = Receiver()
    receiver.take(Chunk(1, 0, record(65535, 1)[:CHUNK]))
    for number in range(2, 5000):
        receiver.take(Chunk(number, 65535, bytes(CHUNK)))
        assert receiver.pieces_kept() <= _PIECES_MAX + 2
    assert receiver.counted(DropReason.BAD_STREAM)


@pytest.mark.parametrize("octets", [2000, 9000, 65000])
def test_a_record_that_never_ends_keeps_few_octets_whatever_the_size_of_its_packets(octets: int) -> None:
    receiver = Receiver()
    receiver.take(Chunk(1, 0, record(65535, 1)[:1990]))
    for number in range(2, 1000):
        receiver.take(Chunk(number, 65535, bytes(octets)))
        assert receiver.reassembler.weigh() <= 1 << 20
    assert receiver.counted(DropReason.BAD_STREAM)


@pytest.mark.parametrize("length", [0, 1, 19])
@pytest.mark.parametrize("in_rows", [True, False])
def test_a_record_without_a_length_is_a_bad_record(length: int, in_rows: bool) -> None:
    receiver = Receiver()
    lie = Chunk(1, 0, (bytes(VNET_BYTES) + b"\x45\0" + length.to_bytes(2, "big")).ljust(CHUNK, b"\0"))
    good = Chunk(2, 0, record(30, 5))
    for chunk in (lie, good):
        (receiver.take_batch if in_rows else lambda chunks: receiver.take(chunks[0]))([chunk])
    assert receiver.counted(DropReason.BAD_STREAM) == 1
    assert receiver.records == [good.data]


@pytest.mark.parametrize("version", [0, 5, 7, 15])
def test_a_record_that_is_not_ip_is_a_bad_record(version: int) -> None:
    receiver = Receiver()
    receiver.take(Chunk(1, 0, bytes(VNET_BYTES) + bytes([version << 4]) + b"\x01" * 40))
    assert receiver.counted(DropReason.BAD_STREAM) == 1


@pytest.mark.parametrize("in_rows", [True, False])
def test_an_offset_that_contradicts_the_record_before_it_is_bad_framing(in_rows: bool) -> None:
    receiver = Receiver()
    begun = Chunk(1, 0, record(200, 1)[:CHUNK])
    other = Chunk(2, 0, record(40, 2))
    for chunk in (begun, other):
        (receiver.take_batch if in_rows else lambda chunks: receiver.take(chunks[0]))([chunk])
    assert receiver.records == [other.data]
    assert receiver.counted(DropReason.BAD_STREAM) == 1


@pytest.mark.parametrize("more", [1, 100])
def test_an_offset_that_says_another_length_than_the_record_is_a_bad_record(more: int) -> None:
    receiver, octets = Receiver(), record(100, 1)
    receiver.take(Chunk(1, 0, octets[:CHUNK]))
    rest = octets[CHUNK:] + bytes(more)
    receiver.take(Chunk(2, len(rest), rest))
    assert receiver.records == []
    assert receiver.counted(DropReason.BAD_STREAM) == 1


def test_what_an_octet_before_an_echo_begins_is_given_up_and_costs_later_records_nothing() -> None:
    """A peer with keys may send that again and again."""
    receiver = Receiver()
    assembler = receiver.reassembler
    for number in range(1, 2001, 2):
        assembler.take_chunk(number, 0, memoryview(b"\0"), 0.0)
        assembler.passed(number + 1, 0.0)
    assert not assembler._tails
    assert assembler.weigh() == 0
