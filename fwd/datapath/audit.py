"""The audit log of ESP (RFC 4303 §4): which packet was refused, on which SA, from whom.

| event | when | section |
|---|---|---|
| audit.no_sa | a packet for an SPI that no SA has | RFC 4303 §3.4.2 |
| audit.replayed | a number seen before, or left of the window | RFC 4303 §3.4.3 |
| audit.bad_icv | the integrity check fails | RFC 4303 §3.4.4 |
| audit.sequence_overflow | something is to be sent, and the SA has no number left | RFC 4303 §3.3.3 |
| audit.selectors | inner addresses that this SA does not carry | RFC 4301 §5.2 |
| audit.icmp_refused | on the way out, an ICMP error about no packet of the peering | RFC 4301 §6.2 |

RFC 4303's remaining event, a fragment offered to ESP, cannot be: the kernel puts UDP datagrams together before fwd has
them. A process tells each event at most once in EVERY_S; how many it did not tell comes with the next, or alone when
no more follow. Nothing here is called for a packet that is accepted.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from enum import Enum
from ipaddress import ip_address
from typing import Final

from fwd.proto import logged

EVERY_S: Final = 1.0
_FLOW_LABEL = 0xFFFFF
Address = tuple[str, int]

log = logging.getLogger(__name__)


class Event(Enum):
    """What is told; the value is its name in the log."""

    NO_SA = "audit.no_sa"
    REPLAYED = "audit.replayed"
    BAD_ICV = "audit.bad_icv"
    SEQUENCE_OVERFLOW = "audit.sequence_overflow"
    SELECTORS = "audit.selectors"
    ICMP_REFUSED = "audit.icmp_refused"


_TEXTS = {
    Event.NO_SA: "no SA for a received packet",
    Event.REPLAYED: "a received packet fails the anti-replay check",
    Event.BAD_ICV: "a received packet fails the integrity check",
    Event.SEQUENCE_OVERFLOW: "the SA's sequence numbers are used up, nothing is sent",
    Event.SELECTORS: "a received packet's inner addresses are not of this SA",
    Event.ICMP_REFUSED: "an ICMP error about no packet of the peering is not sent",
}


class Audit:
    """One process's audit log. `local` is its own outer address; not `wanted`: it tells nothing."""

    def __init__(self, local: Address, *, wanted: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._local = local
        self._clock = clock
        self._wanted = wanted
        self._due = dict.fromkeys(Event, 0.0 if wanted else float("inf"))
        self._suppressed = dict.fromkeys(Event, 0)

    def want(self, wanted: bool) -> None:
        """Tell from now on, or tell nothing."""
        if wanted != self._wanted:
            self._wanted = wanted
            self._due = dict.fromkeys(Event, 0.0 if wanted else float("inf"))
            self._suppressed = dict.fromkeys(Event, 0)

    def received(
        self, event: Event, spi: int, number: int, sender: Address, flow_info: int = 0, count: int = 1
    ) -> None:
        """Packet `number` from `sender` was refused, and `count` - 1 more behind it."""
        if self._is_due(event, count):
            self._write(event, _packet(spi, number, sender, self._local, flow_info))

    def not_sent(self, spi: int, number: int, peer: Address) -> None:
        """The SA has sent its last packet, `number`, and there is another one."""
        if self._is_due(Event.SEQUENCE_OVERFLOW, 1):
            self._write(Event.SEQUENCE_OVERFLOW, _packet(spi, number, self._local, peer, 0))

    def stranger(self, spi: int, pair: bytes, sender: Address, count: int) -> None:
        """An opened packet had these inner addresses, source and destination; `count` had."""
        if self._is_due(Event.SELECTORS, count):
            outer = {"source": sender[0], "destination": self._local[0]}
            self._write(Event.SELECTORS, {"spi": f"{spi:#010x}", **_inner(pair), **outer})

    def icmp_refused(self, pair: bytes) -> None:
        """An ICMP error with these addresses, source and destination, is not sent."""
        if self._is_due(Event.ICMP_REFUSED, 1):
            self._write(Event.ICMP_REFUSED, _inner(pair))

    def tick(self) -> None:
        """Tell how many were not told, once that is due."""
        for event, count in self._suppressed.items():
            if count and self._is_due(event, 0):
                self._write(event, {})

    def _is_due(self, event: Event, count: int) -> bool:
        """Whether to tell now; `count` packets are told by it, or counted."""
        now = self._clock()
        if now < self._due[event]:
            self._suppressed[event] += count
            return False
        self._suppressed[event] += max(0, count - 1)
        self._due[event] = now + EVERY_S
        return True

    def _write(self, event: Event, fields: dict[str, object]) -> None:
        if suppressed := self._suppressed[event]:
            fields["suppressed"] = suppressed
            self._suppressed[event] = 0
        told = " ".join(f"{key}={value}" for key, value in fields.items())
        log.warning("%s: %s", _TEXTS[event], told, extra=logged.event(event.value, **fields))


def _inner(pair: bytes) -> dict[str, object]:
    """What is told of a packet inside: its addresses, source and destination."""
    source, destination = (ip_address(half) for half in (pair[: len(pair) // 2], pair[len(pair) // 2 :]))
    return {"inner_source": str(source), "inner_destination": str(destination)}


def _packet(spi: int, number: int, source: Address, destination: Address, flow_info: int) -> dict[str, object]:
    """What RFC 4303 §4 wants told of a packet; the record has the time."""
    fields: dict[str, object] = {
        "spi": f"{spi:#010x}",
        "sequence_number": number,
        "source": source[0],
        "source_port": source[1],
        "destination": destination[0],
        "destination_port": destination[1],
    }
    if label := flow_info & _FLOW_LABEL:
        fields["flow_label"] = f"{label:#07x}"
    return fields
