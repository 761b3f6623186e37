"""An inbound SA as a member has it: window, selectors, and life."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fwd.datapath.ledger import ReplaySlots
from fwd.proto.drops import DropReason
from fwd.proto.esp import BATCH_MAX, InboundSa
from fwd.proto.ip import Selectors
from fwd.proto.sa import UNLIMITED, Life, SaKeys


class Receiving(InboundSa):
    """An inbound SA of a member's. What its payload puts together from it, the payload keeps (payloads/)."""

    def __init__(
        self,
        keys: SaKeys,
        window: int,
        floor: int,
        selectors: Selectors,
        on_refused: Callable[[int, DropReason, int], None],
        octets: int = 0,
        life: Life = UNLIMITED,
    ) -> None:
        """`selectors`: the peering's, to which what comes out of it is held, unless it is narrower; `life`: its end."""
        super().__init__(keys, BATCH_MAX, window, floor)
        held = keys.narrowed
        self.selectors = selectors if held is None else Selectors.of_ranges(held.remote, held.local)
        self.deadline_ms = keys.deadline_ms  # in CLOCK_BOOTTIME; 0: none
        self.life = life
        self.octets = octets  # of ESP that it has accepted, by predecessors too; whole if there is a limit
        self._on_refused = on_refused

    def publish(self, slots: ReplaySlots) -> bool:
        """Show how far it has come, to a successor and to keyd; whether that is further than before."""
        slot, top = self.keys.slot, self.window.top
        newer: bool = top > slots.words[2 * slot + 1]
        slots.words[2 * slot + 1] = top
        slots.octets[slot] = self.octets
        return newer

    def is_over(self, now_ms: int) -> bool:
        """Whether its life is over: by time, packets, or octets."""
        used_up = 0 < self.life.packets <= self.window.top or 0 < self.life.octets <= self.octets
        return used_up or 0 < self.deadline_ms <= now_ms

    def carry(self, packet_bytes: int, short: Sequence[tuple[int, int]], numbers: Sequence[int]) -> None:
        """Count the octets of what was accepted, if there is a limit; a number of 0 is a refusal.

        All packets have `packet_bytes`, but for those in `short` (index, octets).
        """
        if self.life.octets:
            octets = dict(short)
            self.octets += sum(octets.get(i, packet_bytes) for i, number in enumerate(numbers) if number)

    def refused(self, reason: DropReason, number: int) -> None:
        self._on_refused(self.spi, reason, number)


def runt_reason(packet: memoryview) -> DropReason:
    """Return why a datagram that is shorter than any ESP packet is dropped (RFC 3948 §2.3)."""
    return DropReason.KEEPALIVE if len(packet) == 1 and packet[0] == 0xFF else DropReason.NOT_ESP
