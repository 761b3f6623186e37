"""From which routers the beacon has heard, and when: a few rows of shared memory that it alone writes.

A row is an address (IPv4 as mapped into IPv6) and the time of its last good probe. A new address takes the row that was
written longest ago. A reader may find a row half written: it bounds what it reads, and looks again a moment later.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Final

ROWS: Final = 16
_ROW_WORDS: Final = 3  # both halves of the address, and time.monotonic_ns
_HALF: Final = 2**64 - 1


class Heard:
    """See the module."""

    def __init__(self, own: memoryview) -> None:
        self._words = own[: 8 * ROWS * _ROW_WORDS].cast("Q")

    def note(self, address: str, now_ns: int) -> None:
        """Note that a router at this address has probed now. The beacon only."""
        number = _number(address)
        halves = number >> 64, number & _HALF
        rows = range(0, ROWS * _ROW_WORDS, _ROW_WORDS)
        known = [at for at in rows if (self._words[at], self._words[at + 1]) == halves]
        at = known[0] if known else min(rows, key=lambda at: self._words[at + 2])
        self._words[at], self._words[at + 1] = halves
        self._words[at + 2] = now_ns

    def ages_s(self, now_ns: int) -> dict[str, float]:
        """Return for each address how long ago it has probed."""
        found: dict[str, float] = {}
        for at in range(0, ROWS * _ROW_WORDS, _ROW_WORDS):
            high, low, heard_ns = self._words[at : at + _ROW_WORDS].tolist()
            if heard_ns:
                address = IPv6Address(high << 64 | low)
                found[str(address.ipv4_mapped or address)] = max(0, now_ns - heard_ns) / 1e9
        return found


def _number(address: str) -> int:
    found = ip_address(address.partition("%")[0])
    return int(found) if found.version == 6 else 0xFFFF << 32 | int(found)
