"""Carry out upgrades of gateways (upgrade.py): one operation at a time, which tells where it stands.

It lives in the controller that began it: when that one ends, or leads no more, it ends, too, and the next one says so.
A command that runs then is not killed for that, but for the end of the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from fwd.controller import changes, mend, records, spawn, upgrade
from fwd.controller.acts import Acts
from fwd.controller.control import Control
from fwd.controller.desk import Asked
from fwd.controller.health import FRESH_S, Health
from fwd.controller.records import Operation
from fwd.controller.shares import shares_in
from fwd.controller.store import Write
from fwd.controller.upgrade import Act, Facts, Phase, Step
from fwd.proto.logged import event

_BUSY: Final = "is being upgraded"
log = logging.getLogger(__name__)


@dataclass
class _Course:
    """An upgrade that is under way. `order`: of the last change that was made for it."""

    operation: Operation
    asked: Asked
    steps: list[Step]
    order: tuple[int, int] = (0, 0)
    command: asyncio.Task[spawn.Ran] | None = None
    told: Sequence[str] = ()


@dataclass
class Upgrades:
    """See the module. `command` empty: there are none."""

    control: Control
    acts: Acts
    command: Sequence[str] = ()
    limit_s: float = 600.0
    _course: _Course | None = field(default=None, init=False)
    _left: set[asyncio.Task[spawn.Ran]] = field(default_factory=set, init=False)  # commands of nobody's any more

    def plan(self, names: Sequence[str]) -> list[str]:
        """Say what would be done. Raises RefusedError for what cannot be."""
        gateways = self.control.desk.kept.fleet.gateway
        if not self.command:
            raise changes.RefusedError("there is no upgrade_command in controller.toml", conflict=True)
        self._check_free()
        for name in names:
            if name not in gateways:
                raise changes.RefusedError(f"there is no gateway {name}", missing=True)
            if names.count(name) > 1:
                raise changes.RefusedError(f"gateway {name} stands here twice")
            if why := upgrade.why_not(self._facts(name)):
                raise changes.RefusedError(f"gateway {name}: {why}", conflict=True)
        return [self._plan_of(name) for name in names]

    async def begin(self, asked: Asked, names: Sequence[str]) -> Operation:
        """Begin with some gateways. Raises as `plan` does, and what the desk does."""
        plan = self.plan(names)
        steps = [Step(name) for name in names]

        # Whoever has asked at the same time may have begun while this one waited to write.
        def nothing_beside(known: records.Records) -> Sequence[Write]:
            self._check_free()
            return ()

        lines = tuple(one.line for one in steps)
        made = await self.control.desk.begin(asked, nothing_beside, plan=tuple(plan), steps=lines)
        self._course = _Course(made, asked, steps)
        self.acts.working.add(made.id)
        return made

    def _check_free(self) -> None:
        if self._course is not None:
            raise changes.RefusedError(f"{self._course.operation.id} is under way: one at a time", conflict=True)

    async def turn(self) -> None:
        """Go on: due each second. Raises what the desk does; the next turn goes on."""
        course = self._course
        if course is None:
            return
        if self.control.desk.term is None:
            self._end(course)
            return

        # The first that is not done is the one that is worked on.
        number = next((n for n, one in enumerate(course.steps) if one.phase is not Phase.DONE), None)
        if number is not None and course.steps[number].phase is not Phase.FAILED:
            await self._go_on(course, number)
        lines = tuple(one.line for one in course.steps)
        result = _result(course.steps)
        if (lines, result) != (course.told, records.RUNNING):
            await self.control.desk.progress(course.operation.id, steps=lines, result=result)
            course.told = lines
        if result != records.RUNNING:
            self._end(course)
            self._tell(course, result)

    async def close(self) -> None:
        """End what is under way."""
        if self._course is not None:
            self._end(self._course)
        for command in self._left:
            command.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    async def _go_on(self, course: _Course, number: int) -> None:
        step = course.steps[number]
        facts = self._facts(step.host, course)
        after, act = upgrade.advance(step, facts, self.control.clock(), self.limit_s)
        if act is not None:
            await self._do(course, step.host, act)
        course.steps[number] = after
        if after.phase in (Phase.DONE, Phase.FAILED):
            self._let_go(step.host)
            course.command = None
        elif after.phase is not Phase.WAITS:
            self.acts.busy[step.host] = _BUSY

    def _let_go(self, name: str) -> None:
        """Be done with a gateway; what others do with it goes on."""
        if self.acts.busy.get(name) == _BUSY:
            del self.acts.busy[name]

    async def _do(self, course: _Course, name: str, act: Act) -> None:
        desk = self.control.desk
        if act == "run":
            argv = spawn.filled(self.command, spawn.words_of(desk.kept.fleet.gateway[name]))
            course.command = asyncio.create_task(spawn.run(argv, self.limit_s))
            return
        state = {"drain": "draining", "undrain": "active"}[act]
        asked = replace(course.asked, act=act, kind="gateway", name=name, now=self.control.wall())
        await desk.change(asked, lambda fleet: changes.change(fleet, "gateway", name, {"state": state}))
        course.order = desk.newest

    def _end(self, course: _Course) -> None:
        self._course = None
        for step in course.steps:
            self._let_go(step.host)
        self.acts.working.discard(course.operation.id)
        if course.command is not None:
            self._left.add(course.command)
            course.command.add_done_callback(self._left.discard)

    def _tell(self, course: _Course, result: str) -> None:
        good = not result.startswith("failed")
        level, about = logging.INFO if good else logging.ERROR, f"{course.operation.id}: {result}"
        log.log(level, "upgrade: %s", result, extra=event("controller.upgraded", operation=course.operation.id))
        for step in course.steps:
            if step.phase is Phase.FAILED:
                self.control.happened.note("host.upgrade_failed", step.host, about, self.control.wall())

    def _plan_of(self, name: str) -> str:
        facts = self._facts(name)
        drained = "is drained already, and stays so" if facts.draining else "is drained, and goes back into service"
        return f"gateway {name}: {facts.version or 'of no known version'}; {drained}"

    def _facts(self, name: str, course: _Course | None = None) -> Facts:
        """Gather what is known of a gateway."""
        fleet, watch, now = self.control.desk.kept.fleet, self.control.watch, self.control.clock()
        gateway, beat, verdict = fleet.gateway.get(name), watch.beats.get(name), watch.verdicts.get(name)
        if gateway is None or verdict is None:
            return Facts(is_there=gateway is not None, health=Health.JOINING, why="it has not reported yet")
        hosts = {one: self.acts.seen(one) for one in watch.verdicts}
        clusters = {group: members for group, members in mend.groups_of(fleet).items() if group.startswith("cluster ")}
        status = beat.status if beat is not None else {}
        ran = course.command.result() if course and course.command and course.command.done() else None
        shares = shares_in(fleet, watch.beats, now).get(name, ())
        return Facts(
            draining=gateway.state == "draining", health=verdict.health, why=verdict.reason,
            applied=beat is not None and (course is None or beat.applied >= course.order),
            heard_at=beat.at if beat is not None and now - beat.at <= FRESH_S else 0.0,
            ready=status.get("ready") is True or status.get("draining") is True,
            version=beat.version if beat is not None else "", shares=[one.share for one in shares], ran=ran,
            deadline_s=max((one.drain_deadline for one in fleet.routers if one.vpc == gateway.vpc), default=0),
            alone=mend.alone_in(name, hosts, clusters), busy=hosts[name].busy if hosts[name].busy != _BUSY else "",
        )  # fmt: skip


def _result(steps: Sequence[Step]) -> str:
    """How a whole upgrade stands."""
    failed = next((one for one in steps if one.phase is Phase.FAILED), None)
    if failed is not None:
        waiting = [one.host for one in steps if one.phase is Phase.WAITS]
        drained = "" if failed.since == 0.0 else f"; `fwd gateway show {failed.host}`, and undrain it once it is well"
        rest = f"; not begun: {', '.join(waiting)}" if waiting else ""
        return f"failed: {failed.host}: {failed.text}{drained}{rest}"
    return "done" if all(one.phase is Phase.DONE for one in steps) else records.RUNNING
