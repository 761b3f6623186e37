"""What comes out of a tunnel, to the TUN device: one write for a record, or for a super-packet that stands for several.

An ICMP error from outside the selectors is written, if the packet that it quotes is of the SA and not too many come.
Refused and counted: inner addresses outside the selectors, what the device refuses. What a record must be, and what may
be joined, its payload says (payloads/).
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable, Sequence

from fwd.datapath.counters import MemberCounter
from fwd.datapath.direct import Direct
from fwd.model.config import Peering
from fwd.proto.drops import DropReason
from fwd.proto.icmp import ERROR_MAX, ERRORS_PER_S, Errors
from fwd.proto.ip import Selectors

# Plain integers: reading a member of an enum costs as much as the addition.
_IN_BYTES = MemberCounter.IN_BYTES.value
_IN_RECORDS_OK = MemberCounter.IN_RECORDS_OK.value
_ALLOWED = b""  # instead of an address pair: it was found to be allowed
_HELD_MAX = 16 << 20  # octets: as much as a socket's receive buffer takes, which the kernel doubles


class Delivery:
    """Writes to the TUN device `tun_fd`, whose offloads in force are `accepted`; counts in `counters`.

    What it is given comes from the SA that `enter` has named last. Inner addresses outside its selectors are told to
    `on_stranger(spi, address pair, how many)`.
    """

    def __init__(
        self,
        peering: Peering,
        tun_fd: int,
        tun_flags: int,
        counters: array[int],
        on_stranger: Callable[[int, bytes, int], None],
    ) -> None:
        self._fd = tun_fd
        self.accepted = tun_flags
        self._counters = counters
        self._on_stranger = on_stranger
        self.selectors = Selectors(peering.remote_ts, peering.local_ts)  # the peering's
        self.in_force = self.selectors
        self._known = self.in_force.pairs
        self._spi = 0
        self._direct = Direct.of(tun_fd, tun_flags, counters)
        self._held: list[tuple[bytes, int, int]] | None = None  # written later: octets, as IP packets, how many
        self._held_octets = 0
        # Members know nothing of each other, so each has its share of what a peering may have.
        self._errors = Errors(self.selectors, max(1, ERRORS_PER_S // peering.members))

    def enter(self, spi: int, selectors: Selectors) -> None:
        """Hold what comes from now on to these selectors: it is of this SA."""
        self._spi = spi
        self.in_force, self._known = selectors, selectors.pairs
        if self._direct is not None:
            self._direct.hold_to(selectors)

    @property
    def direct(self) -> Direct | None:
        """What writes straight from rows, if there is a compiled core and nothing is held."""
        return self._direct if self._held is None else None

    def write(self, pieces: Sequence[memoryview | bytes], pair: bytes, octets: int, count: int = 1) -> None:
        """Write to the TUN device, once: one record, or the super-packet that `count` packets make.

        `octets`: what they have as IP packets.
        """
        allowed = self._known.get(pair) or pair is _ALLOWED or self.in_force.allow(pair)
        if not allowed and not self._takes_error(pieces, pair, octets, count):
            return
        if self._held is not None:
            self._hold(b"".join(pieces), octets, count)
            return
        counters = self._counters
        try:
            os.writev(self._fd, pieces)
        except OSError:
            counters[DropReason.TUN_REFUSED] += count
        else:
            counters[_IN_RECORDS_OK] += count
            counters[_IN_BYTES] += octets

    # -- what is old, perhaps -----------------------------------------------------------------------------------------

    @property
    def holds(self) -> bool:
        """Whether what is to be written is held."""
        return self._held is not None

    def hold(self) -> None:
        """Hold what is to be written from now on, until `release`, or there is too much of it."""
        self._held, self._held_octets = [], 0

    def _hold(self, data: bytes, octets: int, count: int) -> None:
        assert self._held is not None
        self._held.append((data, octets, count))
        self._held_octets += len(data)
        if self._held_octets > _HELD_MAX:
            self.release()

    def drop_held(self) -> None:
        """Drop what is held: newer packets of its flows may have been delivered by others."""
        held = self._held or ()
        self._counters[DropReason.BUCKETS_MOVED_IN] += sum(count for _, _, count in held)
        if self._held is not None:
            self.hold()

    def release(self) -> None:
        """Write what is held, and hold nothing more."""
        held, self._held = self._held or (), None
        for data, octets, count in held:
            self.write((data,), _ALLOWED, octets, count)

    def forget_held(self) -> None:
        """Hold nothing more; who calls counts what is lost."""
        self._held = None

    def _takes_error(self, pieces: Sequence[memoryview | bytes], pair: bytes, octets: int, count: int) -> bool:
        """Take an ICMP error about a packet of the SA's; False: it is none, or one too many, and is dropped."""
        counters = self._counters
        if octets > ERROR_MAX or count > 1 or not self._errors.belongs(b"".join(pieces), self.in_force):
            counters[DropReason.SELECTOR_IN] += count
            self._on_stranger(self._spi, pair, count)
            return False
        if not self._errors.allows(time.monotonic()):
            counters[DropReason.ICMP_LIMIT_IN] += 1
            return False
        counters[MemberCounter.IN_ICMP_ERRORS] += 1
        return True
