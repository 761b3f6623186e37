"""What every part of the controller works on: what is kept, what is heard, and the time; and who may ask for what."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from fwd.controller import roles
from fwd.controller.desk import Asked, Desk, LeaderlessError
from fwd.controller.happened import Happened
from fwd.controller.records import Operation
from fwd.controller.store import StoreError, Write
from fwd.controller.tokens import Token
from fwd.controller.watch import Watch
from fwd.controller.webhook import Webhook

_WRITER: Final = "healthz"
_WRITER_S: Final = 1.0  # between two tries of the writer, whatever came of the first
STRANGERS_MAX: Final = 20.0  # refusals of one address at once
STRANGERS_A_S: Final = 1.0  # and for each second from then on
_ADDRESSES_MAX: Final = 4096


class Strangers:
    """Who is refused too often is not listened to for a while: a bucket for each address."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def may_ask(self, address: str, now: float) -> bool:
        """Whether an address has a try left."""
        return self._tries(address, now) >= 1

    def refused(self, address: str, now: float) -> None:
        """Take a try away."""
        left = self._tries(address, now) - 1
        self._left.pop(address, None)
        while len(self._left) >= _ADDRESSES_MAX:
            del self._left[next(iter(self._left))]
        self._left[address] = left, now

    def _tries(self, address: str, now: float) -> float:
        left, at = self._left.get(address, (STRANGERS_MAX, now))
        return min(STRANGERS_MAX, left + STRANGERS_A_S * (now - at))


class Upgrading(Protocol):
    """What upgrades gateways (upgrades.py)."""

    def plan(self, names: Sequence[str]) -> list[str]:
        """Say what would be done."""

    async def begin(self, asked: Asked, names: Sequence[str]) -> Operation:
        """Begin."""


@dataclass
class Control:
    """See the module. `wall`: the time of day; `clock`: one that is never set."""

    desk: Desk
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    strangers: Strangers = field(default_factory=Strangers)
    happened: Happened = field(default_factory=Happened)
    webhook: Webhook | None = None
    upgrading: Upgrading | None = None
    stopping: bool = False
    watch: Watch = field(init=False)
    _tried: tuple[float, int | None, str] = (float("-inf"), None, "")
    _trying: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.watch = Watch(self.clock(), self.happened)

    def begin(self) -> None:
        """Have heard nothing of anybody: the one who led before knows."""
        self.happened.begin()
        self.watch = Watch(self.clock(), self.happened)

    def person(self, authorization: str | None, *, writes: bool) -> Token:
        """Return whose bearer token it is. Raises DeniedError, and LeaderlessError before anything was read."""
        if not self.desk.has_read:
            raise LeaderlessError
        return roles.person(authorization, self.desk.records.tokens.values(), writes=writes)

    def host(self, der: bytes | None) -> roles.Host:
        """Return whose link's certificate it is. Raises DeniedError, and LeaderlessError: what is known may be old."""
        _ = self.desk.newest
        try:
            return roles.host(der, self.wall(), self.desk.records.revoked, self.desk.hosts)
        except roles.DeniedError as error:
            if error.stray:
                self.watch.tell_once("host.unknown", error.stray, str(error), self.wall())
            raise

    def turn(self) -> None:
        """Judge all hosts anew: due each second."""
        if self.desk.term is not None:
            self.watch.turn(self.desk.kept.fleet, self.desk.kept.pairs, self.clock(), self.wall())

    async def try_writer(self) -> None:
        """Write something, if that was not done just now. Raises StoreError, LeaderlessError and NotLeaderError."""
        term, _ = self.desk.newest
        async with self._trying:
            at, tried, why = self._tried
            if tried != term or self.clock() - at > _WRITER_S:
                why = ""
                try:
                    await self.desk.store.write(term, [Write(_WRITER, str(self.wall()).encode())])
                except StoreError as error:
                    why = str(error) or type(error).__name__
                self._tried = self.clock(), term, why
            if why:
                raise StoreError(why)
