"""What the controller does by itself: restarts hosts that are down (mend.py), by the operator's own command.

A restart is written to the store before its command runs, with its reason and as an operation, so that whoever leads
next counts it, too. The command runs beside the loop: nothing waits for it. What was under way when its controller
ended is told as failed by the next one that leads, since nobody knows what came of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from fwd.controller import mend, records, spawn, upgrade
from fwd.controller.control import Control
from fwd.controller.desk import Asked
from fwd.controller.health import FRESH_S, Health
from fwd.controller.mend import Seen
from fwd.controller.records import Operation, Records
from fwd.controller.store import Write
from fwd.model.fleet import Gateway, Router
from fwd.proto.logged import event

SELF: Final = "controller"
LOST: Final = "failed: its controller ended, and nobody knows what came of it"
_WELL: Final = (Health.UP, Health.DEGRADED, Health.DRAINING)  # it speaks, and others see it
_REFUSED: Final = "host.not_restarted"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rules:
    """When hosts are restarted, and by what. `command` empty: never."""

    command: Sequence[str] = ()
    limit: int = mend.LIMIT
    wait_s: float = mend.WAIT_S
    timeout_s: float = 60.0


@dataclass
class Acts:
    """See the module. `busy`: what is done with hosts, by others, too; `working`: operations under way here."""

    control: Control
    rules: Rules = Rules()
    busy: dict[str, str] = field(default_factory=dict)
    working: set[str] = field(default_factory=set)
    _running: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _well_at: dict[str, float] = field(default_factory=dict)  # by the wall clock, of hosts
    _ended: dict[str, str] = field(default_factory=dict)  # results that are not in the store yet

    async def turn(self) -> None:
        """See who is to be restarted: due each second. Raises what the desk does; the next turn goes on."""
        desk = self.control.desk
        if desk.term is None:
            return
        for id, result in list(self._ended.items()):
            await desk.progress(id, result=result)
            self._ended.pop(id, None)
        await self._tell_lost()
        if self.rules.command:
            await self._restart_some()

    async def close(self) -> None:
        """End all that is under way."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _tell_lost(self) -> None:
        """Say of what is not under way here that it does not go on: another controller has begun it, or the word that
        it was written was lost.
        """
        for id, one in list(self.control.desk.records.operations.items()):
            if one.result == records.RUNNING and id not in self.working:
                await self.control.desk.progress(id, result=LOST)
                name = upgrade.stands_at(one.steps) if one.act == "upgrade" else one.name
                self.control.watch.note(f"host.{one.act}_failed", name, f"{id}: {LOST}", self.control.wall())

    async def _restart_some(self) -> None:
        control, wall = self.control, self.control.wall()
        fleet = control.desk.kept.fleet
        hosts: dict[str, Gateway | Router] = {**fleet.gateway, **{one.name: one for one in fleet.routers}}
        seen = {name: self.seen(name) for name in hosts if name in control.watch.verdicts}
        self._well_at = {name: wall if one.health in _WELL else one.well_at for name, one in seen.items()}
        decision = mend.decide(
            seen, mend.groups_of(fleet), control.desk.records.restarts, wall,
            limit=self.rules.limit, wait_s=self.rules.wait_s,
        )  # fmt: skip

        for name in seen:
            control.watch.tell_once(_REFUSED, name, decision.refused.get(name, ""), wall)
        for name, reason in decision.restart.items():
            asked = Asked(SELF, "restart", spawn.words_of(hosts[name])["kind"], name, wall)
            argv = self.argv_of(hosts[name])
            made = await self.begin(asked, reason)
            self._running[made.id] = asyncio.create_task(self._restart(made.id, name, argv))

    def argv_of(self, host: Gateway | Router) -> list[str]:
        """What restarts a host."""
        return spawn.filled(self.rules.command, spawn.words_of(host))

    async def begin(self, asked: Asked, reason: str, **about: Any) -> Operation:
        """Note a restart before it is made; from now on nothing else is done with this host, nor one of its group."""
        self.busy[asked.name] = mend.BUSY
        try:
            made = await self.control.desk.begin(
                asked, partial(_counted, asked.name, asked.now), reason=reason, **about
            )
        except BaseException:
            self.busy.pop(asked.name, None)
            raise
        self.control.watch.note("host.restart", asked.name, f"{made.id}: {reason}", asked.now)
        self.working.add(made.id)
        return made

    def seen(self, name: str) -> Seen:
        """How a host is, as of this turn."""
        watch, now = self.control.watch, self.control.clock()
        verdict, beat = watch.verdicts[name], watch.beats.get(name)
        speaks = beat is not None and now - beat.at <= FRESH_S
        ready = beat is not None and speaks and beat.status.get("ready") is True
        gateway = self.control.desk.kept.fleet.gateway.get(name)
        drained = gateway is not None and gateway.state == "draining"
        return Seen(
            verdict.health, now - verdict.since, verdict.reason, ready, self.busy.get(name, ""), drained,
            self._well_at.get(name, float("-inf")), speaks, verdict.contested,
        )  # fmt: skip

    async def _restart(self, id: str, name: str, argv: Sequence[str]) -> None:
        """Run the command, and tell how it has ended."""
        ran = spawn.Ran(False, "the controller was ended meanwhile")
        try:
            ran = await spawn.run(argv, self.rules.timeout_s)
        finally:
            self.control.restarts[name, ran.good] += 1
            self.busy.pop(name, None)
            del self._running[id]
            self.working.discard(id)
            self._ended[id] = ": ".join(filter(None, ("done" if ran.good else "failed", ran.line)))
            if not ran.good:
                self.control.watch.note("host.restart_failed", name, f"{id}: {ran.line}", self.control.wall())
        log.log(
            logging.INFO if ran.good else logging.ERROR, "restart of %s: %s", name, self._ended[id],
            extra=event("controller.restarted", host=name, operation=id, good=ran.good),
        )  # fmt: skip
        with contextlib.suppress(Exception):  # the next turn tries again
            await self.control.desk.progress(id, result=self._ended[id])
            self._ended.pop(id, None)


def _counted(host: str, wall: float, known: Records) -> list[Write]:
    """Write a restart to the history that whoever leads counts by."""
    return [records.put_restart(known, host, wall)]
