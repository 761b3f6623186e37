"""TCP super-packets and the packets of one burst (payload esp): split before they are sealed, joined after opening.

The kernel does the same with segmentation and receive offload; here it is done for a whole burst at a time, over rows
of one buffer, `stride` apart, with one packet in each. `split` makes packets of what the demux cut into rows. `joined`
finds runs of rows that one super-packet can stand for, and `super_packet` writes its header: only consecutive data of
one stream, with equal headers and right checksums, so that splitting them again gives the same packets (RFC 9293;
checksums: RFC 1071). Refused, and so left single: IPv4 options, fragments, whatever is not plain ACK and data, IPv6.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fwd.proto.esp import NEXT_IPV4, PADDING, TRAILER_BYTES
from fwd.proto.ip import NEEDS_CSUM, TCP_SEGMENT_MIN, UDP_SEGMENT_MIN, VNET_BYTES, ip_length

Words = npt.NDArray[Any]

_FIN_PSH, _PSH, _ACK, _CWR = 0x09, 0x08, 0x10, 0x80
_GSO_TCP4, _GSO_TCP6 = 1, 4
_TCP, _TCP_CSUM = 6, 16
_IP4 = 20
_HEADER_MAX = 60 + _IP4
_DF = 0x40
_PAD_MAX = 3  # what alignment needs; more is traffic-flow padding, and rare
_VNET = struct.Struct("<BBHHHH")
# Octets of IPv4 and TCP header that are equal in all packets of a super-packet: all but length, identification and
# checksums, sequence number and flags, which are looked at by themselves.
_EQUAL: Final = [0, 1, 6, 7, 8, 9, *range(12, 24), *range(28, 33), 34, 35, 38, 39]


def checksum(octets: memoryview | bytes, start: int = 0) -> int:
    """Internet checksum of `octets`, continuing from the sum `start` (RFC 1071): sums modulo 2^16 - 1."""
    return 0xFFFF - _sum(octets, start)


def _sum(octets: memoryview | bytes, start: int = 0) -> int:
    total = int.from_bytes(octets, "big")
    return ((total << 8 if len(octets) & 1 else total) + start) % 0xFFFF


def complete_checksum(packet: memoryview, start: int, offset: int) -> None:
    """Finish what the kernel left to the device: the field holds the sum of the pseudo-header only."""
    at = start + offset
    packet[at : at + 2] = checksum(packet[start:]).to_bytes(2, "big")


SUPER_PACKET_MAX: Final = 65535
PACKETS_MAX: Final = 127  # of one super-packet: what a mark can say
START_MAX: Final = 0xFF  # of the transport header: likewise
_MARK_UDP = 0x80
_UDP_CSUM = 6


def packet_mark(count: int, start: int, offset: int) -> int:
    """16 bits that tell what a row, the first of `count`, still lacks: checksum and headers. 0: they cannot tell."""
    if start > START_MAX or count > PACKETS_MAX or offset not in (_TCP_CSUM, _UDP_CSUM):
        return 0
    return start << 8 | (_MARK_UDP if offset == _UDP_CSUM else 0) | count


def rows_of_mark(mark: int) -> int:
    """How many rows the packet or super-packet has whose first row has this mark."""
    return max(1, mark & PACKETS_MAX)


def lay_packet(
    record: memoryview, octets: Words, length: int, count: int, rows: memoryview, grid: Words, words: Words, first: int
) -> None:  # fmt: skip
    """Lay the packet of a record into row `first`, or the payload of a super-packet over `count` rows from there on.

    `octets` is the record, and `grid` the rows, as arrays. Each row's length goes to `words`, above the first one's
    the mark that tells what is still to be done. The headers of a super-packet stay with its first row: without a mark
    the other rows would keep what lay there before, so whoever reads the records refuses those that no mark can tell.
    """
    # What the mark cannot tell is completed here.
    stride = grid.shape[1]
    at, mark, start = first * stride, 0, 0
    if record[0] & NEEDS_CSUM:
        start, offset = record[6] | record[7] << 8, record[8] | record[9] << 8
        mark = packet_mark(count, start, offset)
        if not mark:
            complete_checksum(record[VNET_BYTES:length], start, offset)
    if count == 1:
        rows[at : at + length - VNET_BYTES] = record[VNET_BYTES:length]
        words[first] = mark << 16 | (length - VNET_BYTES)
        return

    # Each packet of a super-packet has its payload in a row of its own, behind room for its headers.
    assert mark, "rows without headers of their own"
    size = record[4] | record[5] << 8
    header = start + (record[VNET_BYTES + start + 12] >> 4) * 4
    whole = count - 1
    end = VNET_BYTES + header + whole * size
    rows[at : at + header] = record[VNET_BYTES : VNET_BYTES + header]
    grid[first : first + whole, header : header + size] = octets[VNET_BYTES + header : end].reshape(whole, size)
    last = at + whole * stride + header
    rows[last : last + length - end] = record[end:length]
    words[first : first + whole] = header + size
    words[first + whole] = header + length - end
    words[first] = mark << 16 | (header + size)


def complete(grid: Grid, first: int, mark: int, lengths: Words) -> int:
    """Do what the mark of row `first` tells; `lengths` are those of the rows from it on. Returns how many it covers."""
    start, count = mark >> 8, mark & PACKETS_MAX
    if count > 1:
        split(grid, first, count, start, lengths[:count])
    else:
        at = first * grid.stride
        packet = memoryview(grid.buffer)[at : at + int(lengths[0])]
        complete_checksum(packet, start, _UDP_CSUM if mark & _MARK_UDP else _TCP_CSUM)
    return count


class Grid:
    """`rows` rows of `stride` (even) octets as matrices of octets and of 16-bit words in the machine's own order."""

    def __init__(self, buffer: bytearray | memoryview, rows: int, stride: int) -> None:
        self.buffer = buffer
        self.stride = stride
        self.octets: npt.NDArray[np.uint8] = np.frombuffer(buffer, np.uint8)[: rows * stride].reshape(rows, stride)
        self.words: npt.NDArray[np.uint16] = self.octets.view(np.uint16)
        self.index: npt.NDArray[np.uint32] = np.arange(rows, dtype=np.uint32)

    def column(self, kind: str, first: int, rows: int, offset: int) -> Words:
        """One field of `rows` rows from `first` on, say ">u2" at `offset`."""
        return np.ndarray((rows,), kind, self.buffer, first * self.stride + offset, (self.stride,))

    def sums(self, first: int, rows: int, start: int, end: int) -> Words:
        """Big-endian 16-bit sums, folded, of octets `start` (even) to `end` of each row."""
        total = np.add.reduce(self.words[first : first + rows, start // 2 : end // 2], axis=1, dtype=np.uint32)
        if end & 1:
            total += self.octets[first : first + rows, end - 1]
        total = _folded(total)
        return (total & 0xFF) << 8 | total >> 8


def _folded(total: Words) -> Words:
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def split(grid: Grid, first: int, rows: int, start: int, lengths: Words) -> None:
    """Give each of `rows` rows from `first` on its own header, from that of the super-packet in the first.

    `start` is where TCP begins; `lengths` are those of the packets, all equal but the last. The payload is in place.
    """
    end, octets = first + rows, grid.octets
    header = start + (int(octets[first, start + 12]) >> 4) * 4
    head = octets[first, :header].tobytes()
    full, last = int(lengths[0]), int(lengths[-1])
    index = grid.index[:rows]
    octets[first + 1 : end, :header] = octets[first, :header]
    lengths = lengths.astype(np.uint32)

    # IP: each packet has its own length, and in IPv4 its own identification and checksum.
    if head[0] >> 4 == 4:
        identity = (head[4] << 8 | head[5]) + index & 0xFFFF
        base = _sum(head[:2] + head[6:10] + head[12:start])
        grid.column(">u2", first, rows, 2)[:] = lengths
        grid.column(">u2", first, rows, 4)[:] = identity
        grid.column(">u2", first, rows, 10)[:] = 0xFFFF - _folded(lengths + identity + base)
        pseudo = _sum(head[12:20], _TCP)
    else:
        grid.column(">u2", first, rows, 4)[:] = lengths - 40
        pseudo = _sum(head[8:40], _TCP)

    # TCP: sequence numbers go on; FIN and PSH belong to the last, CWR to the first.
    sequence = int.from_bytes(head[start + 4 : start + 8], "big")
    grid.column(">u4", first, rows, start + 4)[:] = index * np.uint32(full - header) + np.uint32(sequence)
    flags = octets[first:end, start + 13]
    flags[:-1] &= 0xFF - _FIN_PSH
    flags[1:] &= 0xFF - _CWR

    # Checksums at last, over what stands there by now.
    field = grid.column(">u2", first, rows, start + _TCP_CSUM)
    field[:] = 0
    sums = grid.sums(first, rows, start, full)
    sums[-1] = _sum(octets[end - 1, start:last].tobytes())
    field[:] = 0xFFFF - _folded(sums + (lengths - start) + pseudo)


def joined(grid: Grid, first: int, rows: int, row_lengths: Words) -> list[tuple[int, int]]:
    """Runs of the `rows` rows from `first` on, as (start, end), that together are all of them; most are one row long
    where traffic is mixed. `row_lengths`: those of the opened rows, padding and trailer included.
    """
    octets = grid.octets[first : first + rows]
    length = grid.column(">u2", first, rows, 2).astype(np.uint32)
    header = _IP4 + (octets[:, 32] >> 4).astype(np.uint32) * 4
    flags = octets[:, 33]
    payload = length - header

    # What may be joined at all: TCP over IPv4 without options, with data, and no flag but ACK and PSH.
    plain = (
        (octets[:, 0] == 0x45)
        & (octets[:, 6] == _DF)
        & (octets[:, 7] == 0)
        & (octets[:, 9] == _TCP)
        & (flags & (0xFF - _PSH) == _ACK)
        & (length > header)
        & (length + TRAILER_BYTES <= row_lengths)
        & (header >= 2 * _IP4)
        & (header <= _HEADER_MAX)
    )

    # A row follows the one before if it goes on in sequence, and is no longer.
    follows = (payload[1:] <= payload[:-1]) & (payload[:-1] >= TCP_SEGMENT_MIN)
    follows[1:] &= ~(payload[1:-1] < payload[:-2])  # a shorter one is the last
    follows &= plain[1:] & plain[:-1] & (flags[:-1] & _PSH == 0)
    sequence = grid.column(">u4", first, rows, 24)
    follows &= sequence[1:] == sequence[:-1] + payload[:-1]
    if not follows.any():
        return [(i, i + 1) for i in range(rows)]

    # Both must have the same headers but for what differs from packet to packet, and good checksums.
    like = int(follows.argmax())
    options_end = int(header[like])
    heads = octets[:, [*_EQUAL, *range(2 * _IP4, options_end)]]
    follows &= (header[1:] == options_end) & (heads[1:] == heads[:-1]).all(axis=1)
    good = _sound(grid, first, rows, length, row_lengths, like)
    follows &= good[1:] & good[:-1]
    starts = [0, *(np.flatnonzero(~follows) + 1).tolist(), rows]
    return list(itertools.pairwise(starts))


def _sound(grid: Grid, first: int, rows: int, length: Words, row_lengths: Words, like: int) -> npt.NDArray[np.bool_]:
    """Whether checksums, padding and next header of each row are right; of those as long as row `like`, all at once."""
    octets = grid.octets[first : first + rows]
    usual, usual_row = int(length[like]), int(row_lengths[like])
    pad = usual_row - TRAILER_BYTES - usual
    if not 0 <= pad <= _PAD_MAX or usual < 2 * _IP4:
        return np.zeros(rows, np.bool_)
    padding = octets[:, usual : usual_row - TRAILER_BYTES]
    pseudo = grid.sums(first, rows, 12, _IP4) + _TCP + (length - _IP4)
    good: npt.NDArray[np.bool_] = (
        (length == usual)
        & (row_lengths == usual_row)
        & (octets[:, usual_row - 1] == NEXT_IPV4)
        & (octets[:, usual_row - 2] == pad)
        & (padding == np.frombuffer(PADDING[:pad], np.uint8)).all(axis=1)
        & (grid.sums(first, rows, 0, _IP4) % 0xFFFF == 0)
        & ((grid.sums(first, rows, _IP4, usual) + pseudo) % 0xFFFF == 0)
    )
    for i in np.flatnonzero((length != usual) | (row_lengths != usual_row)).tolist():
        good[i] = _sound_alone(octets[i, : int(row_lengths[i])].tobytes(), int(length[i]))
    return good


def _sound_alone(row: bytes, length: int) -> bool:
    """Whether one row can be part of a super-packet, as far as itself tells."""
    pad = len(row) - TRAILER_BYTES - length
    if not 0 <= pad <= _PAD_MAX or length < 2 * _IP4:
        return False
    tail = PADDING[:pad] + bytes([pad, NEXT_IPV4])
    return (
        row[length:] == tail
        and _sum(row[:_IP4]) == 0
        and _sum(row[_IP4:length], _sum(row[12:_IP4], _TCP + length - _IP4)) == 0
    )


def packets_in(record: memoryview) -> int:
    """Packets that the TCP super-packet in `record` (a TUN device's) makes; 0: it is none that `split` knows."""
    if record[1] & 0x7F not in (_GSO_TCP4, _GSO_TCP6):
        return 0
    start, segment = record[6] | record[7] << 8, record[4] | record[5] << 8
    header = start + (record[VNET_BYTES + start + 12] >> 4) * 4
    payload = len(record) - VNET_BYTES - header
    return -(-payload // segment) if segment and payload > 0 else 0


def tcp_layout(record: bytes) -> tuple[int, int]:
    """Octets before the payload of a TCP super-packet in a record, virtio header included, and of each segment.

    (0, 0) when the start of a record, which `record` is, shows no such super-packet.
    """
    if len(record) < VNET_BYTES + _IP4 or record[1] & 0x7F not in (_GSO_TCP4, _GSO_TCP6):
        return 0, 0
    start, segment = VNET_BYTES + (record[6] | record[7] << 8), record[4] | record[5] << 8
    if segment < TCP_SEGMENT_MIN or start < VNET_BYTES + _IP4 or len(record) < start + _IP4:
        return 0, 0
    header = start + (record[start + 12] >> 4) * 4
    return (header, segment) if start + _IP4 <= header <= len(record) else (0, 0)


def part_header(record: bytes, first: int, payload: int, *, last: bool) -> bytes:
    """Headers for a part of the TCP super-packet that `record` begins: `payload` octets from segment `first` on.

    `last`: its end is the super-packet's. Needs what `tcp_layout` has found.
    """
    header, segment = tcp_layout(record)
    head = bytearray(record[:header])
    at, start = VNET_BYTES, VNET_BYTES + (record[6] | record[7] << 8)
    length = header - VNET_BYTES + payload

    # IP: its length, and in IPv4 identification and checksum.
    if head[at] >> 4 == 4:
        head[at + 2 : at + 4] = length.to_bytes(2, "big")
        head[at + 4 : at + 6] = ((head[at + 4] << 8 | head[at + 5]) + first & 0xFFFF).to_bytes(2, "big")
        head[at + 10 : at + 12] = b"\0\0"
        head[at + 10 : at + 12] = checksum(bytes(head[at:start])).to_bytes(2, "big")
        addresses = bytes(head[at + 12 : at + 20])
    else:
        head[at + 4 : at + 6] = (length - 40).to_bytes(2, "big")
        addresses = bytes(head[at + 8 : at + 40])

    # TCP: where the part begins, and the flags of the first and the last.
    sequence = int.from_bytes(head[start + 4 : start + 8], "big") + first * segment
    head[start + 4 : start + 8] = (sequence & 0xFFFFFFFF).to_bytes(4, "big")
    if first:
        head[start + 13] &= 0xFF - _CWR
    if not last:
        head[start + 13] &= 0xFF - _FIN_PSH

    # The kernel completes the checksum from the sum over the pseudo-header.
    check = start + _TCP_CSUM
    head[check : check + 2] = _sum(addresses, _TCP + VNET_BYTES + length - start).to_bytes(2, "big")
    if payload <= segment:
        head[1:6] = bytes(5)  # one packet is no super-packet
    return bytes(head)


def rest_of(record: bytes, at: int) -> tuple[int, bytes]:
    """Return how far behind octet `at` of a TCP super-packet a segment begins, and headers for all from there on.

    `record` is its start, headers and all. (0, nothing) when it is no such super-packet, or nothing whole is behind.
    """
    header, segment = tcp_layout(record)
    if not header:
        return 0, b""
    skipped = max(0, -(-(at - header) // segment))
    begins = header + skipped * segment
    payload = VNET_BYTES + ip_length(record, VNET_BYTES) - begins
    return (begins - at, part_header(record, skipped, payload, last=True)) if payload > 0 else (0, b"")


TCP: Final = 6
UDP: Final = 17
_GSO_UDP_L4 = 5
_UDP_HEADERS = VNET_BYTES + _IP4 + 8


_UDP_CSUM_PLACE = struct.pack("<HH", _IP4, _UDP_CSUM)


def _sound_datagram(record: memoryview) -> bool:
    """Whether IPv4 header and UDP checksum, which must be there, are right, or the part that a device completes."""
    packet = record[VNET_BYTES:]
    if _sum(packet[:_IP4]):
        return False
    pseudo = _sum(packet[12:_IP4], UDP + len(packet) - _IP4)
    if record[0] == NEEDS_CSUM:
        return (packet[26] << 8 | packet[27]) % 0xFFFF == pseudo
    return bool(packet[26] | packet[27]) and not _sum(packet[_IP4:], pseudo)


class Datagrams:
    """Consecutive small UDP datagrams of one flow and one length, to be written as one super-packet.

    Records of whole IPv4 datagrams without options that differ in identification and checksum alone. DF must be set:
    splitting numbers them anew, which matters to nobody if they cannot become fragments (RFC 6864 §4.1). Checksums,
    or what stands there for the device to complete, must be right: splitting computes them anew.
    """

    MAX: Final = 64
    LENGTH_MAX: Final = 600
    HEADERS: Final = _UDP_HEADERS

    def __init__(self, record: memoryview) -> None:
        """`record` must be `fit`."""
        self.headers = headers = record[:_UDP_HEADERS].tobytes()
        self._before_identity, self._before_checksum, self._length = headers[:14], headers[16:20], headers[34:36]
        self.octets = len(record) - VNET_BYTES  # of each, as an IP packet
        self.payloads = [record[_UDP_HEADERS:].tobytes()]

    @staticmethod
    def fit(record: memoryview) -> bool:
        """Whether this record, of a UDP datagram, may be joined with others."""
        at = VNET_BYTES
        if record[at] != 0x45 or not _UDP_HEADERS + UDP_SEGMENT_MIN <= len(record) <= Datagrams.LENGTH_MAX:
            return False
        length = len(record) - at - _IP4
        if record[1] or record[at + 6] != _DF or record[at + 7] or record[at + 24] << 8 | record[at + 25] != length:
            return False
        if record[0] and (record[0] != NEEDS_CSUM or record[6:10] != _UDP_CSUM_PLACE):
            return False
        return _sound_datagram(record)

    def take(self, record: memoryview, headers: bytes) -> bool:
        """Add a record with these first HEADERS octets, if it is like the others."""
        payloads = self.payloads
        if (
            headers[:14] != self._before_identity
            or headers[16:20] != self._before_checksum
            or headers[34:36] != self._length
            or len(payloads) == Datagrams.MAX
            or not _sound_datagram(record)
        ):
            return False
        payloads.append(record[_UDP_HEADERS:].tobytes())
        return True

    def pieces(self) -> list[bytes]:
        """The super-packet, or the one record as it came."""
        payloads = self.payloads
        if len(payloads) == 1:
            return [self.headers, payloads[0]]
        octets = len(payloads) * len(payloads[0])
        head = bytearray(self.headers[VNET_BYTES:])
        head[2:4] = (_IP4 + 8 + octets).to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = checksum(bytes(head[:_IP4])).to_bytes(2, "big")
        head[24:26] = (8 + octets).to_bytes(2, "big")
        head[26:28] = _sum(bytes(head[12:_IP4]), UDP + 8 + octets).to_bytes(2, "big")
        vnet = _VNET.pack(NEEDS_CSUM, _GSO_UDP_L4, _IP4 + 8, len(payloads[0]), _IP4, _UDP_CSUM)
        return [vnet + head, *payloads]


def super_packet(rows: Sequence[memoryview]) -> list[memoryview | bytes]:
    """Virtio header and headers of the super-packet that stands for these packets, and their payloads behind it."""
    first, last = rows[0], rows[-1]
    header = _IP4 + (first[32] >> 4) * 4
    segment = (first[2] << 8 | first[3]) - header
    tail = (last[2] << 8 | last[3]) - header
    length = header + segment * (len(rows) - 1) + tail
    head = bytearray(first[:header])
    head[2:4] = length.to_bytes(2, "big")
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head[:_IP4])).to_bytes(2, "big")
    head[33] |= last[33] & _PSH
    at = _IP4 + _TCP_CSUM
    head[at : at + 2] = _sum(bytes(head[12:_IP4]), _TCP + length - _IP4).to_bytes(2, "big")
    vnet = _VNET.pack(NEEDS_CSUM, _GSO_TCP4, header, segment, _IP4, _TCP_CSUM)
    end = header + segment
    return [vnet + head, *[row[header:end] for row in rows[:-1]], last[header : header + tail]]
