"""A classic pcap file of UDP datagrams cut out of a segmentation-offload frame.

A frame that carries many datagrams has one set of headers; `datagram` gives each piece its own, with right
lengths and checksums (RFC 791, RFC 768; zero over IPv4, as RFC 3948 wants it). Refuses nothing: the caller
has classified the frame already.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

ETHERNET_BYTES = 14
_LINKTYPE_ETHERNET = 1
_SNAPSHOT_BYTES = 65535
_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")


def write_header(file: BinaryIO) -> None:
    file.write(_FILE_HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, _SNAPSHOT_BYTES, _LINKTYPE_ETHERNET))


def write_packet(file: BinaryIO, packet: bytes, time_ns: int) -> None:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    file.write(_RECORD_HEADER.pack(seconds, rest_ns // 1000, len(packet), len(packet)) + packet)


def datagram(headers: bytes, payload: bytes) -> bytes:
    """One Ethernet frame from the Ethernet, IP and UDP `headers` of a super-frame and one piece of its data."""
    ethernet, ip, udp = headers[:ETHERNET_BYTES], headers[ETHERNET_BYTES:-8], headers[-8:-4]
    length = 8 + len(payload)
    if ip[0] >> 4 == 4:
        ip = ip[:2] + (len(ip) + length).to_bytes(2, "big") + ip[4:10] + b"\0\0" + ip[12:]
        ip = ip[:10] + checksum(ip).to_bytes(2, "big") + ip[12:]
        return ethernet + ip + udp + length.to_bytes(2, "big") + b"\0\0" + payload
    ip = ip[:4] + length.to_bytes(2, "big") + ip[6:]
    pseudo = ip[8:40] + length.to_bytes(4, "big") + b"\0\0\0\x11"
    udp += length.to_bytes(2, "big")
    udp += (checksum(pseudo + udp + payload) or 0xFFFF).to_bytes(2, "big")
    return ethernet + ip + udp + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
