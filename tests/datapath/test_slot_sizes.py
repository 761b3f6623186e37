"""Slots are of the size that full packets of the sender have, whatever else it sends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fwd.bench.rig import Path, Record
from fwd.datapath.shared import LinkWord
from fwd.datapath.slots import ESP_MIN, Slots
from fwd.proto.esp import OVERHEAD_BYTES

FULL = 1472
ROW = FULL - OVERHEAD_BYTES
LARGE, MEDIUM = 65_000, 500  # octets of a record: many full packets and a shorter one; one packet alone


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path()
    yield made
    made.close()


def carry(path: Path, octets: int, times: int) -> None:
    for _ in range(times):
        path.put(Record(octets))
        path.work()
        path.receive()


def slot_bytes(path: Path) -> int:
    return path.inbound._received.packet_bytes


def test_packets_that_come_alone_say_nothing_of_the_path(path: Path) -> None:
    carry(path, LARGE, 2)
    carry(path, MEDIUM, 50)
    assert slot_bytes(path) == FULL


def test_slots_follow_a_path_that_narrows_and_widens_though_bursts_end_in_shorter_packets(path: Path) -> None:
    carry(path, LARGE, 2)
    path.member.link[LinkWord.CHUNK] = 1034
    carry(path, LARGE, 3)
    assert slot_bytes(path) == FULL - 400
    path.member.link[LinkWord.CHUNK] = 1434
    carry(path, LARGE, 3)
    assert slot_bytes(path) == FULL


@pytest.mark.parametrize(
    ("noted", "better"),
    [
        ([(ROW + 100, 0)] * 16, ROW + 100),
        ([(ROW + 100, 0), (300, 0)] * 16, ROW + 100),  # what is shorter comes between
        ([(ROW + 100, 0)] * 15 + [(ROW + 200, 0)], ROW + 200),  # the longest needs room
        ([(ROW + 100, 0)] * 15, 0),
        ([(ROW + 102, 0)] * 16, 0),  # no full row has such a size
        ([(600, 600)] * 16, 600),
        ([(600, 600), (300, 600)] * 16, 600),  # the last of those that came merged is shorter
        ([(600, 600)] * 15 + [(700, 700)], 0),
        ([(600, 0)] * 16, 0),  # each alone
        ([(256, 256)] * 16, 0),  # no path is so narrow
        ([(600, 600), (ROW + 100, 0)] * 16, ROW + 100),  # what never fits matters more
    ],
)
def test_the_size_of_slots_is_told_by_what_does_not_fit(noted: list[tuple[int, int]], better: int) -> None:
    slots = Slots(FULL)
    for octets, merged in noted:
        slots.note(octets, merged)
    assert slots.better_stride == better


def test_a_peer_on_the_same_host_may_send_128_datagrams_at_once() -> None:
    """From Linux 6.9 on; they fit behind what waits already."""
    slots, waiting = Slots(500), 0
    while slots.has_room:
        assert waiting + 128 <= len(slots.table.spi)
        slots.fill(64 * 500)
        waiting += 64
    assert waiting > 128


def test_full_packets_between_shorter_ones_keep_the_slots_as_they_are() -> None:
    slots = Slots(FULL)
    for _ in range(20):
        for _ in range(15):
            slots.note(600, 600)
        slots.note_full()
    assert slots.better_stride == 0


@pytest.mark.parametrize("size", range(300, FULL, 37))
def test_a_receive_of_another_size_may_end_in_a_short_packet(size: int) -> None:
    """As many datagrams as one receive holds, and one more that is shorter: a stranger may send them."""
    slots = Slots(FULL)
    count = min(65507 // size, 127) + 1
    length = (count - 1) * size + ESP_MIN
    slots.space()[:length] = bytes(length)
    assert slots.others(length, size).spi[:count].tolist() == [0] * count
