"""Which SAs a member accepts packets on: what keyd has told, less those whose life is over."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fwd.datapath.ledger import ReplaySlots
from fwd.datapath.payloads import PayloadIn
from fwd.datapath.receiving import Receiving
from fwd.datapath.tuning import Tuning
from fwd.proto.drops import DropReason
from fwd.proto.ip import Selectors
from fwd.proto.sa import SaKeys


class Accepted:
    """`sas` are accepted, by SPI; `ended` are SPIs that keyd names, and whose life is over."""

    def __init__(
        self,
        tuning: Tuning,
        slots: ReplaySlots,
        selectors: Selectors,
        payload: PayloadIn,
        on_refused: Callable[[int, DropReason, int], None],
    ) -> None:
        """`selectors`: the peering's; `on_refused` is told SPI, reason and number of each packet that an SA refuses."""
        self.tuning = tuning
        self.slots = slots
        self._selectors = selectors
        self._payload = payload
        self._on_refused = on_refused
        self.sas: dict[int, Receiving] = {}
        self.ended: set[int] = set()

    def install(self, inbound: Sequence[SaKeys], now_ms: int) -> None:
        """Accept these SAs and no others, but for those whose life is over; those that stay keep their windows."""
        over = {keys.spi for keys in inbound if 0 < keys.deadline_ms <= now_ms}
        self.ended = over | self.ended.intersection(keys.spi for keys in inbound)
        inbound = [keys for keys in inbound if keys.spi not in self.ended]
        spis = {keys.spi for keys in inbound}

        # What is not among them goes.
        for spi in [s for s in self.sas if s not in spis]:
            self._end(spi)

        # The others stay with their windows, or begin at what their replay slot says.
        for keys in inbound:
            if keys.spi in self.sas:
                self.sas[keys.spi].deadline_ms = keys.deadline_ms
                continue
            floor = self.slots.floor(keys.slot, keys.spi)
            sa = Receiving(
                keys, self.tuning.replay_window, floor, self._selectors, self._on_refused,
                self.slots.octets[keys.slot], self.tuning.life,
            )  # fmt: skip
            self._payload.begin(keys.spi, self.tuning, floor)
            self.sas[keys.spi] = sa

    def tune(self, tuning: Tuning) -> None:
        """Follow what is in force now."""
        self.tuning = tuning
        self._selectors.replace(tuning.remote_ts, tuning.local_ts)
        self._payload.tune(tuning)

    @property
    def deadline_ms(self) -> int:
        """The first deadline of an SA; 0: there is none."""
        return min((sa.deadline_ms for sa in self.sas.values() if sa.deadline_ms), default=0)

    def end_overdue(self, now_ms: int) -> list[int]:
        """Accept nothing more on SAs whose life is over; their SPIs."""
        over = [spi for spi, sa in self.sas.items() if sa.is_over(now_ms)]
        for spi in over:
            self._end(spi)
        self.ended.update(over)
        return over

    def _end(self, spi: int) -> None:
        del self.sas[spi]
        self._payload.end(spi)
