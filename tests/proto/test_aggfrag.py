"""AGGFRAG framing as the sender writes it and the rows that a receiver opens packets to (RFC 9347 §2.2)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto import aggfrag
from fwd.proto.aggfrag import (
    BLOCK_OFFSET_MAX,
    FRAMING_BYTES,
    SUBTYPE_ECHO,
    SUBTYPE_RECORDS,
    Framer,
    RowBuffer,
    chunk_bytes,
    row_bytes,
)
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_DUMMY, OVERHEAD_BYTES
from fwd.proto.ip import RECORD_MAX

CHUNK = 34
STRIDE = row_bytes(CHUNK)


def framed(rows: int, chunk: int, ends: list[int], used: int) -> list[bytes]:
    """The four octets in front of each of `used` rows."""
    stride = row_bytes(chunk)
    buffer = memoryview(bytearray(b"\xee" * stride * rows))
    framer = Framer(buffer, stride, rows, chunk)
    framer.write_offsets(np.array(ends, dtype=np.uint32), used)
    return [bytes(buffer[i * stride : i * stride + FRAMING_BYTES]) for i in range(used)]


def test_a_1500_octet_path_over_ipv4_takes_chunks_of_1434() -> None:
    assert chunk_bytes(1500 - 20 - 8) == 1434


@given(st.integers(100, 9000))
def test_a_full_row_fits_its_packet_and_needs_no_padding(packet: int) -> None:
    row = row_bytes(chunk_bytes(packet))
    assert row % 4 == 0
    assert packet - 4 < row + OVERHEAD_BYTES <= packet


def test_a_framer_writes_what_never_changes_once() -> None:
    buffer = memoryview(bytearray(b"\xee" * STRIDE * 3))
    Framer(buffer, STRIDE, 3, CHUNK)
    for at in range(0, 3 * STRIDE, STRIDE):
        assert bytes(buffer[at : at + FRAMING_BYTES]) == bytes([SUBTYPE_RECORDS, 0, 0, 0])
        assert bytes(buffer[at + FRAMING_BYTES : at + STRIDE - 2]) == b"\xee" * CHUNK
        assert bytes(buffer[at + STRIDE - 2 : at + STRIDE]) == bytes([0, NEXT_AGGFRAG])


def test_a_row_that_starts_with_a_record_has_offset_zero() -> None:
    assert framed(2, 100, [100, 150], 2)[1] == bytes([SUBTYPE_RECORDS, 0, 0, 0])


def test_an_offset_may_point_past_its_own_row() -> None:
    assert [int.from_bytes(head[2:], "big") for head in framed(4, 100, [350], 4)] == [0, 250, 150, 50]


@given(st.integers(20, 200), st.lists(st.integers(30, 700), min_size=1, max_size=20))
def test_offsets_lead_to_the_next_record(chunk: int, lengths: list[int]) -> None:
    ends = [int(end) for end in np.cumsum(lengths)]
    rows = -(-ends[-1] // chunk)
    for row, head in enumerate(framed(rows + 2, chunk, ends, rows)):
        offset = int.from_bytes(head[2:], "big")
        assert row * chunk + offset == min(start for start in [0, *ends] if start >= row * chunk)


def test_the_longest_record_never_needs_a_longer_offset_than_there_is() -> None:
    smallest = chunk_bytes(576 - 48)
    heads = framed(RECORD_MAX // smallest + 1, smallest, [RECORD_MAX], 2)
    assert int.from_bytes(heads[1][2:], "big") == RECORD_MAX - smallest <= BLOCK_OFFSET_MAX


def test_the_sub_types_are_outside_those_assigned() -> None:
    subtypes = {aggfrag.SUBTYPE_RECORDS, aggfrag.SUBTYPE_ECHO, aggfrag.SUBTYPE_ECHO_REPLY}
    assert len(subtypes) == 3
    assert min(subtypes) > 1


# -- what a receiver opens to ------------------------------------------------------------------------------------


def filled(rows: int) -> RowBuffer:
    """A row buffer whose first rows carry full chunks of records."""
    buffer = RowBuffer(STRIDE)
    Framer(buffer.view, STRIDE, rows, CHUNK)
    return buffer


def test_the_data_of_a_row_lies_between_framing_and_trailer() -> None:
    buffer = RowBuffer(STRIDE)
    buffer.rows[1][:] = bytes(range(STRIDE))
    assert buffer.chunk == CHUNK
    assert bytes(buffer.data[1]) == bytes(range(FRAMING_BYTES, FRAMING_BYTES + CHUNK))


@pytest.mark.parametrize("chunk", [482, 1434, 8934])
def test_there_is_room_for_the_longest_record_and_one_receive_behind_it(chunk: int) -> None:
    assert RowBuffer(row_bytes(chunk)).capacity >= -(-RECORD_MAX // chunk) + 1 + 64


def test_rows_of_full_chunks_are_all_records() -> None:
    assert filled(8).all_records(0, 8)
    assert filled(8).all_records(3, 2)


@pytest.mark.parametrize("row", [3, 5, 7])
@pytest.mark.parametrize(
    ("at", "value"),
    [(0, SUBTYPE_ECHO), (0, 0), (1, 1), (STRIDE - 2, 4), (STRIDE - 1, NEXT_DUMMY)],
    ids=["echo", "standard sub-type", "reserved octet", "padding", "dummy"],
)
def test_one_row_of_another_kind_is_noticed(row: int, at: int, value: int) -> None:
    buffer = filled(8)
    buffer.rows[row][at] = value
    assert not buffer.all_records(3, 5)
    assert buffer.all_records(0, row)


def test_a_block_offset_is_read_from_its_own_row() -> None:
    buffer = filled(3)
    buffer.rows[1][2:4] = b"\x12\x34"
    assert [buffer.block_offset(row) for row in range(3)] == [0, 0x1234, 0]
