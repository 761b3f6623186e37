"""What fwd must know of IP headers and of the virtio header in front of each record.

Lengths and addresses (RFC 791, RFC 8200), traffic selectors (RFC 4301 §4.4.1), the ECN rules of a tunnel
(RFC 6040), and the checks of a record that came out of a tunnel: an authenticated peer is still not trusted with
the kernel's parser. Refuses: records whose headers contradict their length (`record_fault`).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import Final

VNET_BYTES: Final = 10  # struct virtio_net_hdr, little-endian (TUNSETVNETLE)
RECORD_MAX: Final = VNET_BYTES + 65535
IP_MIN: Final = 20
NO_VNET: Final = bytes(VNET_BYTES)

CSUM, TSO4, TSO6, USO4, USO6 = 0x01, 0x02, 0x04, 0x20, 0x40  # TUN_F_*: what a TUN device may be given

NEEDS_CSUM: Final = 1  # VIRTIO_NET_HDR_FNEEDS_CSUM: the checksum field holds the pseudo-header's sum only
_DATA_VALID = 2
_GSO_NONE, _GSO_TCP4, _GSO_TCP6, _GSO_UDP_L4, _GSO_ECN = 0, 1, 4, 5, 0x80
# The least segment of a super-packet. A record makes as many packets as it has segments, and each costs the kernel as
# much as a packet does: with a least size a record costs no more than its octets sent as small packets would.
TCP_SEGMENT_MIN: Final = 48  # Linux's own least MSS (net.ipv4.tcp_min_snd_mss): 1,365 segments at most
UDP_SEGMENT_MIN: Final = 16
_UDP_SEGMENTS_MAX = 128  # UDP_MAX_SEGMENTS of the kernel
_TCP, _UDP = 6, 17
_EXTENSIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination: those that the kernel segments behind
_VNET = struct.Struct("<BBHHHH")

_PAIRS_MAX = 65536  # remembered selector decisions: bounded, so that no flood of addresses can grow it
_TABLE_BYTES = 4096  # FWD_PAIRS_OCTETS in stages.h


def ip_length(packet: bytes | bytearray | memoryview, at: int = 0) -> int:
    """Length of the IP packet whose header starts at `at`, by its own header; 0 if it is none.

    Reads the first 6 bytes only. An IPv6 jumbogram (length 0) is none.
    """
    version = packet[at] >> 4
    if version == 4:
        return packet[at + 2] << 8 | packet[at + 3]
    if version == 6:
        length = packet[at + 4] << 8 | packet[at + 5]
        return length + 40 if length else 0
    return 0


def record_fault(record: bytes | bytearray | memoryview, length: int, accepted: int) -> str | None:
    """Why the kernel must not see a record (virtio header and IP packet of `length` bytes), or None.

    `record` is its start, with all of the IP header. `accepted` are the TUN_F_* flags in force.
    """
    flags, gso, hdr_len, gso_size, csum_start, csum_offset = _VNET.unpack_from(record)
    version = record[VNET_BYTES] >> 4
    header = 40 if version == 6 else (record[VNET_BYTES] & 0x0F) * 4
    if header < IP_MIN or header > length:
        return "IP header length"
    if hdr_len > length:
        return "hdr_len"
    if flags == gso == 0:
        return None
    if flags & ~(NEEDS_CSUM | _DATA_VALID):
        return "virtio flags"
    if flags & NEEDS_CSUM and not (header <= csum_start and csum_start + csum_offset + 2 <= length):
        return "csum_start"
    if gso == _GSO_NONE:
        return None
    if not flags & NEEDS_CSUM or gso_size == 0 or not accepted & CSUM:
        return "gso without checksum or size"
    return _gso_fault(record, gso, gso_size, csum_start, csum_offset, length, accepted)


def _gso_fault(
    record: bytes | bytearray | memoryview,
    gso: int,
    gso_size: int,
    csum_start: int,
    csum_offset: int,
    length: int,
    accepted: int,
) -> str | None:
    """The part of record_fault for super-packets."""
    kind, version = gso & ~_GSO_ECN, record[VNET_BYTES] >> 4
    if kind in (_GSO_TCP4, _GSO_TCP6):
        if version != (4 if kind == _GSO_TCP4 else 6) or not accepted & (TSO4 if version == 4 else TSO6):
            return "gso_type"
        if gso_size < TCP_SEGMENT_MIN:
            return "gso_size"
        if csum_offset != 16 or csum_start + 20 >= length or not _carries(record, _TCP, csum_start):
            return "TCP header"
        return None
    if kind == _GSO_UDP_L4:
        if gso & _GSO_ECN or not accepted & (USO4 if version == 4 else USO6):
            return "gso_type"
        if gso_size < UDP_SEGMENT_MIN or length - csum_start - 8 > gso_size * _UDP_SEGMENTS_MAX:
            return "gso_size"
        if csum_offset != 6 or csum_start + 8 >= length or not _carries(record, _UDP, csum_start):
            return "UDP header"
        return None
    return "gso_type"


def _carries(record: bytes | bytearray | memoryview, protocol: int, start: int) -> bool:
    """Whether the IP packet in `record` is no fragment and has the header of `protocol` at `start`, as it says."""
    first = record[VNET_BYTES]
    if first >> 4 == 4:
        fragment = record[VNET_BYTES + 6] & 0x3F | record[VNET_BYTES + 7]
        return record[VNET_BYTES + 9] == protocol and start == (first & 0x0F) * 4 and not fragment
    found, at, end = record[VNET_BYTES + 6], 40, len(record) - VNET_BYTES - 1
    while found in _EXTENSIONS and at < min(start, end):
        found, at = record[VNET_BYTES + at], at + (record[VNET_BYTES + at + 1] + 1) * 8
    return found == protocol and at == start


Range = tuple[bytes, bytes]  # first and last address


class Selectors:
    """Whether an inner (source, destination) pair lies in the peering's traffic selectors.

    Decisions are remembered by the pair's raw bytes (8 for IPv4, 32 for IPv6), so a packet costs one look-up.
    """

    def __init__(self, source: Iterable[IPv4Network | IPv6Network], destination: Iterable[IPv4Network | IPv6Network]):
        self.pairs: dict[bytes, bool] = {}
        self.replace(source, destination)

    def replace(
        self, source: Iterable[IPv4Network | IPv6Network], destination: Iterable[IPv4Network | IPv6Network]
    ) -> None:
        """Hold to other subnets from now on."""
        source, destination = tuple(source), tuple(destination)
        self._source = {version: _Within(_ranges(source, version)) for version in (4, 6)}
        self._destination = {version: _Within(_ranges(destination, version)) for version in (4, 6)}
        self.pairs.clear()
        for table in self.__dict__.get("tables", ()):
            table[:] = bytes(len(table))

    @cached_property
    def tables(self) -> tuple[bytearray, bytearray]:
        """Some of the pairs that are allowed, for the compiled core: of IPv4, and of IPv6. They stay where they are."""
        return bytearray(_TABLE_BYTES), bytearray(_TABLE_BYTES)

    @classmethod
    def of_ranges(cls, source: Sequence[Range], destination: Sequence[Range]) -> Selectors:
        """Those of an SA, as ranges of addresses."""
        made = cls((), ())
        for version, octets in ((4, 4), (6, 16)):
            made._source[version] = _Within(one for one in source if len(one[0]) == octets)
            made._destination[version] = _Within(one for one in destination if len(one[0]) == octets)
        return made

    def allow(self, pair: bytes) -> bool:
        """Decide for a pair of addresses, and remember."""
        known = self.pairs.get(pair)
        if known is not None:
            return known
        half = len(pair) // 2
        version = 4 if half == 4 else 6
        inside = self._source[version](pair[:half]) and self._destination[version](pair[half:])
        if len(self.pairs) >= _PAIRS_MAX:
            self.pairs.clear()
        self.pairs[pair] = inside
        return inside

    def has_destination(self, address: bytes) -> bool:
        """Whether an address lies on the side that packets go to."""
        return self._destination[4 if len(address) == 4 else 6](address)


def _ranges(networks: Iterable[IPv4Network | IPv6Network], version: int) -> list[tuple[bytes, bytes]]:
    return [(n.network_address.packed, n.broadcast_address.packed) for n in networks if n.version == version]


class _Within:
    """Whether an address lies in any of some ranges: hundreds of them cost no more than a few."""

    def __init__(self, ranges: Iterable[tuple[bytes, bytes]]) -> None:
        self._lows: list[bytes] = []
        self._highs: list[bytes] = []
        for low, high in sorted(ranges):
            if self._highs and low <= self._highs[-1]:
                self._highs[-1] = max(self._highs[-1], high)
            else:
                self._lows.append(low)
                self._highs.append(high)

    def __call__(self, address: bytes) -> bool:
        at = bisect_right(self._lows, address)
        return at > 0 and address <= self._highs[at - 1]


def address_pair(packet: memoryview) -> bytes:
    """Source and destination address as they stand in the header; needs 20 (IPv4) or 40 (IPv6) bytes."""
    return bytes(packet[12:20]) if packet[0] >> 4 == 4 else bytes(packet[8:40])


def tos(packet: bytes | bytearray | memoryview, at: int = 0) -> int:
    """The TOS or traffic class octet: DSCP and ECN."""
    if packet[at] >> 4 == 4:
        return packet[at + 1]
    return (packet[at] & 0x0F) << 4 | packet[at + 1] >> 4


NOT_ECT, CE = 0, 3


def decapsulate_ecn(packet: memoryview, outer: int) -> bool:
    """Combine the outer ECN field into an inner packet, in place (RFC 6040 §4.2). False: it must be dropped."""
    inner = tos(packet) & 3
    outer &= 3
    if outer in (NOT_ECT, inner) or inner == CE or (outer, inner) == (2, 1):
        return True
    if inner == NOT_ECT:
        return outer != CE
    _set_ecn(packet, outer)
    return True


def mark_congestion(packet: memoryview) -> bool:
    """Mark a packet CE, in place (RFC 3168 §5). False: its sender does not understand that (Not-ECT)."""
    if tos(packet) & 3 == NOT_ECT:
        return False
    _set_ecn(packet, CE)
    return True


def _set_ecn(packet: memoryview, ecn: int) -> None:
    """Write the ECN field, and for IPv4 mend the header checksum (RFC 1624)."""
    if packet[0] >> 4 == 6:
        packet[1] = packet[1] & 0xCF | ecn << 4
        return
    old = packet[0] << 8 | packet[1]
    packet[1] = packet[1] & 0xFC | ecn
    total = (~(packet[10] << 8 | packet[11]) & 0xFFFF) + (~old & 0xFFFF) + (packet[0] << 8 | packet[1])
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    packet[10:12] = (~total & 0xFFFF).to_bytes(2, "big")
