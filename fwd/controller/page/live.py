"""What a page that is open is told: first all of its parts, then those that have changed; pure but for the clock.

There is no queue: whoever reads slowly is asked for no more than the last look, and gets what has changed since the one
that it had last. Every second something is sent, or every few if there is much to make, so a page knows that it is told
of everything; and once more in that time if how something is has changed. All pages look at the same moment, so that
those that show the same are made once. Which states have changed, a page sees by itself (page.js), also across a stream
that broke.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from typing import Final

from fastapi.sse import format_sse_event

from fwd.controller.happened import crowded
from fwd.controller.news import News
from fwd.controller.page.views import FleetView

TURN_S: Final = 1.0
TURN_S_MAX: Final = 4.0  # a page is silent after 5 s (page.js)
_WORK_S: Final = 0.25  # of each second, for all that pages are told: hosts wait meanwhile
STREAMS_MAX: Final = 100
Parts = Mapping[str, str]
Look = Callable[[], Awaitable[Parts | None]]


class Streams:
    """The pages that are open, and whose they are: STREAMS_MAX at most. If there are more, whoever has most has one
    less, so that nobody's pages keep another's from being told anything.
    """

    def __init__(self) -> None:
        self._open: dict[object, str] = {}
        self._turn, self._turn_s, self._worked_s = -1, 1.0, 0.0
        self._made: dict[Hashable, Parts | None] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._open)

    def is_full(self, whose: str) -> bool:
        """Whether there is no room for another one of somebody's: they are too many, and nobody has more."""
        counts = Counter(self._open.values())
        return self.count >= STREAMS_MAX and counts[whose] >= max(counts.values())

    async def frames(self, look: Look, whose: str, states: News) -> AsyncIterator[bytes]:
        """Tell a page of its changes until `look` gives None, or another one has its place. `states`: their news."""
        before: Parts = {}
        mine = object()
        self._open[mine] = whose
        while self.count > STREAMS_MAX:
            del self._open[list(self._open)[crowded(self._open.values())]]
        try:
            while True:
                known, began_s = states.number, time.monotonic()
                if mine not in self._open or (parts := await look()) is None:
                    break
                yield frame(changed(before, parts))
                before = parts
                await self._pause(states, known, began_s)
        finally:
            self._open.pop(mine, None)

    async def _pause(self, states: News, known: int, began_s: float) -> None:
        """Wait for the next turn, or for half of one if states are others than at the last look, when that began."""
        if not TURN_S:
            await asyncio.sleep(0)
        elif await states.wait(self._turn_s - time.monotonic() % self._turn_s, known):
            await asyncio.sleep(max(0.0, began_s + self._turn_s / 2 - time.monotonic()))

    def once(self, key: Hashable, make: Callable[[], Parts | None]) -> Parts | None:
        """Make what several pages show, once in a turn, which is the longer the more there is to be made."""
        now = time.monotonic()
        if not TURN_S or int(now // self._turn_s) != self._turn:
            self._turn_s = min(max(1.0, math.ceil(self._worked_s / _WORK_S)), TURN_S_MAX)
            self._turn, self._worked_s = int(now // self._turn_s), 0.0
            self._made.clear()
        if key not in self._made:
            began_s = time.thread_time()
            self._made[key] = make()
            self._worked_s += time.thread_time() - began_s
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
    return hosts | {
        f"peering {one.name}": f"{one.look.word}, {one.counted}" if one.pairs else one.look.word
        for one in fleet.peerings
    }
