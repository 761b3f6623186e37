"""The demux: which member, which segment, in which order; and the path's size as it changes."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from rig import Gateway, flows, identity_of, packet, record, rig

from fwd.datapath import demux as demux_module
from fwd.datapath.ring import CHUNK, RECORDS, SEGMENTS, TOS
from fwd.datapath.shared import LinkWord
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, BUCKETS, flow_hash
from fwd.proto.ip import NO_VNET, ip_length


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_another_tos_octet_starts_another_segment(payload: str) -> None:
    with rig(members=1, payload=payload) as r:
        octets = [0, 0, 8, 8, 8, 0, 0xB8, 0xB9]
        r.a.send(*[record(n, tos=tos) for n, tos in enumerate(octets)])
        r.a.demux_turn()
        ring = r.a.rings[0]
        seen = [(ring.segment(n).fields[TOS], ring.segment(n).fields[RECORDS]) for n in range(ring.head)]
        shared = payload == "superpacket"  # they differ in what outer packets do not tell there
        assert seen == [(0, 2), (8, 3), (0, 1), *([(0xB8, 2)] if shared else [(0xB8, 1), (0xB9, 1)])]
        r.a.work()
        outer = [g.tos for g in r.carry()]
        # RFC 9347 §2.4.2: Not-ECT outside; `esp` copies both fields (RFC 6040 §4.1).
        assert outer == ([0, 8, 0, 0xB8] if shared else [0, 8, 0, 0xB8, 0xB9])
        assert [identity_of(d) for d in r.b.delivered()] == list(range(8))


def test_a_record_whose_rest_a_block_offset_cannot_tell_starts_a_segment() -> None:
    with rig(members=1) as r:
        chunk, longest = r.a.geometry.chunk, 65535
        # `before` octets of the first chunk are taken: 65,535 follow it at the first, 65,536 at the second.
        for before, segments in ((chunk - 10, 1), (chunk - 9, 2)):
            head = r.a.rings[0].head
            batch = [record(1, before - 10), record(2, longest)]
            assert r.pass_over(*batch) == batch
            assert r.a.rings[0].head == head + segments


@pytest.mark.parametrize(
    ("first", "later"), [(1500, 1400), (1500, 576), (1500, 300), (9000, 1500), (9000, 576), (1400, 1500)]
)
def test_a_smaller_path_counts_from_the_next_segment(first: int, later: int) -> None:
    """Records of 64 KiB still fit, and the receiver follows."""
    with rig(members=1, mtu=max(first, later)) as r:
        geometry, link, ring = r.a.geometry, r.a.shared.members[0].link, r.a.rings[0]
        for turn, mtu in enumerate([first, later, first, later]):
            link[LinkWord.CHUNK] = geometry.chunk_for(mtu)
            batch = [record(turn * 20 + n, length) for n, length in enumerate([100, 65535, 1400, 65535, 30000, 100])]
            r.a.send(*batch)
            r.a.demux_turn()
            assert {ring.segment(n).fields[CHUNK] for n in range(ring.done, ring.head)} == {geometry.chunk_for(mtu)}
            r.a.work()
            groups = r.carry()
            assert max(g.size for g in groups) <= geometry.packet_bytes_for(mtu)
            assert r.b.delivered() == batch
        r.a.check_books()
        r.b.check_books()


def test_a_dead_members_flows_move_and_the_others_stay() -> None:
    with rig(members=4) as r:
        r.a.demux_turn()
        before = r.a.shared.owners.copy()
        port = flows(r.a.shared, 2)[0]
        r.a.tick += 1
        r.a.shared.last_used[:] = r.a.tick  # all are busy
        r.a.shared.live[0] = 0b1011
        r.a.demux_turn()
        moved = before != r.a.shared.owners
        assert (moved == (before == 2)).all()
        assert r.pass_over(record(1, port=port)) == [record(1, port=port)]
        r.a.shared.live[0] = 0b1111  # it is back: only idle buckets go to it
        r.a.demux_turn()
        assert (r.a.shared.owners != 2).all()
        r.a.tick += 1000
        r.a.demux_turn()
        assert (r.a.shared.owners == before).all()


def test_what_is_held_for_a_member_that_leaves_is_dropped_at_once_and_never_sent_behind_newer_packets() -> None:
    with rig(members=2) as r:
        r.a.demux_turn()
        port = flows(r.a.shared, 0)[0]
        assert one_by_one(r.a, 6, port=port)[-1], "two are held back"
        r.a.shared.live[0] = 0b10  # it does not send any more: `failed`
        r.a.tick += 1
        r.a.demux._follow_live(r.a.tick)
        assert not r.a.demux._hand_over(), "nothing to look after every millisecond"
        assert r.a.dropped(DropReason.NO_LIVE_MEMBER) == 2
        assert one_by_one(r.a, 1, 6, port=port) == [False]
        r.a.members[1].outbound.work()
        r.a.shared.live[0] = 0b11
        r.a.respawn(0, skip=True)
        r.a.demux_turn()
        r.a.work()
        r.carry()
        assert [identity_of(d) for d in r.b.delivered()] == [6]
        r.a.check_books()


def test_nobody_lives_and_then_somebody() -> None:
    with rig(members=2) as r:
        r.a.shared.live[0] = 0
        assert r.pass_over(record(1), record(2)) == []
        assert r.a.dropped(DropReason.NO_LIVE_MEMBER) == 2
        r.a.shared.live[0] = 0b10
        assert len(r.pass_over(record(3))) == 1
        assert r.a.rings[0].head == 0
        r.a.check_books()


def test_a_full_ring_loses_what_comes_and_keeps_what_waits() -> None:
    with rig(members=1) as r:
        for n in range(40):
            r.a.send(record(n))
            r.a.demux_turn()
        r.a.work()
        r.carry()
        assert [identity_of(d) for d in r.b.delivered()] == list(range(SEGMENTS))
        assert r.a.dropped(DropReason.RING_FULL) == 40 - SEGMENTS
        assert r.pass_over(record(50)) == [record(50)]
        r.a.check_books()


@pytest.mark.parametrize("tick", [2**32 - 3, 2**32, 2**33 + 5])
def test_a_host_that_is_up_for_more_than_497_days(tick: int) -> None:
    """CLOCK_MONOTONIC counts from its boot; the last use of a bucket has 32 bits of it."""
    with rig(members=2) as r:
        r.a.tick = tick - 200
        r.a.demux_turn()
        r.a.tick = tick
        assert r.pass_over(record(1)) == [record(1)]
        port = flows(r.a.shared, 1)[0]
        r.a.shared.live[0] = 0b01
        assert r.pass_over(record(2, port=port)) == [record(2, port=port)]
        r.a.shared.live[0] = 0b11
        for _ in range(20):  # on both sides of where it wraps: what is not used goes back
            r.a.tick += 10
            r.a.send(record(3, port=port))
            r.a.demux_turn()
        bucket = flow_hash(memoryview(packet(0, port=port))) & BUCKET_MASK
        assert r.a.shared.owners[bucket] == 0, "busy"
        assert np.count_nonzero(r.a.shared.owners == 1) > BUCKETS // 3
        r.a.check_books()


def test_headers_with_options_and_extensions_pass() -> None:
    plain = packet(7, 120)
    options = bytes([0x46]) + plain[1:2] + struct.pack(">H", 124) + plain[4:20] + bytes([1, 1, 1, 0]) + plain[20:]
    v6 = packet(8, 120, v6=True)
    extended = v6[:4] + struct.pack(">HB", 88, 60) + v6[7:40] + bytes([17, 0, 1, 4, 0, 0, 0, 0]) + v6[40:]
    icmp = bytearray(packet(9, 120))
    icmp[9] = 1
    fragment = bytearray(packet(10, 120))
    fragment[6] = 0x20
    with rig(members=4) as r:
        records = [NO_VNET + bytes(p) for p in (options, extended, icmp, fragment)]
        assert sorted(r.pass_over(*records)) == sorted(records)


def one_by_one(gateway: Gateway, count: int, first: int = 0, port: int = 5000) -> list[bool]:
    """Records that come one at a time, the demux looking after each; whether it then holds something back."""
    held = []
    for n in range(first, first + count):
        gateway.send(record(n, port=port))
        assert gateway.demux._read_burst(gateway.tick)
        held.append(gateway.demux._hand_over())
    return held


def test_a_member_with_enough_to_do_gets_the_rest_as_one_segment() -> None:
    with rig(members=1) as r:
        ring = r.a.rings[0]
        assert one_by_one(r.a, 9) == [False] * 4 + [True] * 5
        assert ring.head == 4
        r.a.work()
        assert not r.a.demux._hand_over()
        assert [ring.segment(n).fields[RECORDS] for n in range(5)] == [1, 1, 1, 1, 5]
        r.a.work()
        r.carry()
        assert [identity_of(d) for d in r.b.delivered()] == list(range(9))
        r.a.check_books()


def test_what_is_held_back_goes_when_its_segment_is_full() -> None:
    with rig(members=1) as r:
        ring = r.a.rings[0]
        one_by_one(r.a, 4)
        r.a.send(*[record(n, 60_000) for n in range(4, 7)])
        assert r.a.demux._read_burst(r.a.tick)
        assert r.a.demux._hand_over()
        assert ring.head == 5
        assert ring.segment(4).fields[RECORDS] == 2


def test_one_busy_member_holds_nobody_else_back() -> None:
    with rig(members=2) as r:
        r.a.demux_turn()  # so that the bucket table stands
        zero, one = (flows(r.a.shared, i)[0] for i in range(2))
        for n in range(6):
            r.a.send(record(n, port=zero))
            r.a.demux._read_burst(r.a.tick)
            r.a.demux._hand_over()
        r.a.send(record(9, port=one))
        r.a.demux._read_burst(r.a.tick)
        assert r.a.demux._hand_over()
        assert r.a.rings[0].head == 4
        assert r.a.rings[1].head == 1


def any_packets(seed: int) -> list[bytes]:
    """Packets of few flows and many kinds: protocols, fragments, options, extension headers, headers cut short."""
    chance, found = random.Random(seed), []
    for n in range(200):
        v6 = chance.random() < 0.4
        data = bytearray(packet(n, chance.choice([48, 60, 100]) if not v6 else 100, v6=v6, port=chance.randrange(3)))
        data[6 if v6 else 9] = chance.choice([17, 17, 6, 6, 1, 58, 132, 0, 44])
        if not v6 and chance.random() < 0.2:
            data[0] = 0x46
        if not v6 and chance.random() < 0.2:
            data[6:8] = chance.choice([b"\x20\0", b"\0\x05", b"\x40\0"])
        if chance.random() < 0.1:
            data = data[: 42 if v6 else 20]
            data[4 if v6 else 2 : 6 if v6 else 4] = (2 if v6 else 20).to_bytes(2, "big")
        found.append(bytes(data))
    return found


@pytest.mark.parametrize("remembered", [2, 16384])
def test_a_flow_that_is_remembered_has_the_bucket_of_its_hash(remembered: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demux_module, "_FLOWS_MAX", remembered)
    with rig() as r:
        r.a.demux_turn()
        for data in any_packets(1):
            whole = ip_length(data) == len(data)
            before = r.a.dropped(DropReason.RECORD_MALFORMED)
            r.a.tick += 1
            r.a.send(NO_VNET + data)
            r.a.demux_turn()
            r.a.work()
            if not whole:
                assert r.a.dropped(DropReason.RECORD_MALFORMED) == before + 1
            elif data[0] != 0x45 or len(data) >= 24:
                (bucket,) = (r.a.shared.last_used == r.a.tick).nonzero()[0]
                assert bucket == flow_hash(memoryview(data)) & BUCKET_MASK
        flows = r.a.demux._flows[0] + r.a.demux._flows[1]
        assert 0 < max(map(len, flows)) <= remembered
        assert not r.a.demux._unknown
        r.a.check_books()


def test_a_packet_without_ports_is_not_taken_for_the_flow_before_it() -> None:
    """Its last octets are where the ports of the record before it lie still."""
    with rig() as r:
        r.a.demux_turn()
        whole = packet(1, v6=True)
        cut = whole[:4] + b"\0\x02" + whole[6:42]
        for data in (whole, cut):
            r.a.tick += 1
            r.a.send(NO_VNET + data)
            r.a.demux_turn()
            (bucket,) = (r.a.shared.last_used == r.a.tick).nonzero()[0]
            assert bucket == flow_hash(memoryview(data)) & BUCKET_MASK


def test_a_checksum_beyond_a_shorter_record_is_refused_though_a_longer_one_was_well() -> None:
    with rig(members=1, payload="esp") as r:
        header = struct.pack("<BBHHHH", 1, 0, 0, 0, 20, 6)
        long, short = header + packet(1, 100), header + packet(2, 36)[:2] + b"\0\x18" + packet(2, 36)[4:24]
        for data, refused in ((long, 0), (short, 1), (long, 1)):
            r.a.send(data)
            r.a.demux_turn()
            assert r.a.dropped(DropReason.RECORD_MALFORMED) == refused


def test_a_super_packet_without_payload_is_refused_though_a_longer_one_was_well() -> None:
    with rig(members=1) as r:
        header, tcp = struct.pack("<BBHHHH", 1, 1, 0, 500, 20, 16), bytearray(packet(1, 2000))
        tcp[9] = 6
        long, short = header + tcp, header + tcp[:2] + b"\0\x28" + tcp[4:40]
        for data, refused in ((long, 0), (short, 1), (long, 1)):
            r.a.send(data)
            r.a.demux_turn()
            assert r.a.dropped(DropReason.RECORD_MALFORMED) == refused


def test_a_flow_outside_the_selectors_is_refused_each_time() -> None:
    with rig() as r:
        for _ in range(3):
            assert r.pass_over(record(1), record(2, back=True)) == [record(1)]
        assert r.a.dropped(DropReason.SELECTOR_OUT) == 3
