"""Every reason for which fwd drops something, in one enum (design rule 5: every drop has a name).

Each reason says what it counts:

* `record`: one read or write of the TUN device (one IP packet, up to 64 KiB),
* `esp`: one ESP packet,
* `event`: something that loses an unknown number of records (a hole in a burst).

Sums over reasons of one unit keep the books: within a gateway, records in = records out + record drops;
ESP packets received = ESP packets accepted + ESP drops. `socket_overflow` and `tun_queue_full` are the
kernel's own counts: what they count never reached fwd, so they stand outside those sums.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

Unit = Literal["record", "esp", "event"]
Stage = Literal["demux", "outbound", "inbound"]


class DropReason(IntEnum):
    """Why something was dropped; the value is its index in a process's drop counters."""

    # Outward, in the demux: records that came from the TUN device.
    RECORD_MALFORMED = 0  # length differs from the IP header's, is not IP, or virtio header and segments cannot be
    RECORD_TOO_BIG = 1  # does not fit one ESP packet, or its packets the rows of a segment (payload `esp`)
    SELECTOR_OUT = 2  # inner addresses outside local_ts → remote_ts
    NO_LIVE_MEMBER = 3
    RING_FULL = 4
    # Outward, in a member.
    DIED_WITH_MEMBER = 5  # records of the segment a member held when it died
    FAILED_SKIPPED = 6  # records that waited in the ring while the member was `failed`
    SA_EXHAUSTED = 7  # records refused because the SA's sequence numbers are used up, or there is no SA
    SEND_FAILED = 8  # ESP packets sealed but refused by the socket
    # Inward, in a member: ESP packets.
    SOCKET_OVERFLOW = 9  # kernel buffers dropped before fwd read them (SO_RXQ_OVFL)
    DIED_WITH_MEMBER_IN = 10  # ESP packets that a member had taken when it died
    NOT_ESP = 11  # shorter than any ESP packet, or SPI 0
    KEEPALIVE = 12  # NAT keepalive, RFC 3948 §2.3
    UNKNOWN_SPI = 13
    REPLAYED = 14
    TOO_OLD = 15  # left of the anti-replay window
    BAD_ICV = 16
    BAD_PADDING = 17
    BAD_NEXT_HEADER = 18
    DUMMY = 19  # next header 59, RFC 4303 §2.6
    BAD_FRAMING = 20  # AGGFRAG header that cannot be
    # Inward, in a member: records.
    HOLE = 21  # a packet of the record stream given up as lost
    BAD_STREAM = 22  # record boundaries contradict each other; what they left unclear is given up
    BAD_RECORD = 23  # virtio or IP header contradicts the record, or its segments are absurdly small
    SELECTOR_IN = 24
    ECN_CE_LOST = 25  # outer CE on an inner Not-ECT packet, RFC 6040 §4.2
    TUN_REFUSED = 26  # write to the TUN device failed
    # The kernel's, on the way to the demux.
    TUN_QUEUE_FULL = 27
    # In a member: the life of the SA is over (life_time, life_packets, life_bytes).
    SA_EXPIRED = 28  # records that could not be sent
    SA_EXPIRED_IN = 29  # ESP packets that came on it
    # What was lost to an exception that nobody has foreseen (datapath/barrier.py); the log has its traceback.
    INTERNAL_ERROR = 30  # records on the way out
    INTERNAL_ERROR_IN = 31  # ESP packets taken from the socket
    INTERNAL_ERROR_DELIVERY = 32  # records found whole
    # Outward, in a member.
    BUCKETS_MOVED = 33  # records that waited in its ring, or were being sealed, when its buckets went to others
    # ICMP errors of routers outside the selectors, about packets of the peering: more than may pass (proto/icmp.py).
    ICMP_LIMIT_OUT = 34  # in the demux
    ICMP_LIMIT_IN = 35  # in a member

    @property
    def label(self) -> str:
        """The name in status, metrics and logs."""
        return self.name.lower()

    @property
    def unit(self) -> Unit:
        """What one count stands for."""
        if self in (DropReason.HOLE, DropReason.BAD_STREAM):
            return "event"
        return "esp" if self in _ESP_UNIT else "record"

    @property
    def stage(self) -> Stage:
        """Where it is counted."""
        if self <= DropReason.RING_FULL or self in (DropReason.TUN_QUEUE_FULL, DropReason.ICMP_LIMIT_OUT):
            return "demux"
        outward = (DropReason.SA_EXPIRED, DropReason.INTERNAL_ERROR, DropReason.BUCKETS_MOVED)
        return "outbound" if self <= DropReason.SEND_FAILED or self in outward else "inbound"


_ESP_UNIT = frozenset(
    {
        DropReason.SEND_FAILED,
        DropReason.SA_EXPIRED_IN,
        DropReason.INTERNAL_ERROR_IN,
        *(r for r in DropReason if DropReason.SOCKET_OVERFLOW <= r <= DropReason.BAD_FRAMING),
    }
)
KERNEL_COUNTED = frozenset({DropReason.SOCKET_OVERFLOW, DropReason.TUN_QUEUE_FULL})
N_REASONS = len(DropReason)
