"""Upgrade gateways one after another: pure. What is to be done next with one, by what is known of it now.

    waits → drains → its command runs → comes back → goes back into service → done

It begins with one only while another of each of its clusters carries, and ends at the first that fails, which stays
drained: nothing is sent to it until a person has seen to it. One that was drained before stays so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Literal

from fwd.controller.health import Health
from fwd.controller.mend import SURE
from fwd.controller.spawn import Ran

DRAIN_S: Final = 90.0  # for which flows are waited for, at least
AFTER_S: Final = 30.0  # and as long after the last router's drain_deadline
SETTLE_S: Final = 5.0  # for which one is drained of which no router says how much it has
_NUMBERS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}")
Act = Literal["drain", "run", "undrain"]


class Phase(Enum):
    """Where the upgrade of one gateway stands; the value says so to people."""

    WAITS = "waits"
    DRAINS = "drains"
    RUNS = "its command runs"
    RETURNS = "comes back"
    SETTLES = "goes back into service"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Step:
    """One gateway's upgrade. `since`: of the phase. `before`: the version it had. `stays`: it was drained before."""

    host: str
    phase: Phase = Phase.WAITS
    since: float = 0.0
    before: str = ""
    stays: bool = False
    text: str = ""

    @property
    def line(self) -> str:
        """Say where it stands."""
        return f"{self.host}: {self.phase.value}{f': {self.text}' if self.text else ''}"


def stands_at(lines: Sequence[str]) -> str:
    """Name the gateway that an upgrade has come to, by the lines of its steps."""
    words = [line.split(": ", 2) for line in lines]
    return next((host for host, phase, *_ in words if phase != Phase.DONE.value), "")


@dataclass(frozen=True)
class Facts:
    """What is known of a gateway. `applied`: it has done what it was told last. `heard_at`: of its last heartbeat.
    `shares`: of its VPC's slots that routers send to it, those that say so. `deadline_s`: after how long at most they
    send it no more, once it drains. `ran`: how the command has ended.
    """

    is_there: bool = True
    draining: bool = False
    health: Health = Health.UP
    why: str = ""
    applied: bool = True
    heard_at: float = 0.0
    ready: bool = True
    version: str = ""
    shares: Sequence[float] = ()
    deadline_s: float = 0.0
    ran: Ran | None = None
    alone: str = ""  # the cluster of which nobody else carries
    busy: str = ""  # what else is done with it


def advance(step: Step, facts: Facts, now: float, limit_s: float) -> tuple[Step, Act | None]:
    """Say where a gateway's upgrade stands now, and what is to be done for it. `limit_s`: for it to come back."""

    def to(phase: Phase, text: str = "", act: Act | None = None, **changed: str | bool) -> tuple[Step, Act | None]:
        return replace(step, phase=phase, since=now, text=text, **changed), act  # type: ignore[arg-type]

    if not facts.is_there:
        return to(Phase.FAILED, "it was deleted meanwhile")
    match step.phase:
        case Phase.WAITS if not facts.busy:
            if why := why_not(facts):
                return to(Phase.FAILED, why)
            return to(Phase.DRAINS, "", None if facts.draining else "drain", before=facts.version, stays=facts.draining)
        case Phase.DRAINS | Phase.RUNS | Phase.RETURNS if not facts.draining:
            return to(Phase.FAILED, "it was taken back into service meanwhile")
        case Phase.DRAINS if _is_drained(step, facts, now):
            return to(Phase.RUNS, "", "run")
        case Phase.RUNS if facts.ran is not None:
            return to(Phase.RETURNS if facts.ran.good else Phase.FAILED, facts.ran.line)
        case Phase.RETURNS:
            if facts.heard_at > step.since and facts.ready and is_newer(facts.version, step.before):
                news = f"{step.before} → {facts.version}"
                return (
                    to(Phase.DONE, f"{news}, drained as before") if step.stays else to(Phase.SETTLES, news, "undrain")
                )
            if now - step.since >= limit_s:
                return to(Phase.FAILED, _not_back(step, facts, limit_s))
        case Phase.SETTLES:
            if facts.health is Health.UP and facts.applied and not facts.draining:
                return to(Phase.DONE, step.text)
            if now - step.since >= limit_s:
                return to(
                    Phase.FAILED, f"{step.text}, and after {limit_s:.0f} s it is {facts.health.value}: {facts.why}"
                )
        case _:
            pass
    return step, None


def why_not(facts: Facts) -> str:
    """Say why one cannot be upgraded now; empty if it can."""
    if facts.busy:
        return f"it {facts.busy}"
    if facts.health not in (*SURE, Health.DRAINING):
        return f"it is {facts.health.value}: {facts.why}" if facts.why else f"it is {facts.health.value}"
    if facts.alone and not facts.draining:
        return f"nobody else of {facts.alone} carries: add a gateway, or drain it yourself first"
    return ""


def numbers_of(version: str) -> tuple[int, ...]:
    """Read the numbers with which a version begins; none: it has none."""
    match = _NUMBERS.match(version)
    return tuple(int(one) for one in match[0].split(".")) if match else ()


def is_older(version: str, other: str) -> bool:
    """Whether a version is older than another, by their numbers."""
    mine, theirs = numbers_of(version), numbers_of(other)
    length = max(len(mine), len(theirs))
    return (mine + (0,) * length)[:length] < (theirs + (0,) * length)[:length]


def is_newer(version: str, before: str) -> bool:
    """Whether it is not the version before, nor an older one."""
    return version != before and not is_older(version, before)


def _is_drained(step: Step, facts: Facts, now: float) -> bool:
    """Whether no router sends it anything, or it was waited for long enough."""
    waited_s, most_s = now - step.since, max(DRAIN_S, facts.deadline_s + AFTER_S)
    return waited_s >= (SETTLE_S if facts.applied and not any(facts.shares) else most_s)


def _not_back(step: Step, facts: Facts, limit_s: float) -> str:
    if facts.heard_at <= step.since:
        return f"it has not come back within {limit_s:.0f} s"
    if not is_newer(facts.version, step.before):
        return f"it came back with version {facts.version}, and had {step.before}"
    return f"it came back with version {facts.version}, and is not ready: {facts.why}"
