"""The demo's live view: throughput, each member's share and restarts, from a gateway's status.

On a terminal it is one table that changes in place; elsewhere it is a plain line a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

_BAR_CELLS = 24
_LINE_EVERY_S = 1.0


@dataclass(frozen=True)
class Reading:
    """What a status says, at one time: by member."""

    now_s: float
    out_bytes: tuple[int, ...]
    restarts: tuple[int, ...]
    states: tuple[str, ...]

    @classmethod
    def of(cls, status: Mapping[str, Any], now_s: float) -> Reading:
        members = status["peerings"][0]["members"]
        return cls(
            now_s=now_s,
            out_bytes=tuple(m["out"]["bytes"] for m in members),
            restarts=tuple(m["restarts"] for m in members),
            states=tuple(m["state"] for m in members),
        )


class View:
    """Shows readings as they come; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._before: Reading | None = None
        self._line_at_s = 0.0
        self.phase = ""

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False)

    def show(self, reading: Reading) -> None:
        before, self._before = self._before, reading
        if before is None or len(before.out_bytes) != len(reading.out_bytes):
            return
        sent = [now - then for now, then in zip(reading.out_bytes, before.out_bytes, strict=True)]
        mbps = sum(sent) * 8 / 1e6 / max(reading.now_s - before.now_s, 1e-3)
        shares = [s / (sum(sent) or 1) for s in sent]
        if self._live:
            self._live.update(self._table(mbps, shares, reading), refresh=True)
        elif reading.now_s >= self._line_at_s:
            self._line_at_s = reading.now_s + _LINE_EVERY_S
            self.say(self._line(mbps, shares, reading))

    def _table(self, mbps: float, shares: Sequence[float], reading: Reading) -> Table:
        table = Table(title=f"{self.phase}: {mbps:,.0f} Mbit/s", title_justify="left")
        for heading in ("member", "share", "", "restarts", "state"):
            table.add_column(heading, justify="right" if heading in ("", "restarts") else "left")
        for i, share in enumerate(shares):
            bar = "█" * round(share * _BAR_CELLS)
            cells = (str(i), f"{bar:<{_BAR_CELLS}}", f"{share:.0%}", str(reading.restarts[i]))
            table.add_row(*cells, reading.states[i])
        return table

    def _line(self, mbps: float, shares: Sequence[float], reading: Reading) -> str:
        parts = " ".join(f"{share:.0%}" for share in shares)
        return f"{self.phase}: {mbps:,.0f} Mbit/s, members {parts}, restarts {sum(reading.restarts)}"
