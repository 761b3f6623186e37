"""The anti-replay window of one inbound SA: RFC 4303 §3.4.3, with extended sequence numbers by appendix A2.

`check` before decrypting, `commit` after, one packet after another over authenticated packets, so that a
duplicate inside one batch is caught (rule 2). The window never moves for a packet that did not
authenticate. It refuses nothing by itself: it answers with a DropReason or None.
"""

from __future__ import annotations

from fwd.proto.drops import DropReason

_LOW = 0xFFFFFFFF
_LAST_ESN = 2**64 - 1


class ReplayWindow:
    """`size` numbers wide; `floor` and everything below it count as seen (a successor starts so)."""

    __slots__ = ("_bits", "_mask", "esn", "size", "top")

    def __init__(self, size: int, *, esn: bool, floor: int = 0) -> None:
        self.size = size
        self.esn = esn
        self.top = floor
        self._mask = (1 << size) - 1
        self._bits = self._mask  # bit k: number top - k has been seen

    def full_number(self, low: int) -> int:
        """The 64-bit number that the 32 bits `low` of a packet stand for; negative: before the first.

        It is the one number that is congruent to `low` and not left of the window by less than 2^32
        (RFC 4303 A2.1, both cases in one line).
        """
        if not self.esn:
            return low
        bottom = self.top - self.size + 1
        return bottom + ((low - bottom) & _LOW)

    def furthest(self) -> int:
        """The greatest number that any packet may stand for now."""
        return min(self.top - self.size + 1 + _LOW, _LAST_ESN) if self.esn else _LOW

    def check(self, number: int) -> DropReason | None:
        """Why `number` cannot be accepted, or None."""
        behind = self.top - number
        if behind < 0:
            return None if number <= _LAST_ESN else DropReason.TOO_OLD
        if behind >= self.size or number < 1:
            return DropReason.TOO_OLD
        return DropReason.REPLAYED if self._bits >> behind & 1 else None

    def commit(self, number: int) -> DropReason | None:
        """Check once more and mark `number`, which has authenticated, as seen."""
        reason = self.check(number)
        if reason is None:
            self.mark(number)
        return reason

    def mark(self, number: int) -> None:
        """Mark `number`, which has authenticated and passed `check` with nothing in between, as seen."""
        ahead = number - self.top
        if ahead > 0:
            self._advance(number, ahead, 1)
        else:
            self._bits |= 1 << -ahead

    def commit_run(self, first: int, count: int) -> None:
        """Mark `count` numbers from `first` on, all above `top`, as seen in one step."""
        self._advance(first + count - 1, first + count - 1 - self.top, (1 << min(count, self.size)) - 1)

    def _advance(self, top: int, ahead: int, seen: int) -> None:
        kept = self._bits << ahead if ahead < self.size else 0
        self._bits = (kept | seen) & self._mask
        self.top = top
