"""What a page that is open is told: first all of its parts, then those that have changed; pure but for the clock.

There is no queue: whoever reads slowly is asked for no more than the last look, and gets what has changed since the one
that it had last. Every second something is sent, so a page knows that it is told of everything. All pages look at the
same moment, so that those that show the same are made once. Which states have changed, a page sees by itself (page.js),
also across a stream that broke.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from typing import Final

from fastapi.sse import format_sse_event

from fwd.controller.page.views import FleetView

TURN_S: Final = 1.0
STREAMS_MAX: Final = 100
Parts = Mapping[str, str]
Look = Callable[[], Awaitable[Parts | None]]


class Streams:
    """How many pages are open; more than STREAMS_MAX are told nothing."""

    def __init__(self) -> None:
        self.count = 0
        self._turn = -1
        self._made: dict[Hashable, Parts | None] = {}

    @property
    def full(self) -> bool:
        """Whether there is room for no other one."""
        return self.count >= STREAMS_MAX

    async def frames(self, look: Look) -> AsyncIterator[bytes]:
        """Tell a page of its changes until `look` gives None."""
        before: Parts = {}
        self.count += 1
        try:
            while (parts := await look()) is not None:
                yield frame(changed(before, parts))
                before = parts
                await asyncio.sleep(TURN_S - time.monotonic() % TURN_S if TURN_S else 0)
        finally:
            self.count -= 1

    def once(self, key: Hashable, make: Callable[[], Parts | None]) -> Parts | None:
        """Make what several pages show, once in a turn."""
        turn = int(time.monotonic() // TURN_S) if TURN_S else self._turn + 1
        if turn != self._turn:
            self._turn = turn
            self._made.clear()
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def changed(before: Parts, after: Parts) -> dict[str, str]:
    """Return the parts that are others."""
    return {name: text for name, text in after.items() if before.get(name) != text}


def frame(parts: Parts) -> bytes:
    """Write parts as htmx takes them: each goes where its name says, and what stays the same is not touched."""
    texts = (f'<hx-partial hx-target="#part-{name}" hx-swap="innerMorph">{parts[name]}</hx-partial>' for name in parts)
    return bytes(format_sse_event(data_str="\n".join(texts)))


def states_of(fleet: FleetView) -> dict[str, str]:
    """Say how everything is, by what it is called, to be read aloud when it changes."""
    hosts = {f"{one.kind} {one.name}": one.look.word for one in fleet.hosts}
    return hosts | {f"peering {one.name}": f"{one.look.word}, {one.counted}" for one in fleet.peerings}
