"""Of a TCP super-packet that lost a chunk, the segments that came whole are delivered, in order, each once.

Also: rows that are shorter than the receiver's, of which a record may go on in the next.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import segkit
from aggkit import CHUNK, Chunk, Receiver, Stream, record
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples

from fwd.proto.aggfrag import row_bytes
from fwd.proto.drops import DropReason
from fwd.proto.ip import VNET_BYTES

HEADER = VNET_BYTES + 40
LAST = 1 << 20  # tag of the record that ends a stream: no other record is like it


def super_packet(tag: int, size: int, count: int, *, v6: bool = False, short: int = 0) -> bytes:
    return segkit.super_record(
        segkit.octets(tag, size * count - short), size, sequence=tag << 20, v6=v6, flags=segkit.ACK | segkit.PSH
    )


def one_burst(records: Sequence[bytes]) -> Stream:
    stream = Stream()
    stream.add_burst(records)
    return stream


def delivered(receiver: Receiver) -> list[bytes]:
    return [packet for data in receiver.records for packet in segkit.segments(data)]


def after_loss(stream: Stream, lost: set[int], batch: int = 1) -> Receiver:
    """What a receiver makes of the chunks that are left, and of silence afterwards."""
    receiver = Receiver()
    left = [chunk for chunk in stream.chunks if chunk.number not in lost]
    for at in range(0, len(left), batch):
        receiver.take_batch(left[at : at + batch])
    receiver.reassembler.expire(1e9)
    assert receiver.counted(DropReason.BAD_STREAM) == 0
    return receiver


def whole_segments(data: bytes, first_octet: int, lost: set[int]) -> list[bytes]:
    """The packets of a record, `first_octet` octets into its burst, of which no octet was in a lost chunk."""

    def came(start: int, end: int) -> bool:
        chunks = range((first_octet + start) // CHUNK, (first_octet + end - 1) // CHUNK + 1)
        return not any(number + 1 in lost for number in chunks)

    _, kind, _, size, *_ = segkit.VNET.unpack_from(data)
    found = segkit.segments(data)
    if not kind:
        return found if came(0, len(data)) else []
    header = len(data) - sum(len(packet) - (HEADER - VNET_BYTES) for packet in found)
    if not came(0, header):
        return []
    starts = range(header, len(data), size)
    return [p for p, at in zip(found, starts, strict=True) if came(at, min(at + size, len(data)))]


@pytest.mark.parametrize("size", [48, 66, 100, 190])
@pytest.mark.parametrize("before", [0, 60])
@pytest.mark.parametrize("batch", [1, 4, 100])
def test_one_lost_chunk_costs_the_segments_it_touched(size: int, before: int, batch: int) -> None:
    count = 1000 // size
    records = [record(before, 1)] if before else []
    records += [super_packet(2, size, count, short=size // 3), record(40, 3)]
    stream = one_burst(records)
    for hole in range(2, len(stream.chunks)):
        at, wanted = 0, []
        for data in records:
            wanted += whole_segments(data, at, {hole})
            at += len(data)
        got = delivered(after_loss(stream, {hole}, batch))
        assert sorted(got) == sorted(wanted), f"chunk {hole}"
        assert [p for p in got if len(p) >= 40 and p[9] == 6] == [p for p in wanted if len(p) >= 40 and p[9] == 6]


def test_the_part_of_ipv6_has_its_own_length_and_checksum() -> None:
    data = super_packet(1, 100, 12, v6=True)
    got = delivered(after_loss(one_burst([data]), {8}))
    assert 7 < len(got) < 12
    assert set(got) < set(segkit.segments(data))
    assert got[-1] == segkit.segments(data)[-1]


@pytest.mark.parametrize("claimed", [1, 13, 15, 66])
def test_what_contradicts_the_length_is_not_delivered(claimed: int) -> None:
    """A peer whose BlockOffset behind the hole says that the record ends elsewhere than its own length."""
    data = super_packet(1, 48, 3)
    chunks = one_burst([record(44, 3), data, record(200, 2)]).chunks
    assert chunks[3].offset == 50
    receiver = Receiver()
    for chunk in [*chunks[:2], Chunk(4, claimed, chunks[3].data), *chunks[4:]]:
        receiver.take(chunk)
    receiver.reassembler.expire(1e9)
    whole = segkit.segments(data)
    assert [p for p in delivered_tcp(receiver) if p not in whole] == []
    assert receiver.counted(DropReason.BAD_STREAM) >= 1


def delivered_tcp(receiver: Receiver) -> list[bytes]:
    return [p for data in receiver.records if data[1] or data[0] for p in segkit.segments(data)]


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
def test_nothing_is_made_up_and_nothing_delivered_twice(seed: int) -> None:
    """Any losses, in bursts of any records: only packets that were sent, and all before each first hole of a
    super-packet. Those of one super-packet keep their order; whole records behind it do not wait for it."""
    dice = random.Random(seed)
    stream, spans = Stream(), []
    for tag in range(dice.randint(1, 6)):
        records = [
            super_packet(100 * tag + n, dice.choice([48, 66, 190]), dice.randint(2, 8))
            if dice.random() < 0.6 else record(dice.randint(20, 300), 100 * tag + n)
            for n in range(dice.randint(1, 4))
        ]  # fmt: skip
        first, at = len(stream.chunks), 0
        stream.add_burst(records)
        for data in records:
            spans.append((data, first * CHUNK + at))
            at += len(data)
    lost = {chunk.number for chunk in stream.chunks[1:] if dice.random() < 0.15}
    spans.append((record(40, LAST), len(stream.chunks) * CHUNK))
    stream.add_burst([record(40, LAST)])  # without it nobody would know that the last chunk is missing
    got = delivered(after_loss(stream, lost, dice.choice([1, 3, 50])))
    may, must = [], []
    for data, at in spans:
        whole = whole_segments(data, at, lost)
        assert [p for p in got if p in whole] == [p for p in whole if p in got]
        may += whole
        holes = [n for n in sorted(lost) if at < n * CHUNK and (n - 1) * CHUNK < at + len(data)]
        if len(holes) <= 1:
            must += whole
        else:
            unhurt = (holes[0] - 1) * CHUNK - at
            must += [p for p in whole if _end_of(data, p) <= unhurt]
    assert len(got) == len(set(got))
    assert set(got) <= set(may)
    assert set(must) <= set(got)


def _end_of(data: bytes, packet: bytes) -> int:
    """Where in its record a packet's payload ends."""
    found = segkit.segments(data)
    _, kind, _, size, *_ = segkit.VNET.unpack_from(data)
    if not kind:
        return len(data)
    return int(min(HEADER + (found.index(packet) + 1) * size, len(data)))


@pytest.mark.parametrize("size", [48, 100, 190])
@pytest.mark.parametrize("hole", [2, 9, 14])
def test_a_hole_that_a_batch_has_passed_over_takes_nothing_out_of_the_rows(
    size: int, hole: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every chunk behind the hole is taken where it lies, up to the end of the burst and beyond."""
    stream = one_burst([super_packet(1, size, 1400 // size), record(40, 2)])
    stream.add_burst([super_packet(3, size, 1400 // size)])
    receiver = Receiver()
    monkeypatch.setattr(receiver.reassembler, "take_chunk", None)
    left = [chunk for chunk in stream.chunks if chunk.number != hole]
    receiver.take_batch(left[:18])
    receiver.take_batch(left[18:])
    assert receiver.counted(DropReason.HOLE) == 1
    assert not receiver.counted(DropReason.BAD_STREAM)
    wanted = [p for data, span in stream.records for p in whole_segments(data, *_place(stream, data, span, hole))]
    assert delivered(receiver) == wanted
    assert receiver.rows.owner is None


def _place(stream: Stream, data: bytes, span: range, hole: int) -> tuple[int, set[int]]:
    """Where a record begins in its burst, and the chunk of that burst that is lost."""
    first = next(n for n in range(span.start, 0, -1) if n == 1 or len(stream.chunks[n - 2].data) < CHUNK)
    burst = b"".join(chunk.data for chunk in stream.chunks[first - 1 : span.stop - 1])
    return burst.index(data), {hole - first + 1}


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_hole_that_a_batch_has_not_passed_over_is_waited_for(missing: int) -> None:
    """With fewer than three packets behind it a late chunk still completes its record."""
    data = super_packet(1, 100, 12)
    stream, receiver = one_burst([data]), Receiver()
    late = len(stream.chunks) - missing
    receiver.take_batch([*stream.chunks[:late], *stream.chunks[late + 1 :]])
    receiver.take_batch([stream.chunks[late]])
    assert receiver.records == [data]
    assert not any(receiver.drops)


@pytest.mark.parametrize("size", [48, 100])  # the new headers begin before the row behind the hole, and in it
def test_a_late_chunk_behind_a_mended_hole_harms_nothing(size: int) -> None:
    """It comes when the record behind the hole still lies in rows: that is finished all the same."""
    data = super_packet(1, size, 1200 // size)
    stream, receiver = one_burst([data, record(40, 2)]), Receiver()
    receiver.take_batch([*stream.chunks[:6], *stream.chunks[7:12]])
    receiver.take_batch([stream.chunks[6]])
    receiver.take_batch(stream.chunks[12:])
    receiver.reassembler.expire(1e9)
    assert delivered(receiver) == [*whole_segments(data, 0, {7}), record(40, 2)[VNET_BYTES:]]
    assert receiver.counted(DropReason.BAD_STREAM) == 0


# -- when nothing follows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [48, 100, 190])
@pytest.mark.parametrize("came", range(1, 20))
def test_what_came_whole_of_a_super_packet_does_not_wait_for_its_last_packets(size: int, came: int) -> None:
    """Each segment once, whatever comes later, and in order."""
    data = super_packet(1, size, 1400 // size)
    stream, receiver = one_burst([record(40, 2), data]), Receiver()
    receiver.take_batch(stream.chunks[:came])
    for _ in range(2):
        if receiver.rows.owner is not None:
            receiver.reassembler.give_begun(receiver.rows)
    begun = delivered(receiver)[1:]
    octets = came * CHUNK - (VNET_BYTES + 40) - HEADER
    assert begun == segkit.segments(data)[: max(0, octets // size)]
    receiver.take_batch(stream.chunks[came:])
    assert delivered(receiver)[1:] == segkit.segments(data)
    assert not any(receiver.drops)
    assert receiver.rows.owner is None


@pytest.mark.parametrize("came", [5, 12])
def test_a_record_that_is_no_super_packet_waits_for_its_last_packet(came: int) -> None:
    stream, receiver = one_burst([record(900, 1)]), Receiver()
    receiver.take_batch(stream.chunks[:came])
    receiver.reassembler.give_begun(receiver.rows)
    assert receiver.records == []
    receiver.take_batch(stream.chunks[came:])
    assert receiver.records == [record(900, 1)]


# -- rows shorter than the receiver's ------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [30, 50, 65])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_sender_with_shorter_rows_is_understood(chunk: int, batch: int) -> None:
    """Its records go on from one short row to the next; the receiver's rows are laid out for longer ones."""
    stream = Stream()
    records = [record(length, tag) for tag, length in enumerate([100, 20, 300, 45, 46, 47, 200])]
    stream.add_burst(records, chunk)
    receiver = Receiver(stride=row_bytes(CHUNK))
    for at in range(0, len(stream.chunks), batch):
        receiver.take_batch(stream.chunks[at : at + batch])
    receiver.reassembler.expire(1.0)
    assert receiver.records == records
    assert not any(receiver.drops)
    assert receiver.pieces_kept() == 0


def test_a_burst_that_ends_within_a_record_is_a_bad_stream() -> None:
    """A full row, then a short one that neither completes the record nor begins another."""
    data = record(500, 1)
    receiver = Receiver()
    receiver.take_batch([Chunk(1, 0, data[:CHUNK]), Chunk(2, len(data) - CHUNK, data[CHUNK : CHUNK + 20])])
    receiver.take_batch([Chunk(3, 0, record(40, 2))])
    assert receiver.records == [record(40, 2)]
    assert receiver.counted(DropReason.BAD_STREAM) == 1
