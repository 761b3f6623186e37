"""Pinning: which packets are one flow, and which member owns it (rule 3)."""

from __future__ import annotations

import random
import struct
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from fwd.proto.flow import BUCKET_MASK, BUCKETS, NOBODY, flow_hash, owner_of, owners, rendezvous_scores, settle

V4: dict[str, Any] = {"src": "10.1.0.10", "dst": "10.2.0.10"}
V6: dict[str, Any] = {"src": "fd00:1::10", "dst": "fd00:2::10"}
STABLE_V4, STABLE_V6 = 0xC426B258121E8D2C, 0x75E5E5B4DC53B043  # UDP, ports 1 and 2


def hash_of(packet: Packet) -> int:
    return flow_hash(memoryview(bytes(packet)))


@cache
def scores(members: int) -> npt.NDArray[np.uint64]:
    return rendezvous_scores(members)


def live(*members: int) -> int:
    return sum(1 << member for member in members)


# -- one flow --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("l4", [TCP, UDP])
@pytest.mark.parametrize("l3", [IP(**V4), IPv6(**V6)], ids=["ipv4", "ipv6"])
def test_a_flow_is_addresses_ports_and_protocol(l3: Packet, l4: type[Packet]) -> None:
    one = hash_of(l3 / l4(sport=1000, dport=80) / Raw(b"a"))
    assert one == hash_of(l3 / l4(sport=1000, dport=80) / Raw(b"something else"))
    assert one != hash_of(l3 / l4(sport=1001, dport=80))
    assert one != hash_of(l3 / l4(sport=1000, dport=81))
    assert one != hash_of(l3 / (UDP if l4 is TCP else TCP)(sport=1000, dport=80))
    other = l3.copy()
    other.src = "10.1.0.11" if l3.version == 4 else "fd00:1::11"
    assert one != hash_of(other / l4(sport=1000, dport=80))


def test_what_changes_from_packet_to_packet_does_not_matter() -> None:
    one = IP(**V4, id=1, ttl=64, tos=0, flags="DF") / TCP(sport=1000, dport=80, seq=1, flags="S")
    two = IP(**V4, id=2, ttl=63, tos=0xB8) / TCP(sport=1000, dport=80, seq=9, flags="A") / Raw(b"x" * 1000)
    assert hash_of(one) == hash_of(two)
    six = IPv6(**V6, fl=1, hlim=64, tc=0) / UDP(sport=1, dport=2)
    assert hash_of(six) == hash_of(IPv6(**V6, fl=2, hlim=9, tc=3) / UDP(sport=1, dport=2) / Raw(b"x"))


def test_the_hash_is_the_same_in_every_process() -> None:
    assert hash_of(IP(**V4) / UDP(sport=1, dport=2)) == STABLE_V4
    assert hash_of(IPv6(**V6) / UDP(sport=1, dport=2)) == STABLE_V6


@pytest.mark.parametrize("l4", [ICMP(id=1), ICMP(id=2, seq=9), GRE(), Raw(b"anything")])
def test_other_protocols_go_by_addresses_and_protocol(l4: Packet) -> None:
    header = IP(**V4, proto=47 if isinstance(l4, GRE) else 1)
    assert hash_of(header / l4) == hash_of(header / Raw(bytes(40)))
    assert hash_of(header / l4) != hash_of(IP(**V4, proto=99) / Raw(bytes(40)))


def test_ipv4_options_are_stepped_over() -> None:
    options = [IPOption_NOP()] * 8
    one = hash_of(IP(**V4, options=options) / UDP(sport=1000, dport=80))
    assert one == hash_of(IP(**V4, options=options * 2) / UDP(sport=1000, dport=80))
    assert one != hash_of(IP(**V4, options=options) / UDP(sport=1001, dport=80))
    assert one == hash_of(IP(**V4) / UDP(sport=1000, dport=80))


@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 4], ids=["plain", "options"])
def test_all_fragments_of_a_datagram_are_one_flow(options: list[Packet]) -> None:
    whole = IP(**V4, options=options) / UDP(sport=1000, dport=80) / Raw(bytes(4000))
    hashes = {hash_of(part) for part in fragment(whole, 1400)}
    assert len(hashes) == 1
    assert hash_of(IP(**V4, flags="MF") / UDP(sport=5, dport=6)) in hashes


def test_all_ipv6_fragments_of_a_datagram_are_one_flow() -> None:
    parts = [
        IPv6(**V6) / IPv6ExtHdrFragment(nh=17, id=5, m=1, offset=0) / UDP(sport=1000, dport=80) / Raw(bytes(64)),
        IPv6(**V6) / IPv6ExtHdrFragment(nh=17, id=5, m=0, offset=9) / Raw(bytes(range(64))),
        IPv6(**V6) / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(nh=17, id=5, offset=9) / Raw(b"\xff" * 64),
    ]
    assert len({hash_of(part) for part in parts}) == 1


@pytest.mark.parametrize(
    "extensions",
    [IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["fd00::1"]),
     IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=["fd00::1", "fd00::2"])],
    ids=["hop by hop", "destination", "routing", "three"],
)  # fmt: skip
def test_ipv6_extension_headers_are_stepped_over(extensions: Packet) -> None:
    plain = hash_of(IPv6(**V6) / TCP(sport=1000, dport=80))
    assert hash_of(IPv6(**V6) / extensions / TCP(sport=1000, dport=80)) == plain
    assert hash_of(IPv6(**V6) / extensions / TCP(sport=1001, dport=80)) != plain


def test_an_authentication_header_counts_in_words_of_four() -> None:
    header = struct.pack(">BBHII", 6, 4, 0, 1, 1) + bytes(12)  # RFC 4302 §2.2: 24 octets
    one = IPv6(**V6, nh=51) / Raw(header + struct.pack(">HH", 1000, 80) + bytes(16))
    assert hash_of(one) == hash_of(IPv6(**V6) / TCP(sport=1000, dport=80))


def test_a_chain_of_headers_without_end_is_given_up() -> None:
    endless = IPv6(**V6, nh=60) / Raw((bytes([60, 0]) + bytes(6)) * 8000)
    assert hash_of(endless) == hash_of(IPv6(**V6, nh=60) / Raw((bytes([60, 0]) + bytes(6)) * 9))


def test_icmpv6_goes_by_addresses() -> None:
    assert hash_of(IPv6(**V6) / ICMPv6EchoRequest(id=1)) == hash_of(IPv6(**V6) / ICMPv6EchoRequest(id=2, seq=4))


@given(st.binary(min_size=20, max_size=120), st.sampled_from([0x45, 0x46, 0x4F, 0x40, 0x60, 0x6F, 0x00, 0xF0]))
def test_any_twenty_octets_have_a_hash(octets: bytes, first: int) -> None:
    assert 0 <= flow_hash(memoryview(bytes([first]) + octets[1:])) < 2**64


def test_packets_cut_short_anywhere_have_a_hash() -> None:
    whole = [
        bytes(IP(**V4, options=[IPOption_NOP()] * 40) / UDP()),
        bytes(IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=["::1"]) / IPv6ExtHdrFragment() / UDP()),
        bytes(IPv6(**V6, nh=51) / Raw(bytes([60, 4]) + bytes(40))),
    ]
    for packet in whole:
        for length in range(20, len(packet)):
            flow_hash(memoryview(packet[:length]))


# -- members ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [2, 3, 4, 8])
def test_each_member_gets_its_share_of_random_flows(members: int) -> None:
    dice, table = random.Random(7), owners(scores(members), live(*range(members)))
    header = bytes(IP(src="10.1.0.0", dst="10.2.0.0") / UDP())
    counts = [0] * members
    for _ in range(100_000):
        flow = header[:14] + dice.randbytes(2) + header[16:18] + dice.randbytes(6) + header[24:]
        counts[table[flow_hash(memoryview(flow)) & BUCKET_MASK]] += 1
    assert all(abs(count * members / 100_000 - 1) < 0.1 for count in counts), counts


@pytest.mark.parametrize("members", [2, 3, 4, 8, 64])
def test_a_member_that_leaves_takes_only_its_own_buckets_along(members: int) -> None:
    everybody = live(*range(members))
    before = owners(scores(members), everybody)
    for gone in range(min(members, 4)):
        after = owners(scores(members), everybody & ~live(gone))
        assert (after != gone).all()
        assert ((before == after) | (before == gone)).all()


@pytest.mark.parametrize("members", [2, 3, 4, 8])
def test_the_buckets_of_one_that_leaves_are_spread_evenly(members: int) -> None:
    gone = owners(scores(members), live(*range(members))) == 0
    heirs = owners(scores(members), live(*range(1, members)))[gone]
    shares = np.bincount(heirs, minlength=members)[1:]
    assert (abs(shares * (members - 1) / len(heirs) - 1) < 0.15).all()


@pytest.mark.parametrize("members", [1, 2, 3, 7])
def test_one_that_joins_takes_its_share_and_nothing_else_moves(members: int) -> None:
    before = owners(scores(members), live(*range(members)))
    after = owners(scores(members + 1), live(*range(members + 1)))
    moved = before != after
    assert (after[moved] == members).all()
    assert abs(np.count_nonzero(moved) * (members + 1) / BUCKETS - 1) < 0.1


def test_without_a_live_member_nobody_owns_a_bucket() -> None:
    assert (owners(scores(4), 0) == NOBODY).all()
    assert (owners(scores(4), live(2)) == 2).all()


@pytest.mark.parametrize(("members", "alive"), [(1, (0,)), (4, (0, 1, 2, 3)), (4, (1, 3)), (64, (0, 5, 20, 63))])
def test_the_owner_of_one_bucket_is_the_one_that_it_has_in_the_table(members: int, alive: tuple[int, ...]) -> None:
    table = owners(scores(members), live(*alive))
    buckets = (0, 1, BUCKETS - 1, *random.Random(5).sample(range(BUCKETS), 50))
    assert [owner_of(one, alive) for one in buckets] == [int(table[one]) for one in buckets]


# -- moving ----------------------------------------------------------------------------------------------------

IDLE = 10


def moved(target_live: int, members_live: int, last_used: int, now: int) -> tuple[int, npt.NDArray[np.uint16]]:
    """Settle from members 0 and 1 to `target_live`, every bucket last used at `last_used`."""
    current = owners(scores(3), live(0, 1))
    used = np.full(BUCKETS, last_used, dtype=np.uint32)
    left = settle(current, owners(scores(3), target_live), used, members_live, now, IDLE)
    return left, current


def test_on_join_busy_buckets_stay() -> None:
    left, table = moved(live(0, 1, 2), live(0, 1, 2), last_used=100, now=105)
    assert (table == owners(scores(3), live(0, 1))).all()
    assert left == np.count_nonzero(owners(scores(3), live(0, 1, 2)) == 2)


def test_on_join_idle_buckets_move() -> None:
    left, table = moved(live(0, 1, 2), live(0, 1, 2), last_used=100, now=100 + IDLE)
    assert (table == owners(scores(3), live(0, 1, 2))).all()
    assert left == 0


def test_on_join_each_bucket_is_judged_by_itself() -> None:
    before, target = owners(scores(3), live(0, 1)), owners(scores(3), live(0, 1, 2))
    current, used = before.copy(), np.full(BUCKETS, 100, dtype=np.uint32)
    used[::2] = 50
    settle(current, target, used, live(0, 1, 2), 100, IDLE)
    assert (current[::2] == target[::2]).all()
    assert (current[1::2] == before[1::2]).all()


def test_buckets_of_the_dead_move_at_once_however_busy() -> None:
    left, table = moved(live(0), live(0), last_used=100, now=100)
    assert (table == 0).all()
    assert left == 0


def test_buckets_of_the_living_stay_when_another_dies() -> None:
    current = owners(scores(3), live(0, 1, 2))
    before, used = current.copy(), np.full(BUCKETS, 100, dtype=np.uint32)
    settle(current, owners(scores(3), live(0, 2)), used, live(0, 2), 100, IDLE)
    assert (current[before != 1] == before[before != 1]).all()
    assert (current != 1).all()


def test_with_nobody_left_all_buckets_are_nobodys_and_come_back_at_once() -> None:
    _, table = moved(0, 0, last_used=100, now=100)
    assert (table == NOBODY).all()
    used = np.full(BUCKETS, 100, dtype=np.uint32)
    assert settle(table, owners(scores(3), live(1)), used, live(1), 100, IDLE) == 0
    assert (table == 1).all()


@pytest.mark.parametrize("now", [2**32 - 1, 2**32, 2**32 + IDLE - 1, 2**32 + IDLE, 2**32 + 10 * IDLE, 3 * 2**32 + 5])
@pytest.mark.parametrize("age", [0, 1, IDLE - 1, IDLE, IDLE + 1, 3 * IDLE])
def test_idle_buckets_move_and_busy_ones_stay_where_the_clock_wraps(now: int, age: int) -> None:
    """The last use is kept in 32 bits of ticks of 10 ms, which last 497 days of a host's uptime."""
    target = owners(scores(2), live(0, 1))
    current = np.full_like(target, 0)
    used = np.full(BUCKETS, (now - age) % 2**32, np.uint32)
    left = settle(current, target, used, live(0, 1), now, IDLE)
    assert (left == 0) == (age >= IDLE)
