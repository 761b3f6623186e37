"""A super-packet that lost the packet with its headers, which the sender told before, loses as little as others do."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import segkit
from aggkit import CHUNK, Chunk, Receiver, Stream, record
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.drops import DropReason
from fwd.proto.heads import HEAD_MAX, Heads, entries, entry
from fwd.proto.ip import VNET_BYTES

HEADER = VNET_BYTES + 40


def super_packet(tag: int, size: int, count: int) -> bytes:
    return segkit.super_record(segkit.octets(tag, size * count), size, sequence=tag << 20)


def told_of(records: Sequence[bytes]) -> bytes:
    """What the sender of these records, as one burst, tells in the packet before it."""
    found, at = b"", 0
    for data in records:
        found += entry(at // CHUNK + 1, at % CHUNK, data[:HEAD_MAX])
        at += len(data)
    return found


def after_loss(records: Sequence[bytes], lost: int, told: bytes, first: int = 1) -> Receiver:
    """What a receiver makes of a burst whose chunk `lost` is missing; `first`: chunks that came in batches before."""
    stream, receiver = Stream(first_number=2), Receiver()
    stream.add_burst(records)
    receiver.reassembler.told.take(1, told)
    receiver.reassembler.passed(1, 0.0)
    left = [chunk for chunk in stream.chunks if chunk.number != lost]
    receiver.take_batch(left[:first])
    receiver.take_batch(left[first:])
    receiver.reassembler.expire(1e9)
    assert receiver.counted(DropReason.HOLE) == 1
    return receiver


def tcp(receiver: Receiver) -> list[bytes]:
    return [packet for data in receiver.records if data[1] or data[0] for packet in segkit.segments(data)]


@pytest.mark.parametrize("size", [48, 70, 190])
@pytest.mark.parametrize("before", [60, 100, 170, 235])
def test_the_segments_behind_lost_headers_are_delivered(size: int, before: int) -> None:
    """All but those that the lost packet carried a part of. So it is when nothing came before."""
    data = super_packet(7, size, 1400 // size)
    records = [record(before, 1), data, record(40, 3)]
    start = VNET_BYTES + before
    hole = start // CHUNK
    receiver = after_loss(records, hole + 2, told_of(records))
    begins = [HEADER + n * size for n in range(1400 // size)]
    wanted = [
        packet for packet, at in zip(segkit.segments(data), begins, strict=True) if start + at >= (hole + 1) * CHUNK
    ]
    assert len(wanted) >= 5
    assert tcp(receiver) == wanted
    assert receiver.records[-1] == record(40, 3)
    assert not receiver.counted(DropReason.BAD_STREAM)


@pytest.mark.parametrize("size", [48, 70, 190])
def test_where_no_room_is_before_the_first_row_a_segment_more_is_lost(size: int) -> None:
    data = super_packet(7, size, 1400 // size)
    stream, receiver = Stream(first_number=2), Receiver()
    stream.add_burst([data])
    receiver.reassembler.told.take(1, told_of([data]))
    receiver.reassembler.passed(1, 0.0)
    receiver.take_batch(stream.chunks[1:])
    got, whole = tcp(receiver), segkit.segments(data)
    assert got == whole[len(whole) - len(got) :]
    assert len(got) >= len(whole) - 1 - -(-(HEADER + CHUNK) // size)


def test_without_being_told_the_whole_super_packet_is_lost() -> None:
    records = [record(60, 1), super_packet(7, 100, 12), record(40, 3)]
    assert tcp(after_loss(records, 3, b"")) == []


@pytest.mark.parametrize("octets", [-1, 1, CHUNK])
def test_what_contradicts_the_block_offsets_is_not_used(octets: int) -> None:
    records = [record(100, 1), super_packet(7, 100, 12), record(40, 3)]
    at = VNET_BYTES + 100 + octets
    receiver = after_loss(records, 3, entry(at // CHUNK + 1, at % CHUNK, records[1][:HEAD_MAX]))
    assert receiver.records == records[2:]


def test_what_is_no_super_packet_is_not_told() -> None:
    assert entry(1, 0, record(300, 1)) == b""
    assert entry(1, 0, super_packet(1, 100, 5)[:30]) == b""


@given(st.binary(max_size=400), st.integers(0, 2**40), st.integers(0, 70000))
def test_any_octets_are_read(octets: bytes, number: int, block_offset: int) -> None:
    heads = Heads()
    good = b"".join(entry(on, 9, super_packet(1, 100, 5)[:HEAD_MAX]) for on in range(1, 30))
    for told in (octets, good, good + octets):
        assert all(len(head) <= 255 for _, _, head in entries(told))
        heads.take(number, told)
        assert len(heads._kept) <= 16
        skip, head = heads.rest(number, 3, CHUNK, block_offset, 0)
        assert (skip >= len(head)) if head else not skip


def test_lies_about_headers_break_no_later_stream() -> None:
    stream, receiver = Stream(first_number=2), Receiver()
    data = super_packet(7, 100, 12)
    stream.add_burst([data, record(40, 1)])
    receiver.reassembler.told.take(1, entry(1, 0, super_packet(9, 48, 20)[:HEAD_MAX]))
    receiver.reassembler.passed(1, 0.0)
    receiver.take_batch([Chunk(5, 9, b"\1" * CHUNK), *[Chunk(n, 700, bytes(CHUNK)) for n in range(6, 12)]])
    good = Stream(first_number=12)
    good.add_burst([data, record(40, 2)])
    receiver.take_batch(good.chunks)
    assert receiver.records[-2:] == [data, record(40, 2)]
