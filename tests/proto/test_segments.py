"""Super-packets: splitting them is what a kernel does, and joining packets is undone by splitting them again."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import pytest
import segkit
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from segkit import ACK, CWR, ECE, FIN, PSH, SYN, URG

from fwd.proto import segments
from fwd.proto.esp import padded, write_trailer
from fwd.proto.ip import VNET_BYTES
from fwd.proto.segments import Datagrams, Grid

STRIDE = 1440
ROWS = 64
NO_VNET = bytes(VNET_BYTES)
options = st.sampled_from([b"", b"\1\1\x08\x0a" + bytes(range(8)), bytes([1]) * 40])
flags = st.sampled_from([ACK, ACK | PSH, ACK | FIN, ACK | CWR | ECE, ACK | CWR | PSH | FIN | ECE, ACK | URG])
sequences = st.sampled_from([0, 1, 2**31, 2**32 - 3000, 2**32 - 1])


def laid_out(record: bytes) -> tuple[Grid, bytearray, list[int]]:
    """A super-packet as the demux lays it over rows: headers in the first, payload in all; and the rows' lengths."""
    buffer = bytearray(STRIDE * ROWS)
    _, _, header, size, _, _ = segkit.VNET.unpack_from(record)
    packet = record[VNET_BYTES:]
    parts = [packet[at : at + size] for at in range(header, len(packet), size)]
    buffer[:header] = packet[:header]
    for row, part in enumerate(parts):
        buffer[row * STRIDE + header : row * STRIDE + header + len(part)] = part
    return Grid(buffer, ROWS, STRIDE), buffer, [header + len(part) for part in parts]


def rows_of(buffer: bytearray, lengths: list[int]) -> list[bytes]:
    return [bytes(buffer[i * STRIDE : i * STRIDE + length]) for i, length in enumerate(lengths)]


# -- the oracle, and splitting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("v6", [False, True])
def test_the_oracle_agrees_with_scapy(v6: bool) -> None:
    record = segkit.super_record(segkit.octets(1, 3000), 1400, v6=v6, flags=ACK | PSH, options=b"\1" * 4, sequence=5)
    found = segkit.segments(record)
    assert [len(packet) for packet in found] == [(44 if not v6 else 64) + n for n in (1400, 1400, 200)]
    for number, packet in enumerate(found):
        parsed = (IPv6 if v6 else IP)(packet)
        assert parsed[TCP].seq == 5 + 1400 * number
        assert parsed[TCP].flags == ("PA" if number == 2 else "A")
        anew = parsed.copy()
        del anew[TCP].chksum
        if not v6:
            assert parsed.id == number
            del anew.chksum, anew.len
        assert bytes(anew) == packet


@settings(max_examples=examples(200))
@given(
    st.booleans(), options, flags, sequences, st.integers(1, 1300), st.integers(2, 40), st.integers(0, 65535),
    st.integers(0, 1299), st.integers(0, 2**32),
)  # fmt: skip
def test_splitting_gives_the_packets_of_the_kernel(
    v6: bool, opts: bytes, flag: int, sequence: int, size: int, count: int, identity: int, short: int, seed: int
) -> None:
    octets = segkit.octets(seed, size * count - short % size)
    record = segkit.super_record(
        octets, size, v6=v6, options=opts, flags=flag, sequence=sequence, identity=identity, tos=seed & 0xFF
    )
    wanted = segkit.segments(record)
    grid, buffer, lengths = laid_out(record)
    _, _, _, _, start, offset = segkit.VNET.unpack_from(record)
    mark = segments.packet_mark(count, start, offset)
    assert segments.packets_in(memoryview(record)) == count == len(wanted)
    assert segments.complete(grid, 0, mark, np.array(lengths, np.uint32)) == count
    assert rows_of(buffer, lengths) == wanted


@given(st.booleans(), st.integers(0, 1000), st.integers(0, 2**32))
def test_a_checksum_is_completed(v6: bool, size: int, seed: int) -> None:
    payload = segkit.octets(seed, size)
    record = bytearray(segkit.super_record(payload, 2000, v6=v6))
    start = 40 if v6 else 20
    segments.complete_checksum(memoryview(record)[VNET_BYTES:], start, 16)
    assert bytes(record[VNET_BYTES:]) == segkit.tcp_packet(payload, v6=v6)


def test_a_mark_of_one_packet_completes_its_checksum() -> None:
    record = segkit.super_record(b"payload", 1400)
    grid, buffer, _ = laid_out(record[:2] + struct.pack("<HH", 40, 1400) + record[6:])
    length = len(record) - VNET_BYTES
    assert segments.complete(grid, 0, segments.packet_mark(1, 20, 16), np.array([length], np.uint32)) == 1
    assert bytes(buffer[:length]) == segkit.tcp_packet(b"payload")


@pytest.mark.parametrize(("start", "offset"), [(256, 16), (20, 10), (65535, 65535)])
def test_what_a_mark_cannot_say_it_does_not(start: int, offset: int) -> None:
    assert segments.packet_mark(1, start, offset) == 0


@given(st.binary(min_size=VNET_BYTES + 60, max_size=200))
def test_any_record_is_a_super_packet_or_none(record: bytes) -> None:
    try:
        count = segments.packets_in(memoryview(record))
    except IndexError:
        start = record[6] | record[7] << 8
        assert VNET_BYTES + start + 12 >= len(record)
    else:
        assert count >= 0


# -- joining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "is_one"), [(1, False), (47, False), (48, True)])
def test_a_super_packet_of_tiny_segments_is_not_taken_apart(size: int, is_one: bool) -> None:
    """As many headers would be made as it has segments."""
    assert (segments.tcp_layout(segkit.super_record(bytes(900), size)) != (0, 0)) is is_one


def filled(packets: list[bytes]) -> tuple[Grid, bytearray, list[memoryview]]:
    """Opened rows with these IPv4 packets, trailers behind them."""
    buffer = bytearray(STRIDE * ROWS)
    view, rows = memoryview(buffer), []
    for i, packet in enumerate(packets):
        view[i * STRIDE : i * STRIDE + len(packet)] = packet
        end = write_trailer(view, i * STRIDE, len(packet), 4)
        rows.append(view[i * STRIDE : end])
    return Grid(buffer, ROWS, STRIDE), buffer, rows


def runs_of(packets: list[bytes]) -> list[list[bytes]]:
    """The packets as `joined` puts them together; each run checked to be undone by the kernel's splitting."""
    grid, _, rows = filled(packets)
    found = segments.joined(grid, 0, len(rows), np.array([len(row) for row in rows], np.uint32))
    assert [at for run in found for at in range(*run)] == list(range(len(packets)))
    for start, end in found:
        if end - start > 1:
            record = b"".join(segments.super_packet(rows[start:end]))
            first = int.from_bytes(packets[start][4:6], "big")
            # The identification is not kept: atomic datagrams have none to speak of (RFC 6864 §4.1).
            assert [_identified(p, first + i) for i, p in enumerate(packets[start:end])] == segkit.segments(record)
    return [packets[start:end] for start, end in found]


def _identified(packet: bytes, identity: int) -> bytes:
    head = bytearray(packet[:20])
    head[4:6] = (identity & 0xFFFF).to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = segkit.ones(bytes(head)).to_bytes(2, "big")
    return bytes(head) + packet[20:]


def stream(count: int, size: int = 1000, last: int = 1000, **parts: Any) -> list[bytes]:
    octets = segkit.octets(count, size * (count - 1) + last)
    return [
        segkit.tcp_packet(octets[i * size : (i + 1) * size], **{"sequence": 1 + i * size, **parts})
        for i in range(count)
    ]


def test_a_stream_is_one_super_packet() -> None:
    packets = stream(20)
    assert runs_of(packets) == [packets]


def test_a_shorter_packet_ends_a_super_packet() -> None:
    packets = stream(5, last=300)
    after = segkit.tcp_packet(b"x" * 300, sequence=1 + 4 * 1000 + 300)
    assert runs_of([*packets, after]) == [packets, [after]]


def test_a_push_ends_a_super_packet() -> None:
    packets = stream(4)
    packets[1] = segkit.tcp_packet(packets[1][40:], sequence=1001, flags=ACK | PSH)
    assert runs_of(packets) == [packets[:2], packets[2:]]


@pytest.mark.parametrize(
    "other",
    [
        {"flags": ACK | SYN}, {"flags": ACK | FIN}, {"flags": ACK | URG}, {"flags": ACK | CWR}, {"port": 40001},
        {"tos": 4}, {"df": False}, {"window": 499}, {"options": b"\1" * 4}, {"sequence": 1002}, {"sequence": 1},
    ],
    ids=str,
)  # fmt: skip
def test_what_differs_stays_apart(other: dict[str, Any]) -> None:
    first, _, third = stream(3)
    second = segkit.tcp_packet(segkit.octets(9, 1000), **{"sequence": 1001, **other})
    assert runs_of([first, second, third]) == [[first], [second], [third]]


@pytest.mark.parametrize("at", [10, 11, 36, 37, 45, 900], ids=str)
def test_what_has_a_wrong_checksum_stays_apart(at: int) -> None:
    packets = stream(3)
    packets[1] = packets[1][:at] + bytes([packets[1][at] ^ 0x40]) + packets[1][at + 1 :]
    assert runs_of(packets) == [[packet] for packet in packets]


@settings(max_examples=examples(300))
@given(st.integers(0, 2**32))
def test_whatever_is_joined_is_split_into_the_same(seed: int) -> None:
    """Streams of all sizes in any order, some packets changed in a bit, with checksums put right or not."""
    dice = random.Random(seed)
    places = [1, 2**32 - 2000, 77]
    packets = []
    for _ in range(dice.randint(1, 40)):
        flow = dice.choice([0, 0, 0, 1, 2])
        size = dice.choice([500, 500, 500, 500, 100, 0])
        flag = ACK | (PSH if dice.random() < 0.1 else 0)
        opts = b"\1" * 12 if flow else b""
        packet = segkit.tcp_packet(
            segkit.octets(dice.randrange(99), size), sequence=places[flow], port=4000 + flow, flags=flag, options=opts,
            identity=dice.randrange(2**16),
        )  # fmt: skip
        places[flow] += size
        if dice.random() < 0.2:
            packet = segkit.mutated(packet, dice, dice.choice([None, _recomputed]))
        packets.append(packet)
    runs_of(packets)


def _recomputed(packet: bytes) -> bytes:
    if packet[0] != 0x45 or packet[9] != 6:
        return packet
    return segkit.with_checksum(_identified(packet, int.from_bytes(packet[4:6], "big")), 20, 16)


@settings(max_examples=examples(100))
@given(st.lists(st.binary(min_size=4, max_size=100), min_size=1, max_size=30))
def test_rows_of_any_octets_are_never_an_error(rows: list[bytes]) -> None:
    buffer = bytearray(STRIDE * ROWS)
    for i, row in enumerate(rows):
        buffer[i * STRIDE : i * STRIDE + len(row)] = row
    lengths = np.array([len(row) // 4 * 4 for row in rows], np.uint32)
    found = segments.joined(Grid(buffer, ROWS, STRIDE), 0, len(rows), lengths)
    assert [at for run in found for at in range(*run)] == list(range(len(rows)))


def test_packets_that_may_be_fragmented_stay_apart() -> None:
    """Without DF the identification matters, which joining does not keep."""
    packets = stream(3, df=False)
    assert runs_of(packets) == [[packet] for packet in packets]


@pytest.mark.parametrize("trailer", [b"\2\1\2\4", b"\1\3\2\4", b"\1\2\1\4", b"\1\2\2\x29"], ids=bytes.hex)
def test_what_has_a_wrong_trailer_stays_apart(trailer: bytes) -> None:
    grid, _, rows = filled(stream(3))
    rows[1][-4:] = trailer
    lengths = np.array([len(row) for row in rows], np.uint32)
    assert segments.joined(grid, 0, 3, lengths) == [(0, 1), (1, 2), (2, 3)]


def test_padding_beyond_alignment_stays_apart() -> None:
    """Traffic-flow padding (RFC 4303 §2.7) behind the packet is not taken for padding."""
    packets = stream(3)
    grid, buffer, rows = filled(packets)
    longer = memoryview(buffer)[STRIDE : STRIDE + padded(1040) + 8]
    longer[:] = bytes(rows[1][:1040]) + bytes(8) + bytes(rows[1][1040:])
    lengths = np.array([len(rows[0]), len(longer), len(rows[2])], np.uint32)
    assert segments.joined(grid, 0, 3, lengths) == [(0, 1), (1, 2), (2, 3)]


# -- a part of a super-packet -------------------------------------------------------------------------------------


@settings(max_examples=examples(150))
@given(st.booleans(), options, flags, sequences, st.integers(48, 600), st.integers(2, 20), st.data())
def test_a_part_is_split_into_the_same_packets(
    v6: bool, opts: bytes, flag: int, sequence: int, size: int, count: int, data: st.DataObject
) -> None:
    record = segkit.super_record(segkit.octets(size, size * count - size // 2), size, v6=v6, options=opts, flags=flag,
                                 sequence=sequence, identity=65530)  # fmt: skip
    wanted = segkit.segments(record)
    first = data.draw(st.integers(0, count - 1))
    end = data.draw(st.integers(first + 1, count))
    header, segment = segments.tcp_layout(record)
    assert (header, segment) == (len(record) - (size * count - size // 2), size)
    payload = record[header + first * size : header + end * size]
    head = segments.part_header(record, first, len(payload), last=end == count)
    assert segkit.segments(head + payload) == wanted[first:end]


@given(st.binary(max_size=120))
def test_any_start_of_a_record_has_a_layout_or_none(record: bytes) -> None:
    header, segment = segments.tcp_layout(record)
    assert (header == 0) == (segment == 0)
    assert header <= len(record)


# -- UDP ----------------------------------------------------------------------------------------------------------


def joined_datagrams(records: list[bytes]) -> list[list[bytes]]:
    """Records put together as Delivery does; a list of what each write stands for."""
    groups: list[Datagrams | bytes] = []
    for record in records:
        view = memoryview(record)
        last = groups[-1] if groups else None
        if isinstance(last, Datagrams) and last.take(view, record[: Datagrams.HEADERS]):
            continue
        groups.append(Datagrams(view) if Datagrams.fit(view) else record)
    return [segkit.segments(b"".join(group.pieces()) if isinstance(group, Datagrams) else group) for group in groups]


@settings(max_examples=examples(200))
@given(st.integers(0, 2**32))
def test_datagrams_come_out_in_order_each_as_it_was(seed: int) -> None:
    dice = random.Random(seed)
    records = []
    for n in range(dice.randint(1, 90)):
        size = dice.choice([64, 64, 64, 64, 65, 1, 580])
        packet = segkit.udp_packet(segkit.octets(n, size), identity=n, tos=dice.choice([0] * 20 + [4]))
        if dice.random() < 0.03:
            packet = segkit.mutated(packet, dice)
        records.append(NO_VNET + packet)
    got = [packet for group in joined_datagrams(records) for packet in group]
    assert [_identified(p, 0) for p in got] == [_identified(r[VNET_BYTES:], 0) for r in records]


def test_equal_datagrams_share_a_write() -> None:
    records = [NO_VNET + segkit.udp_packet(bytes([n]) * 64, identity=n) for n in range(100)]
    assert [len(group) for group in joined_datagrams(records)] == [Datagrams.MAX, 100 - Datagrams.MAX]


def test_datagrams_whose_checksum_is_left_to_the_device_are_joined_too() -> None:
    records = []
    for n in range(10):
        packet = bytearray(segkit.udp_packet(bytes([n]) * 64))
        partial = 0xFFFF - segkit.ones(segkit.pseudo(bytes(packet), 17, 72))
        packet[26:28] = partial.to_bytes(2, "big")
        records.append(segkit.VNET.pack(1, 0, 0, 0, 20, 6) + bytes(packet))
    (group,) = joined_datagrams(records)
    assert [_identified(p, 0) for p in group] == [_identified(segkit.udp_packet(bytes([n]) * 64), 0) for n in range(10)]


def _changed(at: int, value: bytes) -> bytes:
    packet = segkit.udp_packet(b"x" * 64)
    return packet[:at] + value + packet[at + len(value) :]


@pytest.mark.parametrize(("df", "joined"), [(True, True), (False, False)])
def test_only_datagrams_that_cannot_become_fragments_are_numbered_anew(df: bool, joined: bool) -> None:
    udp = struct.pack(">HHHH", 5000, 7, 72, 0) + bytes(64)
    packet = segkit.with_checksum(segkit.ip_header(92, v6=False, protocol=17, df=df) + udp, 20, 6)
    assert Datagrams.fit(memoryview(NO_VNET + packet)) is joined


@pytest.mark.parametrize(
    "packet",
    [_changed(26, b"\0\0"), _changed(30, b"\xff"), _changed(6, b"\x20"), _changed(24, b"\0\x30"), _changed(0, b"\x46"),
     segkit.udp_packet(b"x" * 600)],
    ids=["no checksum", "wrong checksum", "fragment", "wrong length", "options", "long"],
)  # fmt: skip
def test_a_datagram_that_a_super_packet_cannot_stand_for_goes_alone(packet: bytes) -> None:
    assert not Datagrams.fit(memoryview(NO_VNET + packet))
