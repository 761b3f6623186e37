"""What a page that is open is told: first all of its parts, then those that have changed; pure but for the clock.

There is no queue: whoever reads slowly is asked for no more than the last look, and gets what has changed since the one
that it had last. Every second something is sent, so a page knows that it is told of everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

from fastapi.sse import format_sse_event
from markupsafe import escape

from fwd.controller.page.views import FleetView

TURN_S: Final = 1.0
STREAMS_MAX: Final = 100
_SPOKEN_MAX: Final = 5
States = Mapping[str, str]
Look = Callable[[], Awaitable[tuple[Mapping[str, str], States] | None]]


class Streams:
    """How many pages are open; more than STREAMS_MAX are told nothing."""

    def __init__(self) -> None:
        self.count = 0

    @property
    def full(self) -> bool:
        """Whether there is room for no other one."""
        return self.count >= STREAMS_MAX

    async def frames(
        self, look: Callable[[], Awaitable[tuple[Mapping[str, str], States] | None]]
    ) -> AsyncIterator[bytes]:
        """Tell a page of its changes until `look` gives None: parts, and the states that are told to who cannot see."""
        before: Mapping[str, str] = {}
        states: States | None = None
        self.count += 1
        try:
            while (found := await look()) is not None:
                parts, now = found
                spoken = spoken_of(states, now)
                yield frame({**changed(before, parts), **({"news": escape(spoken)} if spoken else {})})
                before, states = parts, now
                await asyncio.sleep(TURN_S)
        finally:
            self.count -= 1


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, str]:
    """Return the parts that are others."""
    return {name: text for name, text in after.items() if before.get(name) != text}


def frame(parts: Mapping[str, str]) -> bytes:
    """Write parts as htmx takes them: each goes where its name says, and what stays the same is not touched."""
    texts = (f'<hx-partial hx-target="#part-{name}" hx-swap="innerMorph">{parts[name]}</hx-partial>' for name in parts)
    return bytes(format_sse_event(data_str="\n".join(texts)))


def states_of(fleet: FleetView) -> dict[str, str]:
    """Say how everything is, by what it is called."""
    hosts = {f"{one.kind} {one.name}": one.look.word for one in fleet.hosts}
    return hosts | {f"peering {one.name}": f"{one.look.word}, {one.counted}" for one in fleet.peerings}


def spoken_of(before: States | None, after: States) -> str:
    """Say which states have changed, to be read aloud."""
    if before is None:
        return ""
    texts = [f"{name} is {word}" for name, word in after.items() if before.get(name) != word]
    texts += [f"{name} is gone" for name in before if name not in after]
    more = f", and {len(texts) - _SPOKEN_MAX} more" if len(texts) > _SPOKEN_MAX else ""
    return ", ".join(texts[:_SPOKEN_MAX]) + more
