"""Opened rows written by the compiled core, and by pure Python: the same packets come out, and the same is counted.

Rows of both payloads as peers may fill them: streams of all kinds, some of them changed in a bit, and what is no packet
at all. Small datagrams may share a write in one form and not in the other, so what is compared is what a kernel would
make of the writes. What the way out makes of the demux's rows is compared octet for octet.
"""

from __future__ import annotations

import os
import random
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import segkit
from segkit import ACK, CWR, ECE, FIN, PSH

from fwd.datapath.counters import MEMBER_COUNTERS, MemberCounter
from fwd.datapath.delivery import Delivery
from fwd.datapath.payloads import PayloadIn, payload_in
from fwd.datapath.payloads.esp import _Packets
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import Ring, Segment
from fwd.datapath.shapes import Shapes
from fwd.datapath.tuning import Tuning
from fwd.model.config import Peering, parse
from fwd.model.example import EXAMPLE
from fwd.proto import compiled, core
from fwd.proto.aggfrag import SUBTYPE_RECORDS
from fwd.proto.core import CoreError
from fwd.proto.drops import DropReason
from fwd.proto.esp import NEXT_AGGFRAG, NEXT_DUMMY, NEXT_IPV4, NEXT_IPV6, OVERHEAD_BYTES, Rows, padded, write_trailer
from fwd.proto.ip import CSUM, NO_VNET, TSO4, TSO6, USO4, USO6, VNET_BYTES, Selectors, ip_length, record_fault
from fwd.proto.segments import lay_packet, packets_in

pytestmark = pytest.mark.skipif(not core.in_use, reason="there is no compiled core")

BURSTS = 3000
OFFLOADS = CSUM | TSO4 | TSO6 | USO4 | USO6
ROWS_MAX = 60  # of a burst
SPI = 0x1234


def peering(payload: str) -> Peering:
    """One whose far side has the addresses that segkit's packets come from."""
    sides = {
        "remote_ts": [IPv4Network("10.1.0.0/16"), IPv6Network("fd01::/16")],
        "local_ts": [IPv4Network("10.2.0.0/16"), IPv6Network("fd02::/16")],
    }
    return parse(EXAMPLE, "example").peering[0].model_copy(update={"payload": payload, **sides})


# -- what comes --------------------------------------------------------------------------------------------------------


class Pool:
    """Records and packets to choose from: to make one takes longer than to try it."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self.streams = [self._stream() for _ in range(40)]
        self.records = [self._record() for _ in range(300)]
        self.datagrams = [self._datagrams() for _ in range(40)]

    def _stream(self) -> list[bytes]:
        """Packets of one TCP stream as they follow each other, with a shorter one at the end, perhaps."""
        dice, size = self._dice, self._dice.choice((40, 48, 300, 1200))
        v6, count, at = dice.random() < 0.15, dice.randrange(1, 40), dice.choice((1, 2**32 - 5000))
        parts: dict[str, Any] = {
            "port": dice.randrange(4), "options": dice.choice((b"", b"\1" * 12)), "tos": dice.choice((0, 0, 0, 1, 2)),
        }  # fmt: skip
        made = []
        for n in range(count):
            last = n == count - 1
            octets = segkit.octets(n, dice.choice((0, 1, 30, size)) if last else size)
            flags = ACK | (PSH if last or dice.random() < 0.02 else 0)
            made.append(segkit.tcp_packet(octets, v6=v6, sequence=at, flags=flags, identity=n, **parts))
            at += len(octets)
        return made

    def _record(self) -> bytes:
        dice = self._dice
        payload, v6 = segkit.octets(dice.randrange(99), dice.choice((0, 1, 60, 600, 3000, 20000))), dice.random() < 0.3
        match dice.randrange(6):
            case 0 | 1 | 2:
                flags = ACK | dice.choice((0, PSH, PSH | FIN, CWR | ECE, FIN | CWR))
                record = segkit.super_record(
                    payload, dice.choice((47, 48, 1400)), v6=v6, port=dice.randrange(4), flags=flags
                )
            case 3:
                record = NO_VNET + segkit.tcp_packet(b"", v6=v6, port=dice.randrange(4), sequence=dice.randrange(2**32))
            case 4:
                packet = segkit.udp_packet(payload, port=dice.randrange(3))
                offload = segkit.VNET.pack(1, 5, 0, dice.choice((15, 16, 500)), 20, 6)
                record = dice.choice((NO_VNET, NO_VNET, offload)) + packet
            case _:
                body = dice.randbytes(dice.choice((4, 40, 900)))
                record = (
                    NO_VNET + segkit.ip_header(20 + len(body), v6=False, protocol=dice.choice((1, 6, 17, 50))) + body
                )
        return self.spoilt(record) if dice.random() < 0.3 else record

    def _datagrams(self) -> list[bytes]:
        """Records of small datagrams of one flow: most of one length, with their checksums or without."""
        dice, left = self._dice, self._dice.random() < 0.5
        size, port, tos, made = dice.choice((15, 16, 64, 400, 562, 563)), dice.randrange(3), 0, []
        for n in range(dice.randrange(1, 100)):
            size, tos = (size, tos) if dice.random() < 0.97 else (dice.choice((0, 64, 1300)), 4)
            packet = bytearray(segkit.udp_packet(segkit.octets(n, size), port=port, identity=n, tos=tos))
            if left:
                packet[26:28] = (0xFFFF - segkit.ones(segkit.pseudo(bytes(packet), 17, 8 + size))).to_bytes(2, "big")
            vnet = segkit.VNET.pack(1, 0, 0, 0, 20, 6) if left else NO_VNET
            record = vnet + bytes(packet)
            made.append(self.spoilt(record) if dice.random() < 0.02 else record)
        return made

    def spoilt(self, data: bytes) -> bytes:
        """The same with one bit changed where headers are."""
        at = self._dice.randrange(min(72, len(data)))
        return data[:at] + bytes([data[at] ^ 1 << self._dice.randrange(8)]) + data[at + 1 :]

    def several(self, *kinds: Sequence[Any]) -> list[bytes]:
        """Some of these, one behind the other, or mixed."""
        dice = self._dice
        lists = [
            list(one) if isinstance(one, list) else [one] for one in (dice.choice(dice.choice(kinds)) for _ in range(5))
        ]
        if dice.random() < 0.3:
            mixed = [at for at, one in enumerate(lists) for _ in one]
            dice.shuffle(mixed)
            sources = [iter(one) for one in lists]
            return [next(sources[at]) for at in mixed]
        return [packet for one in lists for packet in one]


# -- the two forms -----------------------------------------------------------------------------------------------------


@dataclass
class Form:
    """One payload's way in, in one form: what it writes goes to a file in memory."""

    payload: PayloadIn
    counters: array[int]
    strangers: list[tuple[int, bytes, int]]
    file: int
    sa: Receiving
    read: int = 0
    number: int = 1

    def take(self, rows: list[bytes], stride: int, tos: int, gaps: set[int]) -> list[bytes]:
        """Take rows as they would be opened; return the records that were written."""
        own, first = self.payload.rows, self.payload.room(len(rows))
        for i, row in enumerate(rows):
            own.view[(first + i) * stride : (first + i) * stride + len(row)] = row
        short = [(i, len(row) + OVERHEAD_BYTES) for i, row in enumerate(rows) if len(row) < stride]
        numbers: Sequence[int] = range(self.number, self.number + len(rows))
        if gaps:
            numbers = [0 if i in gaps else number for i, number in enumerate(numbers)]
        self.number += len(rows)
        self.payload.take_run(self.sa, numbers, first, short, tos, 0.0)
        self.payload.flush()
        return self._written()

    def _written(self) -> list[bytes]:
        end = os.lseek(self.file, 0, os.SEEK_END)
        data, found, at = os.pread(self.file, end, 0), [], 0
        os.ftruncate(self.file, 0)
        os.lseek(self.file, 0, os.SEEK_SET)
        while at < len(data):
            stop = at + VNET_BYTES + ip_length(data, at + VNET_BYTES)
            found.append(data[at:stop])
            at = stop
        assert at == len(data)
        return found


@dataclass
class Forms:
    """Both forms, which get the same."""

    name: str
    stride: int
    accepted: int = OFFLOADS
    forms: list[Form] = field(default_factory=list)

    def __post_init__(self) -> None:
        for in_use in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(core, "in_use", in_use)
                self.forms.append(self._form())
        assert [one.payload._delivery.direct is None for one in self.forms] == [True, False]  # type: ignore[attr-defined]

    def _form(self) -> Form:
        of, counters, strangers = peering(self.name), array("Q", bytes(8 * MEMBER_COUNTERS)), []
        file = os.memfd_create("written")
        delivery = Delivery(of, file, self.accepted, counters, lambda *told: strangers.append(told))
        payload = payload_in(self.name, delivery, counters, lambda *_: None, self.stride)
        payload.begin(SPI, Tuning.of(of), 0)
        sa = cast(Receiving, SimpleNamespace(spi=SPI, selectors=delivery.selectors))
        return Form(payload, counters, strangers, file, sa)

    def take(self, rows: list[bytes], tos: int = 0, gaps: set[int] = frozenset()) -> list[bytes]:  # type: ignore[assignment]
        """Give rows to both, and compare; what was written."""
        pure, direct = (one.take(rows, self.stride, tos, gaps) for one in self.forms)
        assert pure == direct or by_flow(pure) == by_flow(direct)
        assert list(self.forms[0].counters) == list(self.forms[1].counters)
        assert self.forms[0].strangers == self.forms[1].strangers
        offloads = [record for record in direct if record[1]]
        assert not [r for r in offloads if record_fault(r, len(r) - VNET_BYTES, self.accepted)]
        return direct

    def close(self) -> None:
        for one in self.forms:
            os.close(one.file)


@contextmanager
def both(name: str, stride: int, accepted: int = OFFLOADS) -> Iterator[Forms]:
    """Make both, and close what they have open."""
    forms = Forms(name, stride, accepted)
    try:
        yield forms
    finally:
        forms.close()


def by_flow(records: list[bytes]) -> dict[bytes, list[bytes]]:
    """Packets that a kernel makes of what was written, in order, by addresses and first octets behind them.

    Without identification, and header checksum: splitting numbers packets anew.
    """
    found: dict[bytes, list[bytes]] = {}
    for record in records:
        is_udp = record[VNET_BYTES] == 0x45 and record[VNET_BYTES + 9] == 17
        offload = record[1] == 5 if is_udp else record[1] == 1
        whole = segkit.segments(record) if offload or (is_udp and record[0] == 1) else [record[VNET_BYTES:]]
        for packet in whole:
            if packet[0] >> 4 == 4:
                packet = packet[:4] + b"\0\0" + packet[6:10] + b"\0\0" + packet[12:]
            found.setdefault(packet[12:24], []).append(packet)
    return found


# -- payload superpacket -----------------------------------------------------------------------------------------------


def rows_of_records(records: list[bytes], stride: int) -> list[bytes]:
    """Rows of one burst, as a sender of this stride frames them; as many as fit a batch."""
    chunk, rows, at, ends = stride - 6, [], 0, [0]
    for record in records:
        ends.append(ends[-1] + len(record))
    stream = b"".join(records)
    for start in range(0, len(stream), chunk):
        while ends[at] < start:
            at += 1
        data = stream[start : start + chunk]
        row = bytearray(padded(4 + len(data)))
        row[:4] = bytes([SUBTYPE_RECORDS, 0]) + min(65535, ends[at] - start).to_bytes(2, "big")
        row[4 : 4 + len(data)] = data
        write_trailer(memoryview(row), 0, 4 + len(data), NEXT_AGGFRAG)
        rows.append(bytes(row))
    return rows


def compare_records(bursts: int, seed: int) -> set[DropReason]:
    """So many bursts of payload superpacket in both forms; why records were refused."""
    dice = random.Random(seed)
    pool, done = Pool(dice), 0
    met: set[DropReason] = set()
    while done < bursts:
        stride = dice.choice((256, 500, 1440))
        with both("superpacket", stride, dice.choice((OFFLOADS, OFFLOADS, CSUM | TSO4, 0))) as forms:
            for _ in range(min(100, bursts - done)):
                done += 1
                records = pool.several(pool.records, pool.datagrams)
                rows = rows_of_records(records, stride)[: dice.choice((1, 2, ROWS_MAX))]
                if dice.random() < 0.05:
                    at = dice.randrange(len(rows))
                    rows[at] = pool.spoilt(rows[at])
                gaps = {dice.randrange(len(rows))} if len(rows) > 2 and dice.random() < 0.05 else set()
                forms.take(rows, gaps=gaps)
            met |= {reason for reason in DropReason if forms.forms[0].counters[reason]}
    return met


def test_records_come_out_the_same() -> None:
    assert compare_records(BURSTS, 1) >= {
        DropReason.BAD_RECORD, DropReason.BAD_STREAM, DropReason.HOLE, DropReason.SELECTOR_IN,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_records_of_many_bursts_come_out_the_same(seed: int) -> None:
    compare_records(50_000, seed)


def test_a_record_that_is_said_to_begin_behind_what_came_is_waited_for_by_nobody() -> None:
    rows = rows_of_records([NO_VNET + segkit.tcp_packet(bytes(300), sequence=n) for n in range(9)], 500)
    rows[1] = rows[1][:2] + b"\x80\0" + rows[1][4:]
    with both("superpacket", 500) as forms:
        forms.take(rows[1:2])
        assert forms.take(rows_of_records([NO_VNET + segkit.tcp_packet(b"")], 500)) != []


def test_datagrams_share_a_write_across_rows_and_among_other_flows() -> None:
    sent = [NO_VNET + segkit.udp_packet(bytes([n]) * 64, port=n % 3, identity=n) for n in range(150)]
    with both("superpacket", 500) as forms:
        got = forms.take(rows_of_records(sent, 500))
    assert len(got) == 3
    assert by_flow(got) == by_flow(sent)


@pytest.mark.parametrize("at", [20, 36])
def test_a_datagram_whose_checksums_are_wrong_comes_out_as_it_is(at: int) -> None:
    """Of the header, or the sum that is left to the device to complete: joined with others it would get right ones."""
    packet = bytearray(segkit.udp_packet(bytes(64)))
    packet[26:28] = (0xFFFF - segkit.ones(segkit.pseudo(bytes(packet), 17, 72))).to_bytes(2, "big")
    sound = segkit.VNET.pack(1, 0, 0, 0, 20, 6) + bytes(packet)
    wrong = sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :]
    with both("superpacket", 1440) as forms:
        for one in forms.forms:
            got = one.take(rows_of_records([sound, sound, wrong, sound, sound], 1440), 1440, 0, set())
            assert [record[1] for record in got] == [5, 0, 5]
            assert got[1] == wrong


def test_subnets_that_change_hold_at_once() -> None:
    rows = rows_of_records([NO_VNET + segkit.tcp_packet(b"", sequence=n) for n in range(3)], 500)
    with both("superpacket", 500) as forms:
        assert len(forms.take(rows)) == 3
        for one in forms.forms:
            one.sa.selectors.replace([IPv4Network("10.9.0.0/16")], [IPv4Network("10.2.0.0/16")])
        assert forms.take(rows) == []
        assert forms.forms[1].counters[DropReason.SELECTOR_IN] == 3


def test_an_sa_carries_what_its_own_selectors_allow() -> None:
    rows = rows_of_records([NO_VNET + segkit.tcp_packet(b"", sequence=n) for n in range(3)], 500)
    narrow = Selectors([IPv4Network("10.1.0.0/29")], [IPv4Network("10.2.0.0/16")])
    with both("superpacket", 500) as forms:
        assert len(forms.take(rows)) == 3
        for one in forms.forms:
            one.sa = cast(Receiving, SimpleNamespace(spi=SPI, selectors=narrow))
        assert forms.take(rows) == []


def test_what_the_device_refuses_is_counted() -> None:
    records = [NO_VNET + segkit.tcp_packet(b"", sequence=n) for n in range(3)]
    records += [NO_VNET + segkit.udp_packet(b"x" * 64) for _ in range(5)]
    with both("superpacket", 500) as forms:
        for one in forms.forms:
            read_only = os.open(os.devnull, os.O_RDONLY)
            os.dup2(read_only, one.file)
            os.close(read_only)
            one._written = list  # type: ignore[method-assign]
        forms.take(rows_of_records(records, 500))
        assert forms.forms[1].counters[DropReason.TUN_REFUSED] == 8
        assert forms.forms[1].counters[MemberCounter.IN_RECORDS] == 8


# -- payload esp -------------------------------------------------------------------------------------------------------


def row_of_packet(packet: bytes, dice: random.Random) -> bytes:
    """A packet's row, with its trailer; or with one that is of something else."""
    next_header = NEXT_IPV6 if packet[0] >> 4 == 6 else NEXT_IPV4
    row = bytearray(padded(len(packet)) + 8)
    row[: len(packet)] = packet
    end = write_trailer(memoryview(row), 0, len(packet), next_header)
    del row[end:]
    if dice.random() < 0.02:
        row[-1] = dice.choice((NEXT_DUMMY, NEXT_AGGFRAG, NEXT_IPV4, NEXT_IPV6))
    elif dice.random() < 0.02:
        row[-2] = dice.randrange(256)
    elif dice.random() < 0.02:
        row[len(packet) :] = bytes(8) + bytes([0, next_header])  # traffic-flow padding
        del row[len(row) // 4 * 4 :]
    return bytes(row)


def compare_packets(bursts: int, seed: int) -> set[DropReason]:
    """So many bursts of payload esp in both forms; why packets were refused."""
    dice = random.Random(seed)
    pool, done = Pool(dice), 0
    met: set[DropReason] = set()
    while done < bursts:
        stride = dice.choice((312, 1240, 1300))
        with both("esp", stride, dice.choice((OFFLOADS, OFFLOADS, OFFLOADS, 0))) as forms:
            for _ in range(min(100, bursts - done)):
                done += 1
                packets = pool.several(pool.streams, [[one] for one in pool.records])
                packets = [one if one[0] >> 4 in (4, 6) else one[VNET_BYTES:] for one in packets]
                packets = [pool.spoilt(one) if dice.random() < 0.03 else one for one in packets]
                rows = [row for row in (row_of_packet(one, dice) for one in packets) if len(row) <= stride][:ROWS_MAX]
                if rows:
                    gaps = {dice.randrange(len(rows))} if dice.random() < 0.05 else set()
                    forms.take(rows, dice.choice((0, 0, 0, 0, 1, 2, 3)), gaps)
            met |= {reason for reason in DropReason if forms.forms[0].counters[reason]}
    return met


def test_packets_come_out_the_same() -> None:
    assert compare_packets(BURSTS, 1) >= {
        DropReason.BAD_RECORD, DropReason.BAD_PADDING, DropReason.BAD_NEXT_HEADER, DropReason.DUMMY,
        DropReason.ECN_CE_LOST, DropReason.SELECTOR_IN,
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_packets_of_many_bursts_come_out_the_same(seed: int) -> None:
    compare_packets(50_000, seed)


def test_streams_of_other_headers_are_joined_each() -> None:
    """Pure Python joins those that are like the first."""
    made = []
    for port, options in ((1, b""), (2, b"\1" * 12)):
        made += [segkit.tcp_packet(bytes(400), port=port, options=options, sequence=1 + 400 * n) for n in range(10)]
    with both("esp", 500) as forms:
        assert len(forms.take([row_of_packet(packet, random.Random(9)) for packet in made])) == 2


def test_a_device_without_offloads_is_given_no_super_packets() -> None:
    stream = [segkit.tcp_packet(bytes(400), sequence=1 + 400 * n) for n in range(10)]
    with both("esp", 500, CSUM) as forms:
        assert forms.take([row_of_packet(packet, random.Random(9)) for packet in stream]) == [
            NO_VNET + packet for packet in stream
        ]


# -- payload esp, on the way out ---------------------------------------------------------------------------------------


class Laid:
    """A segment's rows, and their lengths and marks, as the demux writes them."""

    def __init__(self, stride: int, rows: int) -> None:
        self.rows = memoryview(bytearray(stride * rows))
        self.ends = memoryview(bytearray(4 * 1024)).cast("I")
        self.ends_array = np.frombuffer(self.ends, np.uint32)
        self.grid = np.frombuffer(self.rows, np.uint8).reshape(rows, stride)
        self.packets = _Packets(cast(Ring, SimpleNamespace(stride=stride, rows=rows)), cast(Segment, self))


def compare_laid(segments: int, seed: int) -> None:
    """So many segments, completed in both forms."""
    dice = random.Random(seed)
    pool = Pool(dice)
    for _ in range(segments):
        stride, fill = dice.choice((1440, 1500)), 0
        laid = [Laid(stride, ROWS_MAX) for _ in range(2)]
        noise = dice.randbytes(stride)
        for one in laid:
            one.grid[:] = np.frombuffer(noise, np.uint8)
        for record in pool.several(pool.records, [[NO_VNET + one for one in stream] for stream in pool.streams]):
            fits, count = carried(record, stride)
            if fits and fill + count <= ROWS_MAX:
                for one in laid:
                    own = bytearray(record)  # what no mark can tell is completed in it
                    octets = np.frombuffer(own, np.uint8)
                    lay_packet(memoryview(own), octets, len(own), count, one.rows, one.grid, one.ends_array, fill)
                fill += count
        if fill:
            runs = [
                one.packets.runs(fill, is_compiled=is_compiled)
                for one, is_compiled in zip(laid, (False, True), strict=True)
            ]
            assert (list(runs[0][0]), runs[0][1]) == (list(runs[1][0]), runs[1][1])
            assert bytes(laid[0].rows) == bytes(laid[1].rows)


def carried(record: bytes, stride: int) -> tuple[bool, int]:
    """Whether the demux would lay a record (shapes.py), and over how many rows."""
    buffer = memoryview(bytearray(record.ljust(65600, b"\0")))
    size = len(record) - VNET_BYTES
    if size < 20 or ip_length(record, VNET_BYTES) != size or (record[0] and record[1] and len(record) < 60):
        return False, 0
    fits = Shapes(buffer, stride, ROWS_MAX, esp=True).fault(size) is None
    return fits, packets_in(memoryview(record)) if fits and record[1] else 1


def test_segments_are_completed_the_same() -> None:
    compare_laid(BURSTS, 1)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_segments_are_completed_the_same(seed: int) -> None:
    compare_laid(20_000, seed)


# -- what no caller, and no demux, should give -------------------------------------------------------------------------

GUARD = 64  # octets on either side of a buffer that must not change
BAD = (-(2**62), -(2**31), -1, 0, 1, 2, 3, 40, 255, 256, 257, 1000, 2**20, 2**31 - 1, 2**31, 2**32, 2**47, 2**62)


def test_marks_of_any_kind_touch_nothing_but_the_rows() -> None:
    dice, refused = random.Random(5), 0
    for _ in range(8000):
        stride, count = dice.choice((64, 100, 300)), 12
        whole = bytearray(dice.randbytes(stride * count + 2 * GUARD))
        around = bytes(whole[:GUARD]), bytes(whole[-GUARD:])
        rows = Rows(memoryview(whole)[GUARD:-GUARD], stride, count, stride)
        for at in range(count):
            rows.view[at * stride : at * stride + 40] = segkit.tcp_packet(b"", v6=False)[:40]
            rows.view[at * stride + 32] = dice.choice((0x50, 0x80, dice.randrange(256)))
        words = memoryview(bytearray(4 * count)).cast("I")
        for at in range(count):
            mark = dice.choice((0, 0, 20 << 8 | dice.randrange(4), 20 << 8 | 129, dice.randrange(2**16)))
            octets = dice.randrange(2**16) if dice.random() < 0.02 else stride - dice.choice((0, 0, 0, 1, 20))
            words[at] = mark << 16 | octets
        fill = dice.choice(BAD) if dice.random() < 0.2 else dice.randrange(count + 2)
        if dice.random() < 0.1:
            rows.stride = dice.choice(BAD)
        try:
            compiled.complete(rows, core.words(words), count, fill)
        except (CoreError, OverflowError):
            refused += 1
        assert around == (bytes(whole[:GUARD]), bytes(whole[-GUARD:]))
    assert 2000 < refused < 7500


def test_numbers_that_point_outside_of_the_rows_are_refused() -> None:
    dice, refused = random.Random(6), 0
    stream = [row_of_packet(packet, random.Random(9)) for packet in Pool(dice).streams[0]]
    with both("esp", 1300) as packets, both("superpacket", 500) as records:
        packets.take(stream)
        records.take(rows_of_records([NO_VNET + segkit.tcp_packet(b"", sequence=n) for n in range(9)], 500))
        esp, stream_rows = packets.forms[1].payload, records.forms[1].payload
        for _ in range(4000):
            a, b, c = (dice.choice(BAD) if dice.random() < 0.5 else dice.randrange(9) for _ in range(3))
            try:
                if dice.random() < 0.5:
                    short = [(dice.choice(BAD[4:14]), dice.choice(BAD[3:14]))] * dice.randrange(2)
                    esp._delivery.direct.packets(esp.rows, a, b, c, short, 0)  # type: ignore[attr-defined]
                else:
                    rows = stream_rows.rows
                    stream_rows._delivery.direct.records(rows, 494, a, b, c)  # type: ignore[attr-defined]
            except (CoreError, OverflowError):
                refused += 1
    assert 1500 < refused < 3900
