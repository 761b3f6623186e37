"""Something that many wait for, each for a while, and that is told again and again."""

from __future__ import annotations

import asyncio


class News:
    """See the module. `number`: how often it was told."""

    def __init__(self) -> None:
        self.number = 0
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wake whoever waits."""
        self.number += 1
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def wait(self, timeout_s: float, known: int | None = None) -> bool:
        """Wait until it is told, if it was not since `known`; returns whether it was."""
        if known is not None and known != self.number:
            return True
        try:
            await asyncio.wait_for(self._told.wait(), timeout_s)
        except TimeoutError:
            return False
        return True
