"""The first and the last stage of a burst undo each other: what is laid over rows is found in them again."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.aggfrag import FRAMING_BYTES, row_bytes
from fwd.proto.burst import lay_record, record_ends
from fwd.proto.ip import RECORD_MAX, VNET_BYTES

ROWS = 24


def record(ip_bytes: int) -> bytearray:
    """A record with an IPv4 packet of this length and content of no meaning."""
    head = b"\x45\0" + ip_bytes.to_bytes(2, "big")
    return bytearray(bytes(VNET_BYTES) + head + random.Random(ip_bytes).randbytes(ip_bytes - len(head)))


class Segment:
    """Rows that records are laid into, and where each ends in their data."""

    def __init__(self, chunk: int) -> None:
        self.chunk, self.stride = chunk, row_bytes(chunk)
        self.buffer = bytearray(self.stride * ROWS)
        octets = np.frombuffer(self.buffer, np.uint8).reshape(ROWS, self.stride)
        self.grid = octets[:, FRAMING_BYTES : FRAMING_BYTES + chunk]
        self.at = FRAMING_BYTES
        self.ends: list[int] = []

    def fill(self) -> int:
        return self.ends[-1] if self.ends else 0

    def lay(self, ip_bytes: int) -> None:
        data = record(ip_bytes)
        room = self.chunk + FRAMING_BYTES - self.at % self.stride
        if len(data) < room:
            self.buffer[self.at : self.at + len(data)] = data
            self.at += len(data)
        else:
            octets, rows = np.frombuffer(data, np.uint8), memoryview(self.buffer)
            self.at = lay_record(
                memoryview(data), octets, len(data), rows, self.grid, self.stride, self.chunk, self.at, room
            )
        self.ends.append(self.fill() + len(data))


@given(st.sampled_from([26, 60, 482, 1434]), st.lists(st.integers(20, 3000), max_size=30))
def test_records_laid_over_rows_are_found_where_they_end(chunk: int, lengths: list[int]) -> None:
    segment = Segment(chunk)
    laid = []
    for ip_bytes in lengths:
        if segment.fill() + ip_bytes + VNET_BYTES <= chunk * (ROWS - 1):
            segment.lay(ip_bytes)
            laid.append(ip_bytes)
    assert segment.grid.tobytes()[: segment.fill()] == b"".join(map(record, laid))
    for have in {segment.fill(), segment.fill() - 1, segment.fill() // 2}:
        found = record_ends(segment.buffer, segment.stride, chunk, 0, 0, have)
        assert found == ([end for end in segment.ends if end <= have], True)


def test_the_search_goes_on_from_any_row_and_octet() -> None:
    segment = Segment(1434)
    for _ in range(8):
        segment.lay(2000)
    first, offset = divmod(segment.ends[3], 1434)
    ends, sound = record_ends(segment.buffer, segment.stride, 1434, first, offset, segment.fill() - first * 1434)
    assert sound
    assert [end + first * 1434 for end in ends] == segment.ends[4:]


def test_a_length_that_no_packet_has_ends_the_search() -> None:
    segment = Segment(1434)
    segment.lay(100)
    segment.lay(60)
    start = FRAMING_BYTES + segment.ends[0] + VNET_BYTES
    segment.buffer[start + 2 : start + 4] = (19).to_bytes(2, "big")
    assert record_ends(segment.buffer, segment.stride, 1434, 0, 0, segment.fill()) == ([segment.ends[0]], False)


def test_the_longest_record_fills_its_rows() -> None:
    segment = Segment(8934)
    segment.lay(RECORD_MAX - VNET_BYTES)
    assert record_ends(segment.buffer, segment.stride, 8934, 0, 0, RECORD_MAX) == ([RECORD_MAX], True)
