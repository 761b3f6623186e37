"""Steering by the kernel, as a model: which packets are one flow is as in flow.py, and what is none is for queue 0."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
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
from scapy.layers.ipsec import AH
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from fwd.proto.flow import BUCKETS, NOBODY, PARKED, flow_hash
from fwd.proto.steering import bucket_of, program, queue_of, tick_of

V4: dict[str, Any] = {"src": "10.1.0.10", "dst": "10.2.0.10"}
V6: dict[str, Any] = {"src": "fd00:1::10", "dst": "fd00:2::10"}


def bucket(packet: Packet) -> int:
    found = bucket_of(bytes(packet))
    assert found is not None
    return found


@pytest.mark.parametrize("l4", [TCP, UDP])
@pytest.mark.parametrize("l3", [IP(**V4), IPv6(**V6)], ids=["ipv4", "ipv6"])
def test_a_flow_is_addresses_ports_and_protocol(l3: Packet, l4: type[Packet]) -> None:
    one = bucket(l3 / l4(sport=1000, dport=80) / Raw(b"a"))
    assert one == bucket(l3 / l4(sport=1000, dport=80) / Raw(b"something else"))
    other = l3.copy()
    other.src = "10.1.0.11" if l3.version == 4 else "fd00:1::11"
    kind = UDP if l4 is TCP else TCP
    changed = (l3 / l4(sport=1001, dport=80), l3 / l4(sport=1000, dport=81), l3 / kind(sport=1000, dport=80))
    assert one not in [bucket(packet) for packet in (*changed, other / l4(sport=1000, dport=80))]


@pytest.mark.parametrize(
    "chain",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(),
        AH(nh=17, payloadlen=4, spi=1, seq=1, icv=b"x" * 12),
    ],
    ids=["one", "three", "AH, whose length counts otherwise"],
)
def test_ipv6s_extension_headers_are_passed_over(chain: Packet) -> None:
    plain = IPv6(**V6) / UDP(sport=1, dport=2)
    assert bucket(IPv6(**V6) / chain / UDP(sport=1, dport=2)) == bucket(plain)


def test_ipv4s_options_are_passed_over() -> None:
    options = IP(**V4, options=[IPOption_NOP()] * 8)
    assert bucket(options / UDP(sport=1, dport=2)) == bucket(IP(**V4) / UDP(sport=1, dport=2))


def test_all_parts_of_a_fragmented_datagram_are_one_flow() -> None:
    parts = fragment(IP(**V4) / UDP(sport=1, dport=2) / Raw(b"x" * 4000), 1000)
    assert len({bucket(part) for part in parts}) == 1
    heads = [IPv6ExtHdrFragment(offset=at, m=at < 4, nh=17) for at in (0, 2, 4)]
    assert len({bucket(IPv6(**V6) / head / Raw(bytes([at] * 16))) for at, head in enumerate(heads)}) == 1


@pytest.mark.parametrize("l4", [ICMP(id=7), GRE()], ids=["icmp", "gre"])
def test_a_protocol_without_ports_is_known_by_addresses(l4: Packet) -> None:
    assert bucket(IP(**V4) / l4 / Raw(b"a")) == bucket(IP(**V4) / l4 / Raw(b"bcd"))


def test_more_extension_headers_than_are_passed_over_are_a_flow_without_ports() -> None:
    chain = IPv6ExtHdrDestOpt()
    for _ in range(8):
        chain /= IPv6ExtHdrDestOpt()
    assert bucket(IPv6(**V6) / chain / UDP(sport=1)) == bucket(IPv6(**V6) / chain / UDP(sport=2))


@pytest.mark.parametrize(
    "octets",
    [
        b"", b"\x45", bytes(20), b"\x50" + bytes(60), b"\xff" * 60,
        bytes(IP(**V4) / TCP())[:23],
        bytes(IPv6(**V6) / UDP())[:43],
        bytes(IPv6(**V6) / IPv6ExtHdrHopByHop() / UDP())[:41],
        bytes(IPv6(**V6) / IPv6ExtHdrFragment(nh=17))[:40],
    ],
    ids=["nothing", "an octet", "no version", "version 5", "version 15", "without ports", "half of them",
         "half an extension header", "no fragment header"],
)  # fmt: skip
def test_what_is_no_ip_or_is_cut_short_is_for_queue_0(octets: bytes) -> None:
    assert bucket_of(octets) is None
    assert queue_of(octets, [1] * BUCKETS) == 0


def test_a_packet_goes_to_its_owners_queue_and_to_queue_0_without_one() -> None:
    packet = bytes(IPv6(**V6) / ICMPv6EchoRequest())
    owners = [5] * BUCKETS
    assert queue_of(packet, owners) == 6
    for nobody in (NOBODY, PARKED):
        owners[bucket(IPv6(**V6) / ICMPv6EchoRequest())] = nobody
        assert queue_of(packet, owners) == 0


@given(st.binary(min_size=20, max_size=100), st.sampled_from([0x45, 0x46, 0x4F, 0x60]), st.data())
def test_what_flow_keeps_together_stays_together(octets: bytes, first: int, data: st.DataObject) -> None:
    """Whatever is changed: packets of one flow by flow.py's hash have one bucket here, if both have any."""
    one = bytearray([first]) + octets
    other = bytearray(one)
    other[data.draw(st.integers(1, len(one) - 1))] ^= data.draw(st.integers(1, 255))
    if len(one) < (20 if first >> 4 == 4 else 40):
        return
    buckets = bucket_of(bytes(one)), bucket_of(bytes(other))
    if None not in buckets and flow_hash(memoryview(one)) == flow_hash(memoryview(other)):
        assert buckets[0] == buckets[1]


def test_flows_spread_evenly_over_buckets() -> None:
    """Of each sixteenth of the buckets: flows that differ in one port, in one address, at random."""
    chance = random.Random(1)
    many = 4096
    by_port = [bytes(IP(**V4))[:9] + b"\x06" + bytes(IP(**V4))[10:] + port.to_bytes(4, "big") for port in range(many)]
    by_host = [one[:12] + (0x0A010000 + i).to_bytes(4, "big") + by_port[0][16:] for i, one in enumerate(by_port)]
    at_random = [by_port[0][:12] + chance.randbytes(12) for _ in range(many)]
    for packets in (by_port, by_host, at_random):
        counts = np.bincount([(bucket_of(one) or 0) >> 12 for one in packets], minlength=16)
        assert many / 16 * 0.7 < counts.min()
        assert counts.max() < many / 16 * 1.3


def test_the_time_of_use_is_the_demuxs() -> None:
    assert tick_of(10_000_000) == 1
    assert tick_of((2**32 + 3) * 10_000_000) == 3


def test_the_program_is_as_long_as_any_kernel_with_bpf_takes() -> None:
    assert len(program(3)) // 8 < 4096
