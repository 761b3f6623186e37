"""Pure Python and the compiled core, by each library that it has, side by side: the same octets, the same verdicts.

Each burst is sealed, or opened, once in each form, by SAs that have seen the same before.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from formkit import COMPILED, FORMS, in_form, needs_core

from fwd.proto import compiled, core
from fwd.proto.aggfrag import FramedRows
from fwd.proto.burst import open_burst, seal_burst, seal_packets, seal_records
from fwd.proto.core import CoreError
from fwd.proto.drops import N_REASONS, DropReason
from fwd.proto.esp import (
    BATCH_MAX,
    OVERHEAD_BYTES,
    InboundSa,
    OutboundSa,
    PacketTable,
    Rows,
    open_one,
    padded,
    seal_one,
)
from fwd.proto.sa import SaKeys

BURSTS = 6000
SEALED_MAX = 64  # packets of a burst
EDGES = (0, 900, 2**31 - 20, 2**32 - 1000, 2**32 - 5, 2**32 + 70, 2**63, 2**64 - 300)  # where numbers begin


class Watched(InboundSa):
    """An SA that keeps what it refused."""

    def __init__(self, keys: SaKeys, window: int, floor: int) -> None:
        super().__init__(keys, BATCH_MAX, window, floor)
        self.told: list[tuple[DropReason, int]] = []

    def refused(self, reason: DropReason, number: int) -> None:
        self.told.append((reason, number))


@dataclass
class Forms:
    """A pair of peers in every form, and the buffers of a burst."""

    dice: random.Random
    keys: SaKeys = field(init=False)
    senders: list[OutboundSa] = field(init=False)
    receivers: list[Watched] = field(init=False)

    def __post_init__(self) -> None:
        dice = self.dice
        self.keys = SaKeys(
            dice.randrange(256, 2**32), dice.random() < 0.7, dice.randbytes(dice.choice((16, 32))), dice.randbytes(4)
        )
        edges = EDGES if self.keys.esn else [edge for edge in EDGES if edge < 2**32]
        floor, window = dice.choice(edges), dice.choice((64, 1024, 4096))
        self.next = floor + 1
        self.senders, self.receivers = [], []
        for name in FORMS:
            with in_form(name):
                self.senders.append(OutboundSa(self.keys, BATCH_MAX))
                self.receivers.append(Watched(self.keys, window, floor))
        assert [sa.cipher is None for sa in (*self.senders, *self.receivers)] == [name == "pure" for name in FORMS] * 2

    def next_of(self, count: int) -> int:
        """The next number of which so many may follow."""
        return min(self.next, self.keys.sequence_max - count)

    # Sealing.

    def seal(self) -> tuple[bytes, int, int]:
        """Seal a random burst in every form; the packets, their size, and the first one's number."""
        dice = self.dice
        octets = dice.choice((2, 4, 20, 64, 440, 1440, dice.randrange(1, 1500)))
        stride, first = octets + dice.choice((0, 2, 60)), dice.randrange(3)
        full = dice.choice((0, 1, 2, 3, 5, dice.randrange(SEALED_MAX)))
        tail = dice.choice((0, 0, 1, octets, dice.randrange(octets) + 1))
        buffer = dice.randbytes(stride * (first + full + 1))
        number = self.next_of(full)
        made = []
        for sa in self.senders:
            rows = Rows(bytearray(buffer), stride, first + full + 1, stride)
            table = PacketTable(bytearray((octets + OVERHEAD_BYTES) * (full + 1)), octets + OVERHEAD_BYTES, full + 1)
            end = seal_burst(sa, number, rows, first, full, tail, table)
            assert bytes(rows.view) == buffer
            made.append((end, bytes(table.view)))
        assert_same(made)
        end, packets = made[0]
        return packets[:end], octets + OVERHEAD_BYTES, number

    def seal_records(self) -> None:
        """Frame and seal a random burst of records in every form."""
        dice = self.dice
        chunk = dice.choice((26, 62, 438, 1434, 4 * dice.randrange(5, 375) + 2))  # rows are multiples of 4
        ends = list(itertools.accumulate(dice.choice((50, 90, 3000)) + dice.randrange(40) for _ in range(6)))
        ends = [end for end in ends[: dice.randrange(6) + 1] if end <= 200 * chunk] or [chunk + 1]
        count, stride = -(-ends[-1] // chunk) + 1, chunk + 6 + dice.choice((0, 4))
        buffer, number = dice.randbytes(stride * count), self.next_of(300)
        packet_bytes, made = chunk + 6 + OVERHEAD_BYTES, []
        for sa in self.senders:
            own = []
            words = memoryview(bytearray(4096)).cast("I")
            rows = FramedRows(memoryview(bytearray(buffer)), stride, count, chunk, words)
            table = PacketTable(bytearray((packet_bytes + 4) * count), packet_bytes, count)
            rows.ends[: len(ends)] = ends
            end = seal_records(sa, number, rows, len(ends), ends[-1], table)
            own.append((end, bytes(table.view)))

            # A short one behind it, in the same rows, and a long one again.
            for octets in (min(ends[0], chunk), ends[-1]):
                rows.ends[0] = octets
                end = seal_records(sa, number, rows, 1, octets, table)
                own.append((end, bytes(table.view)))
            made.append(own)
        assert_same(made)

    def seal_packets(self) -> None:
        """Seal a random run of packets with their trailers in every form."""
        dice = self.dice
        octets = dice.choice((20, 40, 52, 1400, dice.randrange(1, 1500)))
        tail = dice.choice((0, dice.randrange(octets))) if octets > 1 else 0
        full, first, next_header = dice.choice((1, 2, 3, 30)), dice.randrange(3), dice.choice((4, 41))
        stride, size = padded(octets) + dice.choice((0, 8)), padded(octets) + OVERHEAD_BYTES
        buffer, number, made = dice.randbytes(stride * (first + full + 1)), self.next_of(60), []
        for sa in self.senders:
            rows = Rows(bytearray(buffer), stride, first + full + 1, stride)
            table = PacketTable(bytearray(size * (full + 1)), size, full + 1)
            end = seal_packets(sa, number, rows, first, full, octets, tail, next_header, table)
            made.append((end, bytes(table.view), bytes(rows.view)))
        assert_same(made)

    def packet(self, number: int, octets: int) -> bytes:
        """One packet with this number, the same in every form."""
        row, made = self.dice.randbytes(octets), []
        for sa in self.senders:
            out = bytearray(octets + OVERHEAD_BYTES + 5)
            assert seal_one(sa, number, memoryview(row), memoryview(out), 3) == octets + OVERHEAD_BYTES + 3
            made.append(bytes(out))
        assert_same(made)
        return made[0][3:-2]

    # Opening.

    def batch(self, size: int) -> list[bytes]:
        """Packets as they may come: in order or not, again, late, far ahead, shorter, and spoilt."""
        dice, limit = self.dice, self.keys.sequence_max
        count = dice.choice((1, 1, 2, 3, 3, 5, 8, dice.randrange(1, 45)))
        numbers = list(range(self.next, self.next + count))
        match dice.randrange(8):
            case 0:
                dice.shuffle(numbers)
            case 1:
                numbers = [number - dice.randrange(1500) for number in numbers]
            case 2:
                numbers = sorted(number + dice.randrange(3000) for number in numbers)
            case 3:
                numbers[dice.randrange(count)] += dice.choice((2**31 - 1, 2**31, 2**32 - 1, 2**32))
            case 4:
                numbers = dice.choices(numbers, k=count)
        self.next = min(self.next + count, limit - 50)
        spoilt = dice.choice((0.0, 0.0, 0.2, 1.0))
        made = []
        for number in numbers:
            octets = size - OVERHEAD_BYTES
            if dice.random() < 0.1:
                octets = dice.randrange(octets + 1)
            packet = self.packet(max(0, min(number, limit)), octets)
            made.append(self.spoil(packet) if dice.random() < spoilt else packet)
        return made

    def spoil(self, packet: bytes) -> bytes:
        """A packet with one bit of it changed, wherever that is, or one of no sense."""
        if self.dice.random() < 0.1:
            return self.dice.randbytes(len(packet))
        data = bytearray(packet)
        data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
        return bytes(data)

    def open(self, packets: list[bytes], size: int) -> None:
        """Open packets in every form, by the batch or one by one, and compare all that comes of it."""
        start, first, dice = self.dice.randrange(3), self.dice.randrange(3), self.dice
        count, gap = len(packets), dice.choice((0, 8))
        short = [(i, len(packet)) for i, packet in enumerate(packets) if len(packet) < size]
        octets = size - OVERHEAD_BYTES
        stride = octets + gap or 1
        buffer = bytes(start * size) + b"".join(packet.ljust(size, b"\xee") for packet in packets)
        singly = dice.random() < 0.2
        seen = []
        for sa in self.receivers:
            rows, drops = Rows(bytearray(stride * (first + count)), stride, first + count, octets), [0] * N_REASONS
            table = PacketTable(bytearray(buffer), size, start + count)
            numbers: Sequence[int]
            if singly:
                numbers = [
                    open_one(sa, memoryview(packet), rows.row(first + i, len(packet) - OVERHEAD_BYTES), drops)
                    for i, packet in enumerate(packets)
                ]
            else:
                numbers = open_burst(sa, table, start, count, short, rows, first, drops)
            assert bytes(table.view) == buffer
            opened = [
                bytes(rows.row(first + i, len(packet) - OVERHEAD_BYTES))
                for i, (packet, number) in enumerate(zip(packets, numbers, strict=True))
                if number
            ]
            window = (sa.window.top, [sa.window.check(max(1, sa.window.top - back)) for back in range(70)])
            seen.append((list(numbers), type(numbers), opened, drops, sa.told[-count:], window))
        assert_same(seen)


def assert_same(results: Sequence[object]) -> None:
    """All forms, of which the first is pure Python, have come to the same."""
    differ = [name for name, result in zip(FORMS, results, strict=True) if result != results[0]]
    assert not differ, differ


def compare(bursts: int, seed: int) -> set[DropReason]:
    """Seal and open so many bursts in every form; the reasons for which something was refused."""
    dice, met = random.Random(seed), set()
    done = 0
    while done < bursts:
        forms = Forms(dice)
        for _ in range(min(30, bursts - done)):
            done += 1
            if dice.random() < 0.2:
                (forms.seal_records if dice.random() < 0.5 else forms.seal_packets)()
            elif dice.random() < 0.4:
                data, size, number = forms.seal()
                packets = [data[at : at + size] for at in range(0, len(data), size)]
                if packets:
                    forms.next = number
                    forms.open(packets, max(size, *map(len, packets)))
                    forms.next = min(number + len(packets), 2**64 - 60 if forms.keys.esn else 2**32 - 60)
            else:
                size = dice.choice((34, 52, 96, 472, 1472)) + dice.choice((0, 0, 3))
                forms.open(forms.batch(size), size)
        met |= {reason for sa in forms.receivers for reason, _ in sa.told}
    return met


@needs_core
def test_random_and_hostile_bursts_come_to_the_same() -> None:
    assert compare(BURSTS, 1) == {DropReason.BAD_ICV, DropReason.REPLAYED, DropReason.TOO_OLD}


@needs_core
@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_a_million_bursts_come_to_the_same(seed: int) -> None:
    compare(100_000, seed)


# -- what no caller should give ----------------------------------------------------------------------------------------

GUARD = 64  # octets on either side of a buffer that must not change
BAD = (-(2**62), -(2**31), -1, 0, 1, 2, 3, 40, 255, 256, 257, 1000, 2**20, 2**31 - 1, 2**31, 2**32, 2**47, 2**62)


class Guarded:
    """A buffer between octets that must stay as they are."""

    def __init__(self, octets: int) -> None:
        self._whole = bytearray(os.urandom(octets + 2 * GUARD))
        self.view = memoryview(self._whole)[GUARD : GUARD + octets]
        self._around = self._around_now()

    def _around_now(self) -> tuple[bytes, bytes]:
        return bytes(self._whole[:GUARD]), bytes(self._whole[-GUARD:])

    def check(self) -> None:
        assert self._around == self._around_now()


@needs_core
def test_numbers_that_point_outside_of_a_buffer_are_refused_and_touch_nothing() -> None:
    dice, keys = random.Random(3), SaKeys(0x1234, True, bytes(32), bytes(4))
    sender, receiver = OutboundSa(keys, 8), InboundSa(keys, 8, 64)
    refused = 0
    for _ in range(8000):
        stored, packets = Guarded(48 * 8 - dice.choice((0, 0, 1, 7, 8))), Guarded(80 * 8 - dice.choice((0, 0, 1, 7, 8)))
        words = memoryview(bytearray(dice.randbytes(16) if dice.random() < 0.5 else bytes([44, 0, 0, 0] * 4))).cast("I")
        rows = FramedRows(stored.view, 48, 7, 42, words)
        table = PacketTable(packets.view, 80, 7)
        a, b, c, d = (dice.choice(BAD) if dice.random() < 0.3 else dice.randrange(9) for _ in range(4))
        if dice.random() < 0.2:
            rows.stride = rows.chunk = dice.choice(BAD)
        if dice.random() < 0.2:
            table.packet_bytes = dice.choice(BAD)
        number, drops = dice.choice((1, 2**64 - 1, 2**64 - 5)), [0] * N_REASONS
        try:
            match dice.randrange(4):
                case 0:
                    compiled.seal_burst(sender, number, rows, a, b, c, table)
                case 1:
                    compiled.seal_records(sender, number, rows, a, b * c, table)
                case 2:
                    compiled.seal_packets(sender, number, rows, a, b, c * 9, d, 4, table)
                case 3:
                    short = [(d, c), (d + 1, a)][: dice.randrange(3)]
                    compiled.open_burst(receiver, table, a, b, short, rows, c, drops)
        except (CoreError, OverflowError):
            refused += 1
        stored.check()
        packets.check()
    assert 4000 < refused < 7500


def test_what_the_core_knows_of_a_buffer_may_be_collected() -> None:
    """Python 3.11 crashes when it collects a cycle with a view of which an export is kept."""
    script = """if True:
        import gc
        from fwd.proto import core
        class Holder: pass
        for _ in range(20):
            view = memoryview(bytearray(64))
            one, other = Holder(), Holder()
            one.other, other.one, one.view = other, one, view
            other.memory = core.memory(view) if core.in_use else None
            del view, one, other
            gc.collect()
        """
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_core
def test_a_packet_that_is_no_packet_or_does_not_fit_its_row_is_refused() -> None:
    keys = SaKeys(0x1234, True, bytes(32), bytes(4))
    receiver = InboundSa(keys, 8, 64)
    for octets, room in [(0, 0), (15, 0), (31, 0), (96, 63), (96, 65), (96, 0)]:
        with pytest.raises(CoreError):
            core.open_one(receiver.cipher, 1, bytes(octets), bytearray(room))
    with pytest.raises(BufferError):
        core.open_one(receiver.cipher, 1, bytes(96), bytes(64))
    for at in (-1, 1, 2**40):
        with pytest.raises(CoreError):
            core.seal_one(OutboundSa(keys, 8).cipher, 1, bytes(64), bytearray(96), at)
    for key in (b"", bytes(24), bytes(33)):
        with pytest.raises(CoreError):
            core.cipher(SaKeys(1, True, key, bytes(4)), sends=True)


@needs_core
@pytest.mark.parametrize(("esn", "last"), [(False, 2**32 - 1), (True, 2**64 - 1)])
def test_no_number_is_sent_behind_the_last_one(esn: bool, last: int) -> None:
    sa = OutboundSa(SaKeys(0x1234, esn, bytes(32), bytes(4)), 8)
    rows, table = Rows(bytearray(128), 64, 2, 64), PacketTable(bytearray(192), 96, 2)
    assert compiled.seal_burst(sa, last - 1, rows, 0, 2, 0, table) == 192
    with pytest.raises(CoreError):
        compiled.seal_burst(sa, last, rows, 0, 2, 0, table)


@needs_core
def test_a_context_that_seals_does_not_open_and_the_other_way_round() -> None:
    keys = SaKeys(0x1234, True, bytes(32), bytes(4))
    with pytest.raises(CoreError):
        core.open_one(core.cipher(keys, sends=True), 1, bytes(96), bytearray(64))
    with pytest.raises(CoreError):
        core.seal_one(core.cipher(keys, sends=False), 1, bytes(64), bytearray(96), 0)


@pytest.mark.parametrize("library", COMPILED)
def test_what_does_not_authenticate_leaves_nothing_in_its_row(library: str) -> None:
    keys = SaKeys(0x1234, True, bytes(32), bytes(4))
    with in_form(library):
        sender, receiver = core.cipher(keys, sends=True), core.cipher(keys, sends=False)
    out, row = bytearray(96), bytearray(b"before" * 11)[:64]
    core.seal_one(sender, 1, b"secret..." * 7 + b".", out, 0)
    out[-1] ^= 1
    assert not core.open_one(receiver, 1, out, row)
    assert row == bytes(64)
