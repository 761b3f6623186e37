"""What every part of the controller works on: what is kept, what is heard, and the time; and who may ask for what."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from fwd.controller import roles
from fwd.controller.desk import Asked, Desk, LeaderlessError
from fwd.controller.door import Door
from fwd.controller.fleet import Seen
from fwd.controller.flows import Flows
from fwd.controller.happened import Happened
from fwd.controller.news import News
from fwd.controller.past import Past
from fwd.controller.rates import Rates
from fwd.controller.records import Operation
from fwd.controller.rekeys import Rekeys
from fwd.controller.sessions import Sessions
from fwd.controller.store import StoreError, Write
from fwd.controller.tokens import Token
from fwd.controller.watch import Watch
from fwd.controller.webhook import Webhook

_WRITER: Final = "healthz"
_WRITER_S: Final = 1.0  # between two tries of the writer, whatever came of the first
_STRANGERS: Final = (20.0, 1.0)  # refusals of one address at once, and for each second from then on
_PEOPLE: Final = (1000.0, 100.0)  # requests of a bearer token
_PAGES: Final = (100.0, 30.0)  # hundredths of a second that it takes to make its pages: hosts wait for that
_HOSTS: Final = (60.0, 10.0)  # and of a host


class Upgrading(Protocol):
    """What upgrades gateways (upgrades.py)."""

    def plan(self, names: Sequence[str]) -> list[str]:
        """Say what would be done."""

    async def begin(self, asked: Asked, names: Sequence[str]) -> Operation:
        """Begin."""


class Restarting(Protocol):
    """What restarts hosts for people (restarts.py)."""

    def plan(self, kind: str, name: str, seen: Seen | None = None) -> list[str]:
        """Say what would be done."""

    async def begin(self, asked: Asked, seen: Seen | None = None) -> Operation:
        """Begin."""


@dataclass
class Control:
    """See the module. `wall`: the time of day; `clock`: one that is never set; `url`: where hosts find it."""

    desk: Desk
    wall: Callable[[], float] = time.time
    clock: Callable[[], float] = time.monotonic
    url: str = ""
    who: str = ""  # this controller, as it is called where leaders are
    leader: str = ""  # who leads, as of the last turn
    strangers: Rates = field(default_factory=lambda: Rates(*_STRANGERS))
    noted: Rates = field(default_factory=lambda: Rates(*_STRANGERS))  # lines of refusals in the audit log
    not_noted: int = 0  # how many of them were left out since the last line
    people: Rates = field(default_factory=lambda: Rates(*_PEOPLE))
    pages: Rates = field(default_factory=lambda: Rates(*_PAGES))
    links: Rates = field(default_factory=lambda: Rates(*_HOSTS))
    restarts: Counter[tuple[str, bool]] = field(default_factory=Counter)  # by host, and whether the command was good
    door: Door | None = None
    happened: Happened = field(default_factory=Happened)
    flows: Flows = field(default_factory=Flows)
    past: Past = field(default_factory=Past)
    hurry: News = field(default_factory=News)  # a host has said that others are reached, or not, than before
    states: News = field(default_factory=News)  # of hosts, pairs and peerings: some are others
    webhook: Webhook | None = None
    upgrading: Upgrading | None = None
    restarting: Restarting | None = None
    rekeys: Rekeys = field(default_factory=Rekeys)
    stopping: bool = False
    watch: Watch = field(init=False)
    sessions: Sessions = field(init=False)
    inherited: frozenset[str] = frozenset()  # hosts that there were before this one led
    _tried: tuple[float, int | None, str] = (float("-inf"), None, "")
    _trying: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.watch = Watch(self.clock(), self.happened)
        self.sessions = Sessions(self.desk)

    def begin(self) -> None:
        """Have heard nothing of anybody: the one who led before knows."""
        self.happened.begin()
        self.past = Past()
        self.inherited = frozenset(name for _, name in self.desk.hosts)
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
            self.flows.forget({name for _, name in self.desk.hosts})

    async def end_rekeys(self) -> None:
        """Note which peerings have new keys by now, or will not have them: due each second."""
        await self.rekeys.turn(self.desk, self.watch.beats, self.clock(), self.wall())

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
