"""ICMP errors of routers whose own addresses are in no selector: which pass, by the packet that they quote."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from fwd.proto import icmp
from fwd.proto.icmp import ERROR_MAX, Errors, is_carried, returning
from fwd.proto.ip import NO_VNET, Selectors

NEAR = [ip_network("10.1.0.0/16"), ip_network("fd01::/32")]
FAR = [ip_network("10.2.0.0/16"), ip_network("fd02::/32")]
OUTWARD = Selectors(NEAR, FAR)
ROUTER, HOST, CLIENT = "172.16.9.2", "10.1.0.9", "10.2.0.9"  # the host is near, and the router before it
ROUTER6, HOST6, CLIENT6 = "2001:db8:9::2", "fd01::9", "fd02::9"


def quoted(**fields: Any) -> Packet:
    """What the client has sent to the host, and what a router quotes of it."""
    return IP(**{"src": CLIENT, "dst": HOST, **fields}) / TCP(sport=1234, dport=80) / Raw(bytes(80))


def quoted6(**fields: Any) -> Packet:
    return IPv6(**{"src": CLIENT6, "dst": HOST6, **fields}) / TCP(sport=1234, dport=80) / Raw(bytes(800))


def error(quote: Any = None, kind: int = 3, code: int = 4, **fields: Any) -> bytes:
    quote = bytes(quoted()) if quote is None else bytes(quote)
    return bytes(IP(**{"src": ROUTER, "dst": CLIENT, **fields}) / ICMP(type=kind, code=code) / Raw(quote))


def error6(quote: Any = None, kind: Packet | None = None, **fields: Any) -> bytes:
    quote = bytes(quoted6()) if quote is None else bytes(quote)
    kind = ICMPv6PacketTooBig(mtu=1280) if kind is None else kind
    return bytes(IPv6(**{"src": ROUTER6, "dst": CLIENT6, **fields}) / kind / Raw(quote))


def lying(quote: Packet, at: int, value: bytes) -> bytes:
    octets = bytes(quote)
    return octets[:at] + value + octets[at + len(value) :]


UDP4 = IP(src=CLIENT, dst=HOST) / UDP() / Raw(b"")
PING4 = IP(src=CLIENT, dst=HOST) / ICMP(type=8) / Raw(bytes(20))
PING6 = IPv6(src=CLIENT6, dst=HOST6) / ICMPv6EchoRequest(data=bytes(20))
BEHIND = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
NESTED4 = IP(src=CLIENT, dst=HOST) / ICMP(type=3, code=1) / Raw(bytes(IP(src=HOST, dst=CLIENT) / UDP() / Raw(bytes(8))))
NESTED6 = ICMPv6DestUnreach() / Raw(bytes(IPv6(src=HOST6, dst=CLIENT6) / UDP() / Raw(bytes(8))))

PASS = {
    "fragmentation needed": error(),
    "host unreachable": error(code=1),
    "time exceeded, of traceroute": error(UDP4, kind=11, code=0),
    "parameter problem": error(kind=12, code=0),
    "about a ping": error(PING4, kind=11, code=0),
    "8 octets behind the quoted header": error(bytes(quoted())[:28]),
    "8 octets behind a quoted header with options": error(bytes(quoted(options=[IPOption_NOP()] * 4))[:32]),
    "with options of its own": error(options=[IPOption_NOP()] * 4),
    "about a first fragment": error(quoted(flags="MF")),
    "what may not be fragmented": error(flags="DF"),
    "a datagram that is shorter": error(IP(src=CLIENT, dst=HOST, proto=89) / Raw(b"abc")),
    "from a link's own address, as clouds have it": error(src="169.254.10.1"),
    "packet too big": error6(),
    "no route": error6(kind=ICMPv6DestUnreach()),
    "hop limit": error6(PING6, kind=ICMPv6TimeExceeded()),
    "parameter problem of IPv6": error6(kind=ICMPv6ParamProblem()),
    "about a ping behind options": error6(IPv6(src=CLIENT6, dst=HOST6) / BEHIND / ICMPv6EchoReply(data=bytes(9))),
    "about a first fragment of IPv6": error6(IPv6(src=CLIENT6, dst=HOST6) / IPv6ExtHdrFragment(m=1) / UDP() / bytes(9)),
    "about a later fragment of IPv6": error6(
        IPv6(src=CLIENT6, dst=HOST6) / IPv6ExtHdrFragment(offset=100, nh=58) / Raw(b"\1" * 40)
    ),
    "as long as they get": error6(bytes(quoted6() / Raw(bytes(2000)))[: ERROR_MAX - 48]),
}

REFUSED = {
    # Not such an error.
    "an echo request": error(kind=8, code=0),
    "a redirect": error(kind=5, code=1),
    "a source quench": error(kind=4, code=0),
    "an echo request of IPv6": error6(kind=ICMPv6EchoRequest()),
    "a neighbour solicitation": error6(kind=ICMPv6ND_NS()),
    "no ICMP": bytes(IP(src=ROUTER, dst=CLIENT) / UDP() / Raw(bytes(80))),
    "ICMPv6 in IPv4": error(proto=58),
    "ICMP in IPv6": error6(nh=1),
    "a fragment": error(flags="MF"),
    "a later fragment": error(frag=3),
    "behind an extension header": error6(bytes(8) + bytes(quoted6()), nh=60),
    "longer than any": error(bytes(quoted()) + bytes(ERROR_MAX)),
    "no quote": error(b""),
    # From whom, to whom.
    "from this host": error(src="127.0.0.1"),
    "from nobody": error(src="0.0.0.0"),
    "from a group": error(src="224.0.0.5"),
    "from all": error(src="255.255.255.255"),
    "from a group of IPv6": error6(src="ff02::1"),
    "from nobody in IPv6": error6(src="::"),
    "from an address of IPv4 in IPv6": error6(src="::ffff:172.16.9.2"),
    "from a link of IPv6": error6(src="fe80::1"),
    "to another than the packet's sender": error(dst="10.2.0.10"),
    "to another than the packet's sender in IPv6": error6(dst="fd02::10"),
    # What they quote.
    "what was sent the other way": error(IP(src=HOST, dst=CLIENT) / UDP() / Raw(bytes(8)), dst=CLIENT),
    "the other way, to its sender": error(IP(src=HOST, dst=CLIENT) / UDP() / Raw(bytes(8)), dst=HOST),
    "of another peering": error(quoted(dst="10.3.0.9")),
    "of nobody's subnets": error(quoted(src="198.51.100.1"), dst="198.51.100.1"),
    "of another peering in IPv6": error6(quoted6(dst="fd03::9")),
    "the other IP version": error(quoted6()),
    "the other IP version in IPv6": error6(quoted()),
    "a header that is cut off": error(bytes(quoted())[:19]),
    "no ports": error(bytes(quoted())[:20]),
    "half the ports": error(bytes(quoted())[:27]),
    "IPv6 without ports": error6(bytes(quoted6())[:47]),
    "a header shorter than any": error(lying(quoted(), 0, b"\x44")),
    "a header longer than the quote": error(lying(UDP4, 0, b"\x4f")),
    "a header longer than its packet": error(lying(quoted(), 2, b"\0\x10")),
    "a jumbogram": error6(lying(quoted6(), 4, b"\0\0")),
    "a later fragment, of which there is no error": error(quoted(frag=7)),
    "an error": error(NESTED4),
    "a redirect, quoted": error(IP(src=CLIENT, dst=HOST) / ICMP(type=5) / Raw(bytes(40))),
    "ICMP that nobody knows": error(IP(src=CLIENT, dst=HOST) / ICMP(type=99) / Raw(bytes(40))),
    "an error, as a first fragment": error(IP(src=CLIENT, dst=HOST, flags="MF") / ICMP(type=3) / Raw(bytes(40))),
    "an error of IPv6": error6(IPv6(src=CLIENT6, dst=HOST6) / NESTED6),
    "an error behind options": error6(IPv6(src=CLIENT6, dst=HOST6) / BEHIND / NESTED6),
    "an error behind AH": error6(IPv6(src=CLIENT6, dst=HOST6) / AH(payloadlen=4, icv=bytes(12), nh=58) / NESTED6),
    "an error in a first fragment": error6(IPv6(src=CLIENT6, dst=HOST6) / IPv6ExtHdrFragment(m=1) / NESTED6),
    "options that are cut off before what they hide": error6(
        bytes(IPv6(src=CLIENT6, dst=HOST6) / BEHIND / NESTED6)[:48]
    ),
    "options longer than the packet": error6(
        lying(IPv6(src=CLIENT6, dst=HOST6) / BEHIND / NESTED6, 41, b"\xff")
    ),
}  # fmt: skip


@pytest.mark.parametrize("packet", PASS.values(), ids=PASS)
def test_an_error_about_a_packet_of_the_peering_belongs_to_it(packet: bytes) -> None:
    assert Errors(OUTWARD).belongs(NO_VNET + packet)


@pytest.mark.parametrize("packet", REFUSED.values(), ids=REFUSED)
def test_anything_else_does_not(packet: bytes) -> None:
    assert not Errors(OUTWARD).belongs(NO_VNET + packet)


def test_what_is_told_of_is_the_return_traffic() -> None:
    assert returning(error()) == ip_address(HOST).packed + ip_address(CLIENT).packed
    assert returning(error6()) == ip_address(HOST6).packed + ip_address(CLIENT6).packed


def test_a_source_in_the_receivers_subnets_is_a_lie() -> None:
    """As is one that the configuration has there, where the SA carries less."""
    narrower = Selectors(NEAR, [ip_network("10.2.0.9/32")])
    assert Errors(OUTWARD).belongs(NO_VNET + error(), narrower)
    assert not Errors(OUTWARD).belongs(NO_VNET + error(src="10.2.200.1"), narrower)


def test_an_sa_that_does_not_carry_the_return_traffic_does_not_carry_the_error() -> None:
    narrower = Selectors([ip_network("10.1.0.10/32")], FAR)
    assert not is_carried(error(), narrower)
    assert not Errors(OUTWARD).belongs(NO_VNET + error(), narrower)


@pytest.mark.parametrize(
    ("flags", "gso", "passes"), [(0, 0, True), (2, 0, True), (1, 0, False), (3, 0, False), (0, 1, False), (0, 5, False)]
)
def test_what_the_kernel_would_change_after_the_look_is_refused(flags: int, gso: int, passes: bool) -> None:
    header = struct.pack("<BBHHHH", flags, gso, 0, 0, 40, 8)
    assert Errors(OUTWARD).belongs(header + error()) == passes


def test_so_many_a_second_and_no_more() -> None:
    errors = Errors(OUTWARD, 3)
    assert [errors.allows(now) for now in (5.0, 5.1, 5.2, 5.3, 5.9)] == [True, True, True, False, False]
    assert [errors.allows(now) for now in (6.0, 6.5, 6.9, 6.95, 8.0)] == [True, True, True, False, True]


@given(st.sampled_from([*PASS.values(), *REFUSED.values()]), st.data())
def test_any_octets_are_judged_and_what_passes_is_of_the_peering(packet: bytes, data: st.DataObject) -> None:
    changed = bytearray(packet)
    for _ in range(data.draw(st.integers(0, 8))):
        changed[data.draw(st.integers(1, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(changed[: data.draw(st.integers(20 if packet[0] >> 4 == 4 else 41, len(changed)))])
    pair = returning(cut)
    if pair is not None:
        at, size = (12, 4) if cut[0] >> 4 == 4 else (8, 16)
        assert pair[size:] == cut[at + size : at + 2 * size]
        assert len(cut) <= icmp.ERROR_MAX
