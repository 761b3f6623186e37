"""What ESP packets carry, one payload a file: each packs a segment's records into packets, and takes opened rows apart.

    superpacket   records in AGGFRAG framing: a burst is one run of octets, whatever the lengths of its records
    esp           one IP packet in each row, as every IPsec peer has it

`Outbound` and `Inbound` know a payload by `PayloadOut` and `PayloadIn` alone, and which it is is decided here, once. A
payload knows the ring, the counters, the Delivery and fwd.proto; what it does with a burst are the stages of burst.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fwd.datapath.delivery import Delivery
from fwd.datapath.payloads.esp import EspIn, EspOut
from fwd.datapath.payloads.superpacket import SuperpacketIn, SuperpacketOut
from fwd.datapath.receiving import Receiving
from fwd.datapath.ring import Ring, Segment
from fwd.datapath.tuning import Tuning
from fwd.proto.esp import OutboundSa, Rows
from fwd.proto.ip import Selectors

Send = Callable[[int, int, int], None]  # octets that are sealed, of each packet but the last, and how many packets


class PayloadOut(Protocol):
    """Records of a segment → sealed packets. `fill`, `records` and `chunk` are the segment's fields (ring.py)."""

    tos_mask: int  # of the records' TOS octet, what outer packets have

    def packets(self, fill: int, chunk: int) -> int:
        """Return how many packets a segment makes."""

    def keep(self, segment: Segment, fill: int, records: int, chunk: int, held: Selectors) -> tuple[int, int]:
        """Take out what these selectors do not carry; returns what is left of `fill` and `records`."""

    def heads(self, segment: Segment, records: int, chunk: int) -> bytes:
        """Return what tells the far member of super-packets' headers once more (heads.py), if there are any."""

    def seal(
        self, sa: OutboundSa, number: int, segment: Segment, index: int, fill: int, records: int, chunk: int
    ) -> int:
        """Seal segment `index` of the ring with numbers from `number` on, and send it; returns its octets as IP."""

    def forget(self) -> None:
        """Make framing and tables anew with the next segment, after an exception: one of them may be half written."""


class PayloadIn(Protocol):
    """Opened rows → records or packets for the TUN device. Rows are opened into `rows`."""

    rows: Rows
    heard_records: bool  # set by records, cleared by the member: a path that carries them works

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the rows is still needed."""

    def lay_out(self, stride: int) -> None:
        """Make rows for packets of another size."""

    @property
    def patience_s(self) -> float:
        """After how long without packets to call `expire`; infinite: nothing waits for others."""

    def room(self, count: int) -> int:
        """Return the first of `count` rows that may be opened into."""

    def begin(self, spi: int, tuning: Tuning, floor: int) -> None:
        """Expect rows of an SA from now on, behind number `floor`."""

    def end(self, spi: int) -> None:
        """Expect no more rows of an SA, and drop what it has not finished."""

    def tune(self, tuning: Tuning) -> None:
        """Follow what is in force now."""

    def take_run(
        self, sa: Receiving, numbers: Sequence[int], first: int, short: Sequence[tuple[int, int]], tos: int, now: float
    ) -> None:
        """Take authentic rows of one SA, which lie from row `first` on; a number of 0 is of one that was refused.

        `short` is as in burst.py, `tos` the outer TOS octet of all of them.
        """

    def take_row(self, sa: Receiving, number: int, row: memoryview, first: int, tos: int, now: float) -> None:
        """Take one authentic row: row `first`, or, if that is -1, one in memory of its own."""

    def expire(self, sas: Mapping[int, Receiving], now: float) -> None:
        """Give up what has waited too long for its missing parts."""

    def flush(self) -> None:
        """Write what was kept for others to join it: a batch ends."""

    def forget(self) -> None:
        """Drop all that waits."""


def payload_out(name: str, ring: Ring, out: bytearray, send: Send) -> PayloadOut:
    """Make a peering's payload on the way out: segments of this ring are sealed into `out`, which `send` then sends."""
    return EspOut(ring, out, send) if name == "esp" else SuperpacketOut(ring, out, send)


def payload_in(
    name: str, delivery: Delivery, counters: array[int], on_echo: Callable[[int, int], None], stride: int
) -> PayloadIn:
    """Make a peering's payload on the way in, for rows of `stride` octets; echoes go to `on_echo(sub-type, number)`."""
    made = EspIn if name == "esp" else SuperpacketIn
    return made(delivery, counters, on_echo, stride)
