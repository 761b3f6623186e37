"""Which records a peering's payload can carry: their virtio headers, which the kernel wrote or somebody behind it.

The kernel hands on whatever a client or another peering's peer wrote to it (GSO_DODGY), a `gso_size` of 1 included. So
a record must not contradict itself, and each of its packets must fit a row. Senders use few shapes: one that was well
is remembered, with the length from which on it is. What is remembered is bounded: no flood of shapes makes it grow.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.drops import DropReason
from fwd.proto.ip import CSUM, RECORD_MAX, TSO4, TSO6, USO4, USO6, VNET_BYTES, record_fault
from fwd.proto.segments import PACKETS_MAX, START_MAX, TCP, packets_in

_SHAPES_MAX: Final = 1024
_TCP_GSO: Final = (1, 4)  # of a virtio header: a super-packet of TCP over IPv4, over IPv6


def keep(known: dict[bytes, int], name: bytes, value: int, most: int) -> None:
    """Remember something, and not more than `most`."""
    if len(known) >= most:
        known.clear()
    known[name] = value


class Shapes:
    """Judges the records that are read into one buffer, for one payload."""

    def __init__(self, record: memoryview, stride: int, rows: int, *, esp: bool) -> None:
        """`record` is the buffer; `stride` and `rows` are the ring's."""
        self._record = record
        self._esp = esp
        self._packets_max = min(PACKETS_MAX, rows)
        self.longest = stride - 2 if esp else RECORD_MAX  # octets of a packet that is not split
        self._offloads = CSUM | TSO4 | TSO6 | (0 if esp else USO4 | USO6)

        # Payload superpacket: all that is looked at of a TCP super-packet but its length, which may be longer at will.
        self._middle = record[VNET_BYTES + 6 : VNET_BYTES + 10]
        self._super_packets: dict[bytes, int] = {}
        # Payload esp completes checksums, which must fit. The demux itself looks here first.
        self.start = record[: VNET_BYTES + 1]
        self.checksums: dict[bytes, int] = {}

    def fault(self, size: int) -> DropReason | None:
        """Return why the record, an IP packet of `size`, cannot go; None: it can."""
        return self._packet_fault(size) if self._esp else self._record_fault(size)

    def _record_fault(self, size: int) -> DropReason | None:
        """Judge a record that goes as it is (payload superpacket)."""
        record = self._record
        shape = self.start.tobytes() + self._middle.tobytes()
        if size >= self._super_packets.get(shape, RECORD_MAX):
            return None
        if record_fault(record, size, self._offloads) is not None:
            return DropReason.RECORD_MALFORMED
        if record[1] & 0x7F in _TCP_GSO and (record[VNET_BYTES] >> 4 == 4 or record[VNET_BYTES + 6] == TCP):
            keep(self._super_packets, shape, size, _SHAPES_MAX)
        return None

    def _packet_fault(self, size: int) -> DropReason | None:
        """Judge a record each packet of which goes in a row of its own, with headers that a mark can tell (esp)."""
        record = self._record
        if record_fault(record, size, self._offloads) is not None:
            return DropReason.RECORD_MALFORMED
        if not record[1]:
            if size > self.longest:
                return DropReason.RECORD_TOO_BIG
            keep(self.checksums, self.start.tobytes(), size, _SHAPES_MAX)
            return None

        # A super-packet, which is split.
        start = record[6] | record[7] << 8
        header = start + (record[VNET_BYTES + start + 12] >> 4) * 4
        count = packets_in(record[: VNET_BYTES + size])
        if header < start + 20 or not count:
            return DropReason.RECORD_MALFORMED
        longest = size if count == 1 else header + (record[4] | record[5] << 8)
        if longest > self.longest or start > START_MAX or count > self._packets_max:
            return DropReason.RECORD_TOO_BIG
        return None
