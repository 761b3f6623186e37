"""Watches who serves each slot of some routers, and finds the moves of slots that were busy."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from clusterkit import Cluster, Slot

from fwd.lab.world import LabError
from fwd.model.router import Spread
from fwd.router import slots

IDLE_S = Spread.model_fields["idle_ms"].default / 1000
_EVERY_S = 0.2


@dataclass(frozen=True)
class Move:
    """A slot that another gateway serves than before. `idle_s`: for how long it had carried nothing, at most."""

    at: float
    router: str
    slot: int
    owner: str
    to: str
    idle_s: float


@dataclass
class Look:
    """All slots of a router, as they were somewhen between two moments."""

    begun: float
    ended: float
    slots: dict[int, Slot]


@dataclass
class Watch:
    """See the module. A slot counts as busy if it cannot have been idle for IDLE_S whenever it moved."""

    lab: Cluster
    routers: tuple[str, ...]
    looks: int = 0
    moves: list[Move] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)

    def busy_moves(self, since: float = 0.0, until: float = float("inf")) -> list[Move]:
        """Slots that moved in this time, and were busy."""
        return [move for move in self.moves if since <= move.at < until and move.idle_s < IDLE_S]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch while the block runs."""
        ending = threading.Event()
        threads = [threading.Thread(target=self._watch, args=(router, ending)) for router in self.routers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert not self.failed, self.failed

    def _watch(self, router: str, ending: threading.Event) -> None:
        try:
            before = self._look(router)
            while not ending.wait(_EVERY_S):
                after = self._look(router)
                self._compare(router, before, after)
                before = after
                self.looks += 1
        except (LabError, OSError, ValueError, KeyError) as error:
            self.failed.append(error)

    def _look(self, router: str) -> Look:
        begun = time.monotonic()
        found = self.lab.slots(router)
        return Look(begun, time.monotonic(), found)

    def _compare(self, router: str, before: Look, after: Look) -> None:
        for slot, now in after.slots.items():
            then = before.slots.get(slot)
            if then is not None and then.gateway != now.gateway:
                idle_s = then.idle_s + after.ended - before.begun
                self.moves.append(Move(after.ended, router, slot, then.gateway, now.gateway, idle_s))


def busy(lab: Cluster, router: str, gateway: str | None = None) -> set[int]:
    """The slots of a router, or of one gateway there, that flows use."""
    inner = gateway and lab.fleet.inner(gateway)[0]
    return {n for n, slot in lab.slots(router).items() if inner in (None, slot.gateway) and slot.idle_s < IDLE_S / 2}


def wished(lab: Cluster, *gateways: str) -> dict[int, str]:
    """By slot the gateway that serves it once it is idle, of these; the same on every router."""
    weights = {one["name"]: float(one["weight"]) for one in lab.api.items("gateways")}
    return dict(enumerate(slots.wish([slots.Hop(one, weight=weights[one]) for one in gateways])))
