"""Any records from the TUN device and from an authenticated peer: each bad one costs itself alone.

A client, or the peer of another peering on the same host, writes what it likes to a device; the kernel hands it on.
Nothing raises, the books hold, what goes out is of the record itself, and the next record passes.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
import segkit
from hypothesis import given, settings
from hypothesis import strategies as st
from propkit import examples
from rig import Rig, record, rig
from segkit import A6, B6, VNET

from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason

PAYLOADS = pytest.mark.parametrize("payload", ["superpacket", "esp"])
OTHERS = 0xEE  # what the packets of other flows are full of
OWN = b"P"


def fill_rows_with_others(r: Rig) -> None:
    """Every row of every segment has held other flows' packets."""
    turns = len(r.a.rings[0].segments)
    rows = r.a.rings[0].rows
    for _ in range(turns):
        for n in range(0, rows, 30):
            r.a.send(*[record(OTHERS, 1400, port=6000 + n + i) for i in range(min(30, rows - n))])
            r.a.demux._read_burst(r.a.tick)
        r.a.demux_turn()
        r.a.work()
        r.carry()
        r.b.delivered()


def check_still_works(r: Rig) -> None:
    good = record(77, 300)
    assert r.pass_over(good) == [good]
    r.a.check_books()
    r.b.check_books()


def tcp6_behind(extension: int, payload: bytes) -> bytes:
    """IPv6 with destination options of `extension` octets, and TCP."""
    options = bytes([6, extension // 8 - 1, 1, min(extension - 4, 255)]).ljust(extension, b"\0")
    tcp = struct.pack(">HHIIBBHHH", 40000, 80, 1, 7, 5 << 4, 0x10, 500, 0, 0) + payload
    return struct.pack(">IHBB", 6 << 28, extension + len(tcp), 60, 64) + A6 + B6 + options + tcp


@PAYLOADS
@pytest.mark.parametrize("size", [1, 6, 7, 8, 47])
@pytest.mark.parametrize("octets", [900, 60_000])
def test_a_super_packet_of_tiny_segments_is_refused(payload: str, size: int, octets: int) -> None:
    with rig(members=1, payload=payload) as r:
        assert r.pass_over(segkit.super_record(bytes(octets), size)) == []
        assert r.a.dropped(DropReason.RECORD_MALFORMED) == 1
        assert r.a.counted(MemberCounter.OUT_ESP) == 0
        check_still_works(r)


def test_a_peers_super_packet_of_tiny_segments_never_reaches_the_kernel() -> None:
    with rig(members=1) as r:
        r.a.demux._shapes.fault = lambda size: None  # type: ignore[method-assign]  # a peer that sends what it likes
        hostile = [segkit.super_record(bytes(1350), 1), segkit.super_record(bytes(60_000), 47)]
        udp = segkit.udp_packet(bytes(100))
        hostile += [VNET.pack(1, 5, 28, 1, 20, 6) + udp, VNET.pack(1, 5, 28, 15, 20, 6) + udp]
        assert r.pass_over(*hostile) == []
        assert r.b.dropped(DropReason.BAD_RECORD) == 4
        check_still_works(r)


def test_small_packets_are_not_joined_to_what_the_next_gateway_would_refuse() -> None:
    """What is written to the device may be forwarded to another peering."""
    with rig(members=1) as r:
        sent = [bytes(10) + segkit.udp_packet(bytes([n]) * 15, identity=n) for n in range(20)]
        assert r.pass_over(*sent) == sent
    with rig(members=1, payload="esp") as r:
        sent = [bytes(10) + segkit.tcp_packet(bytes([n]) * 47, sequence=47 * n) for n in range(20)]
        assert r.pass_over(*sent) == sent


@pytest.mark.parametrize("extension", [208, 216, 224, 256, 1024])
def test_headers_beyond_what_a_mark_can_tell_send_nobody_elses_packets(extension: int) -> None:
    with rig(members=1, payload="esp") as r:
        fill_rows_with_others(r)
        start = 40 + extension
        sent = VNET.pack(1, 4, start + 20, 1000 - extension % 1000, start, 16) + tcp6_behind(extension, OWN * 3000)
        got = r.pass_over(sent)
        assert all(bytes([OTHERS]) * 8 not in packet and packet[10] >> 4 == 6 for packet in got)
        assert bool(got) == (start <= 0xFF)
        assert r.a.dropped(DropReason.RECORD_TOO_BIG) == (start > 0xFF)
        check_still_works(r)


def test_a_super_packet_of_udp_or_without_a_checksum_to_complete_is_refused_in_esp() -> None:
    """The device was not asked for the one, and a mark cannot tell the other."""
    with rig(members=1, payload="esp") as r:
        fill_rows_with_others(r)
        udp = segkit.udp_packet(OWN * 2000)
        tcp = segkit.tcp_packet(OWN * 2000)
        assert r.pass_over(VNET.pack(1, 5, 28, 500, 20, 6) + udp, VNET.pack(2, 1, 40, 500, 0, 0) + tcp) == []
        assert r.a.dropped(DropReason.RECORD_MALFORMED) == 2
        check_still_works(r)


@pytest.mark.parametrize("words", [0, 4, 15])
def test_a_super_packet_whose_tcp_header_is_none_is_refused_in_esp(words: int) -> None:
    with rig(members=1, payload="esp") as r:
        fill_rows_with_others(r)
        packet = bytearray(segkit.tcp_packet(OWN * (2000 if words < 5 else 30)))
        packet[32] = words << 4
        assert r.pass_over(VNET.pack(1, 1, 40, 500, 20, 16) + packet) == []
        assert r.a.dropped(DropReason.RECORD_MALFORMED) == 1
        check_still_works(r)


def test_a_checksum_outside_its_packet_is_refused_in_esp() -> None:
    with rig(members=1, payload="esp") as r:
        packet = segkit.udp_packet(OWN * 100)
        places = [(0, 16), (12, 4), (20, 200), (200, 6), (65535, 65535)]
        assert r.pass_over(*[VNET.pack(1, 0, 0, 0, start, offset) + packet for start, offset in places]) == []
        assert r.a.dropped(DropReason.RECORD_MALFORMED) == len(places)
        check_still_works(r)


small = st.integers(0, 100)
words = st.integers(0, 65535) | small
vnets = st.builds(
    VNET.pack, st.integers(0, 3), st.sampled_from([0, 1, 3, 4, 5, 0x81, 0x84, 255]), words,
    st.sampled_from([0, 1, 7, 16, 47, 48, 500, 1400, 1500, 65535]), st.sampled_from([0, 20, 24, 40, 48, 264]) | words,
    st.sampled_from([6, 16]) | words,
)  # fmt: skip


def _packets(kind: str, octets: int, extension: int) -> bytes:
    payload = OWN * octets
    if kind == "tcp4":
        return segkit.tcp_packet(payload[:65000])
    if kind == "tcp6":
        return segkit.tcp_packet(payload[:65000], v6=True)
    if kind == "behind":
        return tcp6_behind(8 * extension, payload[:60000])
    return segkit.udp_packet(payload[:65000])


packets = st.builds(
    _packets, st.sampled_from(["tcp4", "tcp6", "behind", "udp"]),
    st.sampled_from([0, 1, 47, 900, 1399, 3000, 65000]) | st.integers(0, 9000), st.integers(1, 40),
)  # fmt: skip


def changed(packet: bytes, changes: list[tuple[int, int]]) -> bytes:
    """Some octets of the headers changed, though not the version and the addresses."""
    octets = bytearray(packet)
    for at, value in changes:
        if at < len(octets) and at not in range(8, 40) and at not in (2, 3, 4, 5):
            octets[at] = value if at else octets[0] & 0xF0 | value & 0x0F
    return bytes(octets)


hostile = st.builds(
    lambda vnet, packet, changes: vnet + changed(packet, changes),
    vnets, packets, st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=2),
)  # fmt: skip


@PAYLOADS
def test_any_records_of_a_client(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        fill_rows_with_others(r)

        @settings(max_examples=examples(150))
        @given(st.lists(hostile, min_size=1, max_size=4))
        def check(batch: list[bytes]) -> None:
            sent = r.a.counted(MemberCounter.OUT_ESP)
            got = r.pass_over(*batch)
            assert all(bytes([OTHERS]) * 8 not in packet for packet in got), "another flow's octets"
            if payload == "superpacket":
                assert set(got) <= set(batch)
            else:
                assert r.a.counted(MemberCounter.OUT_ESP) - sent <= 127 * len(batch)
            r.a.check_books()
            r.b.check_books()

        check()
        check_still_works(r)


def test_any_records_of_a_peer() -> None:
    """What reaches the device is a record that was sent, and stands for no more packets than a sender makes."""
    with rig(members=1) as r:
        r.a.demux._shapes.fault = lambda size: None  # type: ignore[method-assign]

        @settings(max_examples=examples(150))
        @given(st.lists(hostile, min_size=1, max_size=4))
        def check(batch: list[bytes]) -> None:
            got = r.pass_over(*batch)
            assert set(got) <= set(batch)
            for data in got:
                fields: tuple[Any, ...] = VNET.unpack_from(data)
                assert not fields[1] or len(data) / fields[3] < 1400
            r.b.check_books()

        check()
        check_still_works(r)
