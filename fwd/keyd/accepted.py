"""The inbound SAs that one member holds, each with a replay slot of its own.

Usually those of its own pairs. Behind a peer that may send everything on its newest SA, member 0 holds those of all
members (ARCHITECTURE, "Keys"). What a predecessor of keyd had installed stays until the far side sends on what is new,
or the lives of those SAs are over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fwd.keyd.mailbox import KeydMember, Mailbox
from fwd.proto.sa import NARROWED_MAX, SLOTS, SaKeys

INHERITED_S: Final = 30.0  # how long a predecessor's inbound SAs stay once the far side sends on a new one


def earlier(one_ms: int, other_ms: int) -> int:
    """Of two deadlines the first; 0: none."""
    return min(one_ms, other_ms) if one_ms and other_ms else one_ms or other_ms


class NoSlotError(Exception):
    """A member has as many inbound SAs, or traffic selectors, as it can hold."""


class Accepted:
    """See the module. `version` changes whenever the SAs do: boot records and the living member are to be told."""

    def __init__(self, index: int, parts: KeydMember, mailbox: Mailbox) -> None:
        self._index = index
        self._slots = parts.shared.slots
        self._own: dict[int, SaKeys] = {}
        self._inherited: tuple[SaKeys, ...] = mailbox.recall()
        self._inherited_until: float | None = None
        self.version = 0

    def add(self, keys: SaKeys) -> SaKeys:
        """Accept this SA; returns it with its slot. Raises NoSlotError."""
        different = {one.narrowed for one in (*self.all(), keys)} - {None}
        if keys.narrowed is not None and len(different) > NARROWED_MAX:
            raise NoSlotError(f"member {self._index}: more than {NARROWED_MAX} different traffic selectors")
        sa = replace(keys, slot=self._free_slot())
        self._own[sa.spi] = sa
        self.version += 1
        return sa

    def end_by(self, until_ms: int) -> None:
        """What a predecessor had installed ends by then."""
        self._inherited = tuple(
            replace(keys, deadline_ms=earlier(keys.deadline_ms, until_ms)) for keys in self._inherited
        )
        self.version += 1

    def end_one_by(self, spi: int, until_ms: int) -> None:
        """This SA ends by then."""
        keys = self._own.get(spi)
        if keys is not None:
            self._own[spi] = replace(keys, deadline_ms=earlier(keys.deadline_ms, until_ms))
            self.version += 1

    @property
    def has_inherited(self) -> bool:
        return bool(self._inherited)

    def remove(self, spi: int) -> None:
        if self._own.pop(spi, None) is not None:
            self.version += 1

    def clear(self) -> None:
        """Accept nothing any more, of a predecessor's neither."""
        self._own.clear()
        self._inherited = ()
        self.version += 1

    def all(self) -> tuple[SaKeys, ...]:
        """All that the member accepts, the oldest first."""
        return (*self._inherited, *self._own.values())

    def knows(self, spi: int) -> bool:
        """Whether it accepts this SPI, or has; its replay slot would tell of another SA's numbers."""
        return spi in self._own or any(keys.spi == spi for keys in self._inherited) or self.heard(spi)

    def heard(self, spi: int) -> bool:
        """Whether anything has come on this SPI."""
        return spi in self._slots.heard()

    def tick(self, now: float) -> None:
        """Once the far side sends on what is new, what a predecessor had installed is on its way out."""
        alive = tuple(keys for keys in self._inherited if not 0 < keys.deadline_ms <= now * 1000)
        if len(alive) != len(self._inherited):
            self._inherited = alive
            self.version += 1
        if not self._inherited:
            return
        if self._inherited_until is None:
            if not self._own.keys().isdisjoint(self._slots.heard()):
                self._inherited_until = now + INHERITED_S
        elif now >= self._inherited_until:
            self._inherited = ()
            self.version += 1

    def _free_slot(self) -> int:
        """A replay slot that no installed SA has; without one the oldest of a predecessor's goes."""
        taken = {keys.slot for keys in self.all()}
        free = next((slot for slot in range(SLOTS) if slot not in taken), None)
        if free is None:
            if not self._inherited:
                raise NoSlotError(f"member {self._index}: more than {SLOTS} inbound SAs")
            free, self._inherited = self._inherited[0].slot, self._inherited[1:]
        return free
