"""Judge how each host of a fleet is, from what it says, what routers see, and what its partners see: pure.

A lost heartbeat is a hint and never a removal: a gateway that routers and partners see to be well keeps its traffic,
and is *unreachable* for the controller alone. Whoever is *down* has been missed by those that send to it. Nothing that
is decided here moves a packet: routers and gateways have done so by themselves, by the same evidence.

Every verdict has a reason, the time since which it holds, and the evidence with its age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

FRESH_S: Final = 3.0  # what is older is no evidence of how it is now
GRAY_LOSS: Final = 0.02
_HEARD: Final = f"and its last heartbeat is not {FRESH_S:.0f} s old"
_SAID_TWICE: Final = "does not answer probes"  # by a router, of one that is not up


class Health(Enum):
    """How a host is."""

    JOINING = "joining"  # it has never said anything
    UP = "up"
    DEGRADED = "degraded"  # it carries traffic, and not as well as it should
    DRAINING = "draining"
    UNREACHABLE = "unreachable"  # for the controller alone, as far as anybody knows
    DOWN = "down"
    LEFT = "left"  # deleted


@dataclass(frozen=True)
class Report:
    """What a host has said of itself, and when. `reasons`: why it is not ready. `vouches`: it says that packets pass,
    and not merely nothing to the contrary.
    """

    at: float
    ready: bool = True
    draining: bool = False
    reasons: tuple[str, ...] = ()
    vouches: bool = True


@dataclass(frozen=True)
class Sight:
    """What another host sees of it, and when. `by`: a router, or the gateway at the other end of a pair; of a router, a
    gateway that it probes.
    """

    by: str
    at: float
    up: bool
    loss: float = 0.0
    rtt_ms: float | None = None
    why: str = ""  # a router does not use it, though it may answer


@dataclass(frozen=True)
class Evidence:
    """All that is known of one host."""

    report: Report | None = None
    routers: tuple[Sight, ...] = ()
    pairs: tuple[Sight, ...] = ()
    deleted: bool = False
    heard_before: bool = False  # by whoever led before: that it says nothing now is no beginning
    draining: bool = False  # by the operator's wish


@dataclass(frozen=True)
class Verdict:
    """How a host is, why, and since when. `contested`: it is down by its routers' word alone. `evidence`: lines for the
    user, each with its age."""

    health: Health
    reason: str = ""
    since: float = 0.0
    contested: bool = False
    evidence: tuple[str, ...] = field(default=(), compare=False)


def judge(known: Evidence, now: float, before: Verdict | None = None) -> Verdict:
    """Judge a host. `before`: the verdict so far, whose `since` stays while its state does."""
    health, reason = _judge(known, now)
    since = before.since if before is not None and before.health is health else now
    contested = health is Health.DOWN and _is_contested(known, now)
    return Verdict(health, reason, since, contested, tuple(_lines(known, now)))


def _is_contested(known: Evidence, now: float) -> bool:
    """Whether a gateway says that packets pass, and not all of those to whom they pass deny it: a router that was taken
    over, or is cut off itself, says as much as one that is right."""
    report, pairs = known.report, _fresh(known.pairs, now)
    speaks = report is not None and now - report.at <= FRESH_S and report.ready and report.vouches
    return speaks and (not pairs or any(one.up for one in pairs))


def _judge(known: Evidence, now: float) -> tuple[Health, str]:
    routers, pairs = _fresh(known.routers, now), _fresh(known.pairs, now)
    seen = [one for one in (*routers, *pairs) if one.up]
    if known.deleted:
        return Health.LEFT, "deleted"
    if known.report is None and not known.heard_before:
        return Health.JOINING, "it has not reported yet"

    # Without its own word that of others counts, and without any nobody knows. Whoever sends through a host that is not
    # sent through itself, as a partner may that has had nothing to send, knows less than its routers.
    if known.report is None or now - known.report.at > FRESH_S:
        if routers and not any(one.up for one in routers):
            return Health.DOWN, f"no heartbeat, and no router reaches it ({', '.join(one.by for one in routers)})"
        if seen:
            return Health.UNREACHABLE, f"no heartbeat, and {seen[0].by} sees it up: it keeps its traffic"
        if pairs:
            return Health.DOWN, f"no heartbeat, and {pairs[0].by} does not see it either"
        return Health.UNREACHABLE, "no heartbeat, and nobody else looks at it"

    # It speaks. Whoever sends to it may still find that nothing comes through: of a pair both ends do, so a partner,
    # which is another VPC's, has nobody taken for down who says that packets pass.
    if routers and not any(one.up for one in routers):
        return Health.DOWN, f"no router reaches it ({', '.join(one.by for one in routers)}), {_HEARD}"
    if pairs and not any(one.up for one in pairs) and not (known.report.ready and known.report.vouches):
        return Health.DOWN, f"no partner reaches it ({', '.join(one.by for one in pairs)}), {_HEARD}"
    if known.draining or known.report.draining:
        return Health.DRAINING, "is being drained"
    if not known.report.ready:
        return Health.DEGRADED, known.report.reasons[0] if known.report.reasons else "it is not ready"
    return _shades(routers, pairs)


def _shades(routers: Sequence[Sight], pairs: Sequence[Sight]) -> tuple[Health, str]:
    """Tell up from degraded, of one that carries traffic."""
    missing = [one.by for one in (*routers, *pairs) if not one.up]
    if missing:
        return Health.DEGRADED, f"not reached by {', '.join(missing)}"
    if unused := next((one for one in routers if one.why), None):
        return Health.DEGRADED, f"router {unused.by} does not use it: {unused.why}"
    lossy = [one for one in (*routers, *pairs) if one.loss >= GRAY_LOSS]
    if lossy:
        worst = max(lossy, key=lambda one: one.loss)
        return Health.DEGRADED, f"loses {worst.loss:.1%} of the packets from {worst.by}"
    return Health.UP, ""


def _fresh(sights: Iterable[Sight], now: float) -> list[Sight]:
    return [one for one in sights if now - one.at <= FRESH_S]


def _lines(known: Evidence, now: float) -> Iterable[str]:
    """Tell all evidence with its age."""
    if known.report is not None:
        said = "ready" if known.report.ready else "not ready: " + "; ".join(known.report.reasons)
        yield f"its heartbeat {_age(known.report.at, now)}: {said}"
    elif known.heard_before:
        yield "no heartbeat since this controller leads"
    for kind, sights, asked in (("router", known.routers, "probes"), ("partner", known.pairs, "echoes")):
        for one in sights:
            way = f"{one.rtt_ms:.1f} ms, " if one.rtt_ms is not None else ""
            said = f"up, {way}{one.loss:.1%} lost" if one.up else f"no answer to its {asked}"
            said += f": {one.why}" if one.why and (one.up or one.why != _SAID_TWICE) else ""
            yield f"{kind} {one.by} {_age(one.at, now)}: {said}"


def _age(at: float, now: float) -> str:
    return f"{max(0.0, now - at):.1f} s ago"
