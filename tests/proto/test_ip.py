"""IP and virtio headers: lengths, records that lie, traffic selectors, ECN of a tunnel (RFC 6040)."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from fwd.proto import ip
from fwd.proto.ip import (
    CSUM,
    TSO4,
    TSO6,
    USO4,
    USO6,
    VNET_BYTES,
    Selectors,
    address_pair,
    decapsulate_ecn,
    ip_length,
    record_fault,
    tos,
)

ALL = CSUM | TSO4 | TSO6 | USO4 | USO6
NEEDS_CSUM, DATA_VALID = 1, 2
TCP4, TCP6, UDP_L4, ECN = 1, 4, 5, 0x80


def vnet(flags: int = 0, gso: int = 0, hdr_len: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return struct.pack("<BBHHHH", flags, gso, hdr_len, size, start, offset)


def fault(header: bytes, packet: Packet, accepted: int = ALL) -> str | None:
    octets = bytes(packet)
    return record_fault(header + octets[:80], len(octets), accepted)


TCP_V4 = IP() / TCP() / Raw(bytes(3000))
TCP_V6 = IPv6() / TCP() / Raw(bytes(3000))
UDP_V4 = IP() / UDP() / Raw(bytes(3000))
UDP_V6 = IPv6() / UDP() / Raw(bytes(3000))
TCP_BEHIND = IPv6() / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(20))]) / TCP() / Raw(bytes(3000))

GOOD = {
    "plain": (vnet(), TCP_V4),
    "plain ipv6": (vnet(), UDP_V6),
    "checksum to be completed": (vnet(NEEDS_CSUM, start=20, offset=16), TCP_V4),
    "checksum known good": (vnet(DATA_VALID), TCP_V4),
    "tso4": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 16), TCP_V4),
    "tso4 with ECN": (vnet(NEEDS_CSUM, TCP4 | ECN, 40, 1448, 20, 16), TCP_V4),
    "tso6": (vnet(NEEDS_CSUM, TCP6, 60, 1428, 40, 16), TCP_V6),
    "uso4": (vnet(NEEDS_CSUM, UDP_L4, 28, 1400, 20, 6), UDP_V4),
    "uso6": (vnet(NEEDS_CSUM, UDP_L4, 48, 1400, 40, 6), UDP_V6),
    "tso4 of the least size": (vnet(NEEDS_CSUM, TCP4, 40, 48, 20, 16), TCP_V4),
    "tso4 with IP options": (
        vnet(NEEDS_CSUM, TCP4, 44, 1448, 24, 16),
        IP(options=b"\1" * 4) / TCP() / Raw(bytes(3000)),
    ),
    "tso6 behind an extension header": (vnet(NEEDS_CSUM, TCP6, 84, 1428, 64, 16), TCP_BEHIND),
    "uso4 of the least size": (vnet(NEEDS_CSUM, UDP_L4, 28, 16, 20, 6), IP() / UDP() / Raw(bytes(16 * 128))),
    "hdr_len is only a hint": (vnet(NEEDS_CSUM, TCP4, 1500, 1448, 20, 16), TCP_V4),
}
LIES = {
    "hdr_len past the end": (vnet(hdr_len=4000), TCP_V4),
    "unknown flag": (vnet(4), TCP_V4),
    "unknown flag beside a known one": (vnet(NEEDS_CSUM | 8, start=20, offset=16), TCP_V4),
    "csum_start within the IP header": (vnet(NEEDS_CSUM, start=10, offset=16), TCP_V4),
    "csum_start within the IPv6 header": (vnet(NEEDS_CSUM, start=20, offset=16), TCP_V6),
    "csum_start past the end": (vnet(NEEDS_CSUM, start=5000, offset=16), TCP_V4),
    "checksum field past the end": (vnet(NEEDS_CSUM, start=20, offset=3019), TCP_V4),
    "sum of start and offset past 65535": (vnet(NEEDS_CSUM, start=65535, offset=65535), TCP_V4),
    "gso without checksum": (vnet(0, TCP4, 40, 1448, 20, 16), TCP_V4),
    "gso without size": (vnet(NEEDS_CSUM, TCP4, 40, 0, 20, 16), TCP_V4),
    "gso of an unknown type": (vnet(NEEDS_CSUM, 2, 40, 1448, 20, 16), TCP_V4),
    "gso UDP of the old kind": (vnet(NEEDS_CSUM, 3, 28, 1448, 20, 6), UDP_V4),
    "ECN flag alone": (vnet(NEEDS_CSUM, ECN, 40, 1448, 20, 16), TCP_V4),
    "tso4 on ipv6": (vnet(NEEDS_CSUM, TCP4, 60, 1428, 40, 16), TCP_V6),
    "tso6 on ipv4": (vnet(NEEDS_CSUM, TCP6, 40, 1448, 20, 16), TCP_V4),
    "tso with UDP's checksum": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 6), TCP_V4),
    "tso without room for a TCP header": (vnet(NEEDS_CSUM, TCP4, 40, 8, 20, 16), IP() / Raw(bytes(19))),
    "uso with TCP's checksum": (vnet(NEEDS_CSUM, UDP_L4, 28, 1400, 20, 16), UDP_V4),
    "uso with ECN": (vnet(NEEDS_CSUM, UDP_L4 | ECN, 28, 1400, 20, 6), UDP_V4),
    "tso4 of less than the least size": (vnet(NEEDS_CSUM, TCP4, 40, 47, 20, 16), TCP_V4),
    "tso6 of single octets": (vnet(NEEDS_CSUM, TCP6, 60, 1, 40, 16), TCP_V6),
    "tso of a packet of UDP": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 16), UDP_V4),
    "tso of a fragment": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 16), IP(flags="MF") / TCP() / Raw(bytes(3000))),
    "tso of a later fragment": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 16), IP(frag=9) / TCP() / Raw(bytes(3000))),
    "tso behind the TCP header": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 24, 16), TCP_V4),
    "tso without payload": (vnet(NEEDS_CSUM, TCP4, 40, 1448, 20, 16), IP() / TCP()),
    "tso6 before an extension header's end": (vnet(NEEDS_CSUM, TCP6, 76, 1428, 56, 16), TCP_BEHIND),
    "tso6 of a fragment": (
        vnet(NEEDS_CSUM, TCP6, 68, 1428, 48, 16),
        IPv6() / IPv6ExtHdrFragment(m=1) / TCP() / Raw(bytes(3000)),
    ),
    "tso6 behind AH": (vnet(NEEDS_CSUM, TCP6, 72, 1428, 52, 16), IPv6() / AH(nh=6, payloadlen=1) / Raw(bytes(3000))),
    "uso of less than the least size": (vnet(NEEDS_CSUM, UDP_L4, 28, 15, 20, 6), IP() / UDP() / Raw(bytes(100))),
    "uso of a packet of TCP": (vnet(NEEDS_CSUM, UDP_L4, 28, 1400, 20, 6), TCP_V4),
    "uso without payload": (vnet(NEEDS_CSUM, UDP_L4, 28, 1400, 20, 6), IP() / UDP()),
    "uso with too many segments": (vnet(NEEDS_CSUM, UDP_L4, 28, 23, 20, 6), UDP_V4),
}


@pytest.mark.parametrize(("header", "packet"), GOOD.values(), ids=GOOD.keys())
def test_what_a_kernel_gives_is_passed(header: bytes, packet: Packet) -> None:
    assert fault(header, packet) is None


@pytest.mark.parametrize(("header", "packet"), LIES.values(), ids=LIES.keys())
def test_what_contradicts_the_record_is_refused(header: bytes, packet: Packet) -> None:
    assert fault(header, packet) is not None


@pytest.mark.parametrize("name", ["tso4", "tso6", "uso4", "uso6"])
def test_an_offload_that_is_not_in_force_is_refused(name: str) -> None:
    flag = {"tso4": TSO4, "tso6": TSO6, "uso4": USO4, "uso6": USO6}[name]
    header, packet = GOOD[name]
    assert fault(header, packet, ALL & ~flag) is not None
    assert fault(header, packet, ALL & ~CSUM) is not None
    assert fault(header, packet, CSUM | flag) is None


@pytest.mark.parametrize("first", [0x40, 0x41, 0x44])
def test_an_ip_header_length_below_five_words_is_refused(first: int) -> None:
    assert record_fault(vnet() + bytes([first]) + bytes(59), 100, ALL) == "IP header length"


@pytest.mark.parametrize(("first", "length"), [(0x4F, 59), (0x46, 23), (0x60, 39)])
def test_an_ip_header_longer_than_the_packet_is_refused(first: int, length: int) -> None:
    record = vnet() + bytes([first]) + bytes(length - 1)
    assert record_fault(record, length, ALL) == "IP header length"
    assert record_fault(record, length + 1, ALL) is None


@given(
    st.binary(min_size=6, max_size=6), st.binary(min_size=59, max_size=59), st.integers(20, 65535), st.integers(0, 255)
)
def test_ipv4_without_options_behind_a_header_that_says_nothing_is_always_well(
    rest: bytes, packet: bytes, length: int, accepted: int
) -> None:
    """Whatever else the header has: members look no further at such a record (payloads/superpacket.py)."""
    assert record_fault(bytes(4) + rest + b"\x45" + packet, length, accepted) is None


@given(st.binary(min_size=VNET_BYTES + 20, max_size=VNET_BYTES + 60), st.integers(20, 65535), st.integers(0, 255))
def test_any_record_is_judged_and_what_passes_is_within_itself(record: bytes, length: int, accepted: int) -> None:
    """Precondition: the virtio header and the 20 octets that the reassembler made sure of."""
    if record_fault(record, length, accepted) is None:
        flags, gso, hdr_len, size, start, offset = struct.unpack_from("<BBHHHH", record)
        assert hdr_len <= length
        assert not flags & NEEDS_CSUM or 20 <= start <= length - offset - 2
        assert not gso or (flags & NEEDS_CSUM and size >= 16 and accepted & CSUM)
        assert not gso or length / size < 1400, "a record of more packets than any sender makes"


# -- lengths and fields ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packet", [TCP_V4, TCP_V6, UDP_V4, IP(), IPv6() / Raw(b"x")])
@pytest.mark.parametrize("at", [0, 7])
def test_a_packet_tells_its_length_by_its_first_six_octets(packet: Packet, at: int) -> None:
    octets = bytes(packet)
    assert ip_length(bytes(at) + octets[:6], at) == len(octets)


@pytest.mark.parametrize("octets", [b"\x60\0\0\0\0\0", b"\0" * 6, b"\x50" * 6, b"\xff" * 6])
def test_what_is_not_ip_has_no_length(octets: bytes) -> None:
    assert ip_length(octets) == 0


@pytest.mark.parametrize("value", [0, 1, 0xB8, 0xFF])
def test_the_tos_octet_of_both_versions(value: int) -> None:
    assert tos(bytes(IP(tos=value))) == tos(b"xyz" + bytes(IPv6(tc=value, fl=0xFFFFF)), 3) == value


def test_the_address_pair_stands_as_in_the_header() -> None:
    pair = address_pair(memoryview(bytes(IP(src="10.1.0.1", dst="10.2.0.2"))))
    assert pair == ip_address("10.1.0.1").packed + ip_address("10.2.0.2").packed
    pair = address_pair(memoryview(bytes(IPv6(src="fd00::1", dst="fd00::2"))))
    assert pair == ip_address("fd00::1").packed + ip_address("fd00::2").packed


# -- selectors -------------------------------------------------------------------------------------------------

SOURCE = [ip_network("10.1.0.0/16"), ip_network("192.168.7.128/25"), ip_network("fd00:1::/32")]
DESTINATION = [ip_network("10.2.0.0/16"), ip_network("fd00:2::/32")]


@pytest.mark.parametrize(
    ("source", "destination", "inside"),
    [
        ("10.1.0.0", "10.2.255.255", True),
        ("192.168.7.128", "10.2.0.1", True),
        ("192.168.7.127", "10.2.0.1", False),
        ("10.0.255.255", "10.2.0.1", False),
        ("10.1.0.1", "10.3.0.0", False),
        ("10.2.0.1", "10.1.0.1", False),
        ("fd00:1::1", "fd00:2:ffff::1", True),
        ("fd00:1::1", "fd00:3::1", False),
        ("fd00:0:ffff::1", "fd00:2::1", False),
    ],
)
def test_both_addresses_must_lie_in_the_selectors(source: str, destination: str, inside: bool) -> None:
    selectors = Selectors(SOURCE, DESTINATION)
    pair = ip_address(source).packed + ip_address(destination).packed
    assert [selectors.allow(pair) for _ in range(2)] == [inside, inside]


def test_a_version_without_selectors_is_outside() -> None:
    assert not Selectors(SOURCE[:1], DESTINATION[:1]).allow(bytes(32))


@given(st.binary(min_size=8, max_size=8))
@example(ip_address("10.1.255.255").packed + ip_address("10.2.0.0").packed)
def test_selectors_agree_with_the_standard_library(pair: bytes) -> None:
    source, destination = ip_address(pair[:4]), ip_address(pair[4:])
    expected = any(source in n for n in SOURCE) and any(destination in n for n in DESTINATION)
    assert Selectors(SOURCE, DESTINATION).allow(pair) == expected


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=6), st.integers(0, 90), st.integers(0, 90))
def test_ranges_that_overlap_or_touch_hold_what_each_of_them_holds(
    ranges: list[tuple[int, int]], source: int, destination: int
) -> None:
    def packed(number: int) -> bytes:
        return number.to_bytes(4, "big")

    held = [(packed(first), packed(first + length)) for first, length in ranges]
    expected = all(any(low <= packed(one) <= high for low, high in held) for one in (source, destination))
    assert Selectors.of_ranges(held, held).allow(packed(source) + packed(destination)) == expected


def test_remembered_decisions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ip, "_PAIRS_MAX", 100)
    selectors = Selectors(SOURCE, DESTINATION)
    for i in range(1000):
        selectors.allow(i.to_bytes(8, "big"))
        assert len(selectors.pairs) <= 100


# -- ECN of a tunnel -------------------------------------------------------------------------------------------

NOT, ECT1, ECT0, CE = range(4)
TABLE: dict[
    int, dict[int, int | None]
] = {  # RFC 6040 figure 4: inner → outcome for outer Not-ECT, ECT(0), ECT(1), CE; None: drop
    NOT: {NOT: NOT, ECT0: NOT, ECT1: NOT, CE: None},
    ECT0: {NOT: ECT0, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT: ECT1, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT: CE, ECT0: CE, ECT1: CE, CE: CE},
}


@pytest.mark.parametrize("inner", TABLE)
@pytest.mark.parametrize("outer", TABLE)
@pytest.mark.parametrize("dscp", [0, 46, 63])
def test_ecn_is_combined_as_rfc_6040_says(inner: int, outer: int, dscp: int) -> None:
    for packet, field in (
        (IP(tos=dscp << 2 | inner, id=0x1234) / UDP() / Raw(b"payload"), "tos"),
        (IPv6(tc=dscp << 2 | inner, fl=0xABCDE) / UDP() / Raw(b"payload"), "tc"),
    ):
        octets = bytearray(bytes(packet))
        combined = TABLE[inner][outer]
        assert decapsulate_ecn(memoryview(octets), 0xA4 | outer) is (combined is not None)
        if combined is not None:
            setattr(packet, field, dscp << 2 | combined)
        assert octets == bytes(packet)  # its header checksum, too


@given(st.integers(0, 65535), st.integers(0, 63), st.integers(20, 65535))
def test_the_ipv4_checksum_stays_right_whatever_else_the_header_says(ident: int, dscp: int, length: int) -> None:
    packet = IP(tos=dscp << 2 | ECT0, id=ident, len=length, src="255.255.255.255", dst="0.0.0.0")
    octets = bytearray(bytes(packet))
    assert decapsulate_ecn(memoryview(octets), CE)
    packet.tos = dscp << 2 | CE
    assert octets == bytes(packet)


def test_the_ipv4_checksum_stays_right_where_the_sum_carries_twice() -> None:
    packet = IP(tos=ECT0, id=0)
    packet.id = IP(bytes(packet)).chksum
    octets = bytearray(bytes(packet))
    assert octets[10:12] == b"\0\0"
    assert decapsulate_ecn(memoryview(octets), CE)
    packet.tos = CE
    assert octets == bytes(packet)
