"""Every reason for which fwd drops something, in one enum (rule 5: every drop has a name).

Each reason is a row: its index, what it counts, where, and a sentence. What it counts is one of

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
    """Why something was dropped; the value is its index in a process's drop counters. New rows go to the end."""

    unit: Unit  # what one count stands for
    stage: Stage  # where it is counted: the demux; a member on the way out, or in
    sentence: str

    def __new__(cls, index: int, unit: Unit, stage: Stage, sentence: str) -> DropReason:
        """Make a row: one without its unit, stage and sentence cannot be made."""
        row = int.__new__(cls, index)
        row._value_ = index
        row.unit, row.stage, row.sentence = unit, stage, sentence
        return row

    RECORD_MALFORMED = (
        0, "record", "demux",
        "Its length differs from its IP header's, it is no IP, or its virtio header or segments cannot be.",
    )  # fmt: skip
    RECORD_TOO_BIG = (
        1, "record", "demux",
        "It does not fit one ESP packet, or its packets do not fit the rows of a segment (payload esp).",
    )  # fmt: skip
    SELECTOR_OUT = 2, "record", "demux", "Its addresses are outside local_ts to remote_ts, or what the SA carries."
    NO_LIVE_MEMBER = 3, "record", "demux", "No member was alive to take it."
    RING_FULL = (
        4,
        "record",
        "demux",
        "The member's ring was full, and so was what may wait for it: it could not keep up.",
    )
    DIED_WITH_MEMBER = 5, "record", "outbound", "It was in the segment that a member held when it died."
    FAILED_SKIPPED = 6, "record", "outbound", "It waited in the ring of a member that had died too often."
    SA_EXHAUSTED = 7, "record", "outbound", "There was no SA to send it on, or the SA had no sequence number left."
    SEND_FAILED = 8, "esp", "outbound", "The socket refused to send the sealed packet."
    SOCKET_OVERFLOW = 9, "esp", "inbound", "The kernel's receive buffer was full before fwd read it (SO_RXQ_OVFL)."
    DIED_WITH_MEMBER_IN = 10, "esp", "inbound", "A member had taken it from the socket when it died."
    NOT_ESP = 11, "esp", "inbound", "It is shorter than any ESP packet, or its SPI is 0."
    KEEPALIVE = 12, "esp", "inbound", "It is a NAT keepalive, and carries nothing (RFC 3948, 2.3)."
    UNKNOWN_SPI = 13, "esp", "inbound", "No SA has its SPI."
    REPLAYED = 14, "esp", "inbound", "Its sequence number was seen before."
    TOO_OLD = 15, "esp", "inbound", "Its sequence number is left of the anti-replay window."
    BAD_ICV = 16, "esp", "inbound", "Its integrity check fails: forged, damaged, or of other keys."
    BAD_PADDING = 17, "esp", "inbound", "It authenticates, but its padding cannot be."
    BAD_NEXT_HEADER = 18, "esp", "inbound", "It authenticates, but its next header is none that the payload has."
    DUMMY = 19, "esp", "inbound", "It is a dummy packet, and carries nothing (next header 59, RFC 4303, 2.6)."
    BAD_FRAMING = 20, "esp", "inbound", "It authenticates, but its AGGFRAG header cannot be."
    HOLE = 21, "event", "inbound", "A packet of the record stream was given up as lost."
    BAD_STREAM = 22, "event", "inbound", "Record boundaries contradict each other; what they left unclear is given up."
    BAD_RECORD = (
        23, "record", "inbound",
        "Its virtio or IP header contradicts the record, or its segments are absurdly small.",
    )  # fmt: skip
    SELECTOR_IN = 24, "record", "inbound", "Its addresses are outside remote_ts to local_ts, or what the SA carries."
    ECN_CE_LOST = 25, "record", "inbound", "Its outer packet was marked CE, and it is Not-ECT (RFC 6040, 4.2)."
    TUN_REFUSED = 26, "record", "inbound", "The kernel refused the write to the TUN device."
    TUN_QUEUE_FULL = 27, "record", "demux", "The TUN device's queue was full before fwd read it (the kernel's count)."
    SA_EXPIRED = 28, "record", "outbound", "The life of the SA to send it on was over."
    SA_EXPIRED_IN = 29, "esp", "inbound", "The life of the SA that it came on was over."
    # What was lost to an exception that nobody has foreseen (datapath/barrier.py); the log has its traceback.
    INTERNAL_ERROR = 30, "record", "outbound", "A fault of fwd's own cost the burst on its way out; see the log."
    INTERNAL_ERROR_IN = 31, "esp", "inbound", "A fault of fwd's own cost the packets just taken; see the log."
    INTERNAL_ERROR_DELIVERY = 32, "record", "inbound", "A fault of fwd's own cost it when it was whole; see the log."
    BUCKETS_MOVED = 33, "record", "outbound", "It waited in a member's ring when the member's buckets went to others."
    # ICMP errors of routers outside the selectors, about packets of the peering (proto/icmp.py).
    ICMP_LIMIT_OUT = 34, "record", "demux", "It is an ICMP error of a router outside the selectors, over 100 a second."
    ICMP_LIMIT_IN = 35, "record", "inbound", "It is an ICMP error of a router outside the selectors, over 100 a second."

    BUCKETS_MOVED_IN = (
        36, "record", "inbound",
        "It lay unread while the member did not run, and its flow has gone on with another one.",
    )  # fmt: skip
    QUEUE_STANDS = (
        37, "record", "demux",
        "Its flow sends more than its member takes, its queue has stood for long, and it knows no ECN (RFC 8289).",
    )  # fmt: skip
    QUEUE_STANDS_SEGMENT = (
        38, "event", "demux",
        "As queue_stands, of a TCP super-packet: it lost its last segment, and went on.",
    )  # fmt: skip

    @property
    def label(self) -> str:
        """The name in status, metrics and logs."""
        return self.name.lower()


KERNEL_COUNTED = frozenset({DropReason.SOCKET_OVERFLOW, DropReason.TUN_QUEUE_FULL})
N_REASONS = len(DropReason)
