"""A TCP super-packet loses its last segment: what tells its sender of a queue that stands, and costs no more than that.

To lose all of a super-packet would be to send some forty segments again for one word. What is left is a super-packet
that a kernel would have made of less payload: IP length (RFC 791, RFC 8200), header checksum (RFC 1624), and the sum
over the pseudo-header that stands in the TCP checksum's place. Not cut: what is no TCP super-packet or has flags that
belong to its end, and what would have fewer than two segments left.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.ip import VNET_BYTES

_TCP_GSO: Final = (1, 4)  # of a virtio header, but for its ECN bit
_ENDS: Final = 0x27  # FIN, SYN, RST, URG


def cut_segment(record: memoryview, length: int) -> int:
    """Cut the last segment off a record of `length` octets, in place; returns how many are left: all, if it cannot be.

    The record has been looked at (ip.record_fault).
    """
    if record[1] & 0x7F not in _TCP_GSO:
        return length
    size, tcp = record[4] | record[5] << 8, VNET_BYTES + (record[6] | record[7] << 8)
    payload = length - tcp - (record[tcp + 12] >> 4) * 4
    whole = (payload - 1) // size
    if whole < 2 or record[tcp + 13] & _ENDS:
        return length

    # The lengths; in IPv4 the header's checksum follows its own. Sums are of ones' complement.
    gone = payload - whole * size
    at = VNET_BYTES + (2 if record[VNET_BYTES] >> 4 == 4 else 4)
    _subtract(record, at, gone)
    if record[VNET_BYTES] >> 4 == 4:
        _add(record, VNET_BYTES + 10, gone)  # of the complement of what is summed
    _add(record, tcp + 16, 0xFFFF - gone)
    return length - gone


def _subtract(record: memoryview, at: int, value: int) -> None:
    record[at : at + 2] = (int.from_bytes(record[at : at + 2], "big") - value).to_bytes(2, "big")


def _add(record: memoryview, at: int, value: int) -> None:
    total = int.from_bytes(record[at : at + 2], "big") + value
    record[at : at + 2] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")
