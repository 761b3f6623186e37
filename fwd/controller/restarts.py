"""Restart the hosts that people ask for, by the operator's command, and see them come back (mend.py says who may be).

    its command runs → waits for it to come back → done, or failed

They count with those that the controller makes by itself (acts.py), and of a group one goes at a time, whoever has
begun it. Each lives in the controller that began it: the one that leads next says that nobody knows what came of it.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Final

from fwd.controller import changes, mend, records, spawn
from fwd.controller.acts import Acts
from fwd.controller.control import Control
from fwd.controller.desk import Asked
from fwd.controller.fleet import Seen
from fwd.controller.health import Health
from fwd.controller.records import Operation
from fwd.controller.sights import number_in
from fwd.model.fleet import Gateway, Router
from fwd.proto.logged import event

_RUNS: Final = "its command runs"
_UNITS: Final = {"gateway": "fwd", "router": "fwd-router"}
log = logging.getLogger(__name__)


@dataclass
class _Restart:
    """One that is under way. `began_at`: of its command; `gone`: the host was missed since; `ran_at`: the end of it."""

    operation: Operation
    command: asyncio.Task[spawn.Ran]
    began_at: float
    gone: bool = False
    ran_at: float | None = None
    result: str = records.RUNNING


@dataclass
class Restarts:
    """See the module."""

    control: Control
    acts: Acts
    _going: dict[str, _Restart] = field(default_factory=dict, init=False)  # by operation
    _left: set[asyncio.Task[spawn.Ran]] = field(default_factory=set, init=False)  # commands of nobody's any more

    def plan(self, kind: str, name: str, seen: Seen | None = None) -> list[str]:
        """Say what would be done. Raises RefusedError for what cannot be, and StaleError."""
        host = self._host(kind, name)
        if seen is not None:
            seen.check_object(self.control.desk.kept)
        if not self.acts.rules.command:
            how = f"on {name} `systemctl restart {_UNITS[kind]}` does it"
            raise changes.RefusedError(f"there is no restart_command in controller.toml: {how}", conflict=True)
        if why := self._why_not(name):
            raise changes.RefusedError(f"{kind} {name}: {why}", conflict=True)
        lines = self._plan_of(host)
        if seen is not None:
            seen.check_plan(lines)
        return lines

    async def begin(self, asked: Asked, seen: Seen | None = None) -> Operation:
        """Begin. Raises as `plan` does, and what the desk does."""
        plan, host = self.plan(asked.kind, asked.name, seen), self._host(asked.kind, asked.name)
        argv = self.acts.argv_of(host)
        made = await self.acts.begin(asked, f"asked for by {asked.who}", plan=tuple(plan), steps=(_RUNS,))
        command = asyncio.create_task(spawn.run(argv, self.acts.rules.timeout_s))
        self._going[made.id] = _Restart(made, command, self.control.clock())
        return made

    async def turn(self) -> None:
        """Go on: due each second. Raises what the desk does; the next turn goes on."""
        if self.control.desk.term is None:
            for one in list(self._going.values()):
                self._end(one)
                self._left.add(one.command)
                one.command.add_done_callback(self._left.discard)
        for one in list(self._going.values()):
            await self._go_on(one)

    async def close(self) -> None:
        """End what is under way."""
        commands = [*self._left, *(one.command for one in self._going.values())]
        for command in commands:
            command.cancel()
        await asyncio.gather(*commands, return_exceptions=True)

    # -- one of them --------------------------------------------------------------------------------------------------

    async def _go_on(self, one: _Restart) -> None:
        name, now, desk = one.operation.name, self.control.clock(), self.control.desk
        seen = self.acts.seen(name) if name in self.control.watch.verdicts else None
        if seen is not None:
            one.gone |= not seen.speaks or seen.health is Health.DOWN

        # Its command first: how that has ended is told at once.
        if one.ran_at is None and one.command.done():
            ran = one.command.result()
            self.control.restarts[name, ran.good] += 1
            one.ran_at = now
            if not ran.good:
                one.result = f"failed: {ran.line}"
            told = f"its command is done{f': {ran.line}' if ran.line else ''}" if ran.good else f"failed: {ran.line}"
            await desk.progress(one.operation.id, steps=(told, *_waits(one, self.acts.rules.wait_s)))

        # Then the host, which has a while to come back.
        if one.result == records.RUNNING and one.ran_at is not None:
            one.result = self._result(one, seen, now)
        if one.result != records.RUNNING:
            await desk.progress(one.operation.id, result=one.result)
            self._end(one)
            self._tell(one)

    def _result(self, one: _Restart, seen: mend.Seen | None, now: float) -> str:
        """How it stands, its command being done."""
        name, since_s = one.operation.name, now - one.began_at
        beat = self.control.watch.beats.get(name)
        if seen is None:
            return "failed: it was deleted meanwhile" if not self._is_there(name) else records.RUNNING
        uptime_s = number_in(beat.status.get("uptime_s")) if beat is not None else None
        spoke_s = beat.at - one.began_at if beat is not None else 0.0
        if mend.is_back(seen, uptime_s, spoke_s, gone=one.gone):
            return f"done: it is back after {since_s:.0f} s"
        if now - (one.ran_at or now) < self.acts.rules.wait_s:
            return records.RUNNING
        how = f"it is {seen.health.value}{f': {seen.why}' if seen.why else ''}"
        if seen.speaks and seen.health in (*mend.SURE, Health.DRAINING):
            how = "it goes on as before: see what the command does"
        return f"failed: not restarted within {self.acts.rules.wait_s:.0f} s: {how}"

    def _end(self, one: _Restart) -> None:
        del self._going[one.operation.id]
        self.acts.busy.pop(one.operation.name, None)
        self.acts.working.discard(one.operation.id)

    def _tell(self, one: _Restart) -> None:
        name, good = one.operation.name, one.result.startswith("done")
        log.log(
            logging.INFO if good else logging.ERROR, "restart of %s: %s", name, one.result,
            extra=event("controller.restarted", host=name, operation=one.operation.id, good=good),
        )  # fmt: skip
        if not good:
            why = one.result.removeprefix("failed: ")
            self.control.watch.note("host.restart_failed", name, f"{one.operation.id}: {why}", self.control.wall())

    # -- what is known of hosts ---------------------------------------------------------------------------------------

    def _host(self, kind: str, name: str) -> Gateway | Router:
        found: Gateway | Router | None = self.control.desk.kept.fleet.gateway.get(name)
        if kind == "router":
            found = next((one for one in self.control.desk.kept.fleet.routers if one.name == name), None)
        if found is None:
            raise changes.RefusedError(f"there is no {kind} {name}", missing=True)
        return found

    def _is_there(self, name: str) -> bool:
        return any(one == name for _, one in self.control.desk.hosts)

    def _why_not(self, name: str) -> str:
        control, rules = self.control, self.acts.rules
        if name not in control.watch.verdicts:
            return "it is listened to for the first seconds: ask again"
        hosts = {one: self.acts.seen(one) for one in control.watch.verdicts}
        return mend.why_not(
            name, hosts, mend.groups_of(control.desk.kept.fleet), control.desk.records.restarts, control.wall(),
            limit=rules.limit, wait_s=rules.wait_s,
        )  # fmt: skip

    def _plan_of(self, host: Gateway | Router) -> list[str]:
        kind = "gateway" if isinstance(host, Gateway) else "router"
        seen = self.acts.seen(host.name)
        lines = [f"{kind} {host.name}, which is {seen.health.value}, is restarted by the controller's restart_command"]
        if kind == "router":
            return [
                *lines,
                f"VPC {host.vpc}'s other routers carry its flows, once the address that hosts send to is theirs",
            ]
        if not seen.drained and seen.health is not Health.DOWN:
            lines.append(
                f"its flows go by the cluster's others within a second, busy ones too: `fwd gateway drain {host.name}` "
                "first lets them end in peace"
            )
        return lines


def _waits(one: _Restart, wait_s: float) -> tuple[str, ...]:
    return () if one.result != records.RUNNING else (f"waits for it to come back, {wait_s:.0f} s at most",)
