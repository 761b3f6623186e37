"""ESP against an independent implementation, scapy's SecurityAssociation, both ways, with and without ESN."""

from __future__ import annotations

from typing import Any

import pytest
from espkit import KEY, ROWS, SALT, SPI, WINDOW, keys, open_all
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, IPSecIntegrityError, SecurityAssociation
from scapy.packet import Raw

from fwd.proto.burst import seal_burst
from fwd.proto.esp import (
    NEXT_IPV4,
    NEXT_IPV6,
    OVERHEAD_BYTES,
    InboundSa,
    OutboundSa,
    PacketTable,
    Rows,
    padded,
    payload_length,
    seal_one,
    write_trailer,
)

pytestmark = pytest.mark.usefixtures("form")

INNER = {
    "ipv4 tcp": IP(src="10.1.0.10", dst="10.2.0.10", ttl=64) / TCP(sport=1234, dport=80) / Raw(b"x" * 101),
    "ipv4 icmp": IP(src="10.1.0.10", dst="10.2.0.10") / ICMP(id=7, seq=1) / Raw(b"ping"),
    "ipv6 udp": IPv6(src="fd00:1::10", dst="fd00:2::10") / UDP(sport=53, dport=5353) / Raw(b"y" * 30),
}
NUMBERS = {"first": 1, "below 2^32": 2**32 - 2, "above 2^32": 2**32 + 7, "far": (123 << 32) + 456}

inner = pytest.mark.parametrize("packet", INNER.values(), ids=INNER.keys())
esn_number = pytest.mark.parametrize(
    ("esn", "number"),
    [
        pytest.param(esn, n, id=f"{name}{' ESN' if esn else ''}")
        for name, n in NUMBERS.items()
        for esn in (True, False)
        if esn or n < 2**32
    ],
)


def oracle(*, esn: bool, nat_t: bool = False) -> SecurityAssociation:
    return SecurityAssociation(
        ESP, spi=SPI, crypt_algo="AES-GCM", crypt_key=KEY + SALT, esn_en=esn,
        tunnel_header=IP(src="192.0.2.1", dst="192.0.2.2"), nat_t_header=UDP(sport=4500, dport=4500) if nat_t else None,
    )  # fmt: skip


def oracle_seals(packet: Any, number: int, *, esn: bool, nat_t: bool = False) -> bytes:
    sealed = oracle(esn=esn, nat_t=nat_t).encrypt(
        packet, seq_num=number & 0xFFFFFFFF, esn=number >> 32, iv=number.to_bytes(8, "big")
    )
    return bytes(sealed[ESP])


def oracle_opens(data: bytes, number: int, *, esn: bool) -> bytes:
    outer = IP(bytes(IP(src="192.0.2.1", dst="192.0.2.2", proto=50) / Raw(data)))
    return bytes(oracle(esn=esn).decrypt(outer, esn=number >> 32))


def row_of(packet: bytes) -> memoryview:
    """A row as the sender makes it: packet, padding, trailer."""
    row = memoryview(bytearray(packet.ljust(padded(len(packet)), b"\0")))
    write_trailer(row, 0, len(packet), NEXT_IPV6 if packet[0] >> 4 == 6 else NEXT_IPV4)
    return row


def we_seal(packet: bytes, number: int, *, esn: bool) -> bytes:
    row = row_of(packet)
    out = bytearray(len(row) + OVERHEAD_BYTES)
    assert seal_one(OutboundSa(keys(esn=esn), ROWS), number, row, memoryview(out), 0) == len(out)
    return bytes(out)


@inner
@esn_number
def test_both_seal_the_same_octets(packet: Any, esn: bool, number: int) -> None:
    assert we_seal(bytes(packet), number, esn=esn) == oracle_seals(packet, number, esn=esn)


@inner
@esn_number
def test_the_oracle_opens_what_we_seal(packet: Any, esn: bool, number: int) -> None:
    assert oracle_opens(we_seal(bytes(packet), number, esn=esn), number, esn=esn) == bytes(packet)


@inner
@esn_number
@pytest.mark.parametrize("nat_t", [False, True])
def test_we_open_what_the_oracle_seals(packet: Any, esn: bool, number: int, nat_t: bool) -> None:
    sealed = oracle_seals(packet, number, esn=esn, nat_t=nat_t)
    opened = open_all(InboundSa(keys(esn=esn), ROWS, WINDOW, floor=number - 1), [sealed])
    assert opened.numbers == [number]
    row = memoryview(opened.rows[0])
    assert row[: payload_length(row)] == bytes(packet)
    assert row[-1] == (NEXT_IPV6 if IPv6 in packet else NEXT_IPV4)


def test_the_oracle_refuses_the_wrong_high_half() -> None:
    sealed = we_seal(bytes(INNER["ipv4 tcp"]), 2**32 + 7, esn=True)
    with pytest.raises(IPSecIntegrityError):
        oracle_opens(sealed, 7, esn=True)


def test_the_oracle_opens_a_whole_burst_across_a_rollover() -> None:
    packets = [bytes(IP(src="10.1.0.1", dst="10.2.0.1") / UDP(sport=i, dport=9) / Raw(bytes(70))) for i in range(6)]
    tail = bytes(IP(src="10.1.0.1", dst="10.2.0.1") / UDP(sport=99, dport=9) / Raw(b"tail"))
    rows, first = [row_of(packet) for packet in packets], 2**32 - 3
    size = len(rows[0]) + OVERHEAD_BYTES
    table = PacketTable(bytearray(size * 7), size, 7)
    octets = len(rows[0])
    burst = Rows(bytearray(b"".join([*rows, row_of(tail).tobytes().ljust(octets)])), octets, 7, octets)
    end = seal_burst(OutboundSa(keys(), ROWS), first, burst, 0, 6, len(row_of(tail)), table)
    for i, packet in enumerate([*packets, tail]):
        sealed = bytes(table.view[i * size : min((i + 1) * size, end)])
        assert oracle_opens(sealed, first + i, esn=True) == packet
