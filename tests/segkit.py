"""Super-packets and what they stand for, written plainly: the oracle for fwd/proto/segments.py.

`super_record` builds what a TUN device gives; `segments` says which packets a kernel would make of it (checked against
scapy in test_segments.py). Neither uses anything of fwd.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

VNET = struct.Struct("<BBHHHH")
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
A4, B4 = bytes([10, 1, 0, 9]), bytes([10, 2, 0, 9])
A6, B6 = (bytes([0xFD, side]).ljust(15, b"\0") + b"\x09" for side in (1, 2))


def ones(octets: bytes) -> int:
    """Internet checksum, word by word."""
    total = 0
    for at in range(0, len(octets), 2):
        total += int.from_bytes(octets[at : at + 2].ljust(2, b"\0"), "big")
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def pseudo(packet: bytes, protocol: int, length: int) -> bytes:
    """The pseudo-header of TCP and UDP."""
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack(">HH", protocol, length)
    return packet[8:40] + struct.pack(">II", length, protocol)


def ip_header(length: int, *, v6: bool, protocol: int, identity: int = 0, tos: int = 0, df: bool = True) -> bytes:
    if v6:
        return struct.pack(">IHBB", 6 << 28 | tos << 20, length - 40, protocol, 64) + A6 + B6
    head = struct.pack(">BBHHHBBH", 0x45, tos, length, identity, 0x4000 if df else 0, 64, protocol, 0) + A4 + B4
    return head[:10] + ones(head).to_bytes(2, "big") + head[12:]


def tcp_packet(
    payload: bytes, *, v6: bool = False, sequence: int = 1, flags: int = ACK, options: bytes = b"", identity: int = 0,
    port: int = 40000, tos: int = 0, df: bool = True, window: int = 500,
) -> bytes:  # fmt: skip
    """A whole TCP packet with right checksums."""
    offset = (20 + len(options)) << 2
    tcp = struct.pack(">HHIIBBHHH", port, 80, sequence & 0xFFFFFFFF, 7, offset, flags, window, 0, 0) + options + payload
    head = ip_header((40 if v6 else 20) + len(tcp), v6=v6, protocol=6, identity=identity, tos=tos, df=df)
    return with_checksum(head + tcp, len(head), 16)


def with_checksum(packet: bytes, start: int, offset: int) -> bytes:
    """`packet` with the right transport checksum at `start + offset`."""
    at = start + offset
    bare = packet[:at] + b"\0\0" + packet[at + 2 :]
    protocol = packet[9] if packet[0] >> 4 == 4 else packet[6]
    check = ones(pseudo(bare, protocol, len(bare) - start) + bare[start:])
    return bare[:at] + check.to_bytes(2, "big") + bare[at + 2 :]


def super_record(payload: bytes, segment: int, **parts: Any) -> bytes:
    """A record with a TCP super-packet of `segment` octets in each packet, its checksum left to the device."""
    packet = tcp_packet(payload, **parts)
    v6 = packet[0] >> 4 == 6
    start = 40 if v6 else 20
    partial = 0xFFFF - ones(pseudo(packet, 6, len(packet) - start))
    packet = packet[: start + 16] + partial.to_bytes(2, "big") + packet[start + 18 :]
    header = len(packet) - len(payload)
    if len(payload) <= segment:
        return VNET.pack(1, 0, 0, 0, start, 16) + packet
    return VNET.pack(1, 4 if v6 else 1, header, segment, start, 16) + packet


def segments(record: bytes) -> list[bytes]:
    """The packets that a record stands for, whole: what the kernel would send."""
    needs, kind, _, size, start, offset = VNET.unpack_from(record)
    packet = record[VNET.size :]
    if not kind:
        return [with_checksum(packet, start, offset) if needs else packet]
    return _udp_segments(packet, size, start) if kind == 5 else _tcp_segments(packet, size, start)


def _tcp_segments(packet: bytes, size: int, start: int) -> list[bytes]:
    header = start + (packet[start + 12] >> 4) * 4
    payload, found = packet[header:], []
    sequence = int.from_bytes(packet[start + 4 : start + 8], "big")
    for number, at in enumerate(range(0, len(payload), size)):
        head, part = bytearray(packet[:header]), payload[at : at + size]
        head[start + 4 : start + 8] = ((sequence + at) & 0xFFFFFFFF).to_bytes(4, "big")
        if number:
            head[start + 13] &= ~CWR
        if at + size < len(payload):
            head[start + 13] &= ~(FIN | PSH)
        found.append(_whole(head, part, number, start, 16))
    return found


def _udp_segments(packet: bytes, size: int, start: int) -> list[bytes]:
    payload = packet[start + 8 :]
    found = []
    for number, at in enumerate(range(0, len(payload), size)):
        head, part = bytearray(packet[: start + 8]), payload[at : at + size]
        head[start + 4 : start + 6] = (8 + len(part)).to_bytes(2, "big")
        found.append(_whole(head, part, number, start, 6))
    return found


def _whole(head: bytearray, part: bytes, number: int, start: int, offset: int) -> bytes:
    """One segment: lengths, identification and checksums."""
    length = len(head) + len(part)
    if head[0] >> 4 == 4:
        identity = (int.from_bytes(head[4:6], "big") + number) & 0xFFFF
        head[2:6] = struct.pack(">HH", length, identity)
        head[10:12] = b"\0\0"
        head[10:12] = ones(bytes(head[:start])).to_bytes(2, "big")
    else:
        head[4:6] = (length - 40).to_bytes(2, "big")
    return with_checksum(bytes(head) + part, start, offset)


def udp_packet(payload: bytes, *, identity: int = 0, port: int = 5000, tos: int = 0) -> bytes:
    """A whole IPv4 datagram with right checksums."""
    udp = struct.pack(">HHHH", port, 7, 8 + len(payload), 0) + payload
    return with_checksum(ip_header(20 + len(udp), v6=False, protocol=17, identity=identity, tos=tos) + udp, 20, 6)


def octets(seed: int, count: int) -> bytes:
    """Payload that tells one place from another."""
    return random.Random(seed).randbytes(count)


def mutated(packet: bytes, dice: random.Random, fix: Callable[[bytes], bytes] | None = None) -> bytes:
    """One octet of its first 60 changed; `fix` may put the checksums right again."""
    at = dice.randrange(min(60, len(packet)))
    changed = packet[:at] + bytes([packet[at] ^ 1 << dice.randrange(8)]) + packet[at + 1 :]
    return fix(changed) if fix else changed
