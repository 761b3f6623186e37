"""Decide which hosts are restarted now, and of the others that are down why not; and say why a person may not: pure.

Only who is *down* is restarted, which means missed by those that send to it; who is merely silent keeps its traffic. A
fault of the controller, or of those by whose word it judges, must not become one of a cluster. So of a group (the
gateways of a cluster, the routers of a VPC) one host goes at a time, a host a few times in ten minutes, and never one
that says of itself that it is ready while nobody else of its group carries anything: it may be the last that does. Nor
a gateway by its routers' word alone, while it says that packets pass, and its partners do not all deny it.

A person may have any other host restarted, by the same rules; one that may carry, as long as another of its group does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fwd.controller.health import Health
from fwd.model.fleet import Fleet

LIMIT: Final = 3
LIMIT_S: Final = 600.0  # within which a host is restarted so often
DOWN_S: Final = 3.0  # down for so long before it is restarted: what comes back by itself is let be
SPEAKS_S: Final = 30.0  # the same of one that speaks: it may be starting, or mends itself
WAIT_S: Final = 120.0  # within which a host is back; from then on the restart has failed
SURE: Final = (Health.UP, Health.DEGRADED)  # who carries for sure
_CARRIES: Final = (*SURE, Health.UNREACHABLE)
BUSY: Final = "is being restarted"


@dataclass(frozen=True)
class Seen:
    """How a host is, for how long, and why. `ready`: by its own word, which is fresh. `busy`: what is done with it.
    `drained`: a person has taken it out of service. `well_at`: when it was seen to be well, if it ever was. `speaks`:
    its heartbeat is fresh. `contested`: it is down by its routers' word alone.
    """

    health: Health
    for_s: float = 0.0
    why: str = ""
    ready: bool = False
    busy: str = ""
    drained: bool = False
    well_at: float = float("-inf")
    speaks: bool = False
    contested: bool = False


@dataclass(frozen=True)
class Restarted:
    """A restart that was begun; `at`: by the wall clock, since another controller may read it."""

    host: str
    at: float


@dataclass(frozen=True)
class Decision:
    """By host the reason why it is restarted, must not be until somebody sees to it, or has to wait."""

    restart: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)


def groups_of(fleet: Fleet) -> dict[str, list[str]]:
    """Name the hosts that stand in for each other: the gateways of each cluster, the routers of each VPC."""
    found = {f"cluster {one.name}": list(one.gateways) for one in fleet.clusters}
    for router in fleet.routers:
        found.setdefault(f"the routers of {router.vpc}", []).append(router.name)
    return found


def lately(history: Iterable[Restarted], wall: float) -> list[Restarted]:
    """Leave out restarts of long ago, and those of a clock that was set since."""
    return [one for one in history if abs(wall - one.at) < LIMIT_S]


def decide(
    hosts: Mapping[str, Seen],
    groups: Mapping[str, Sequence[str]],
    history: Sequence[Restarted],
    wall: float,
    *,
    limit: int = LIMIT,
    wait_s: float = WAIT_S,
) -> Decision:
    """Decide about all hosts that are down."""
    restart: dict[str, str] = {}
    refused: dict[str, str] = {}
    waiting: dict[str, str] = {}
    recent = lately(history, wall)
    busy = _busy(hosts, recent, wall, wait_s)

    for name, one in sorted(hosts.items()):
        if one.health is not Health.DOWN or one.for_s < (SPEAKS_S if one.speaks else DOWN_S):
            continue
        count = sum(before.host == name for before in recent)
        if name in busy and busy[name] == BUSY and count >= limit:
            refused[name] = f"{BUSY}, {_often(limit)}, and not once more: see to it if it does not come back"
        elif name in busy:
            waiting[name] = busy[name]
        elif one.drained:
            waiting[name] = "is drained: whoever has done so may be at work on it"
        elif count >= limit:
            refused[name] = f"restarted {_often(limit)}, and down again: see to it"
        elif one.contested:
            refused[name] = "says that packets pass, and its partners do not deny it: see why no router reaches it"
        elif alone := alone_in(name, hosts, groups, _CARRIES) if one.ready else "":
            refused[name] = f"says that it is ready, and nobody else of {alone} carries: it may be the last that does"
        elif other := _other(name, busy, groups):
            waiting[name] = other
        else:
            restart[name] = f"down for {one.for_s:.0f} s: {one.why}"
            busy[name] = BUSY
    return Decision(restart, refused, waiting)


def why_not(
    name: str,
    hosts: Mapping[str, Seen],
    groups: Mapping[str, Sequence[str]],
    history: Sequence[Restarted],
    wall: float,
    *,
    limit: int = LIMIT,
    wait_s: float = WAIT_S,
) -> str:
    """Say why a person may not have a host restarted now; empty if he may."""
    one, recent = hosts[name], lately(history, wall)
    busy = _busy(hosts, recent, wall, wait_s)
    if name in busy:
        return f"it {busy[name]}"
    if sum(before.host == name for before in recent) >= limit:
        return f"it was restarted {_often(limit)}: see to it, or wait"
    if other := _other(name, busy, groups):
        return other

    # Only of one that is down, and does not say otherwise, or that was drained, is known that it carries nothing.
    may_carry = not one.drained and (one.health is not Health.DOWN or one.ready)
    if alone := alone_in(name, hosts, groups) if may_carry else "":
        return f"nobody else of {alone} carries: it may be the last that does"
    return ""


def alone_in(
    name: str, hosts: Mapping[str, Seen], groups: Mapping[str, Sequence[str]], carries: Collection[Health] = SURE
) -> str:
    """Name the first of a host's groups of which nobody else carries, or goes on to; empty: there is none."""
    for group, members in groups.items():
        mates = [hosts[one] for one in members if one != name and one in hosts]
        if name in members and not any(one.health in carries and not one.busy for one in mates):
            return group
    return ""


def _often(limit: int) -> str:
    """Say what the limit is."""
    return f"{limit} time{'s' if limit > 1 else ''} in {LIMIT_S / 60:.0f} minutes"


def is_back(seen: Seen, uptime_s: float | None, since_s: float, *, gone: bool) -> bool:
    """Whether a host that was restarted `since_s` ago is well again. `uptime_s`: for how long it says that it runs, if
    it does; of an older release, which does not, it must have been missed meanwhile (`gone`).
    """
    is_anew = gone if uptime_s is None else uptime_s <= since_s
    return is_anew and seen.speaks and seen.health in (*SURE, Health.DRAINING)


def _under_way(one: Restarted, hosts: Mapping[str, Seen], wall: float, wait_s: float) -> bool:
    """Whether a host that was restarted may still come back; one that has, and went again, is not waited for."""
    seen = hosts.get(one.host)
    is_away = seen is not None and seen.health is Health.DOWN and seen.well_at <= one.at
    return is_away and abs(wall - one.at) < wait_s


def _busy(hosts: Mapping[str, Seen], recent: Sequence[Restarted], wall: float, wait_s: float) -> dict[str, str]:
    """With whom something is done, and what."""
    busy = {name: one.busy for name, one in hosts.items() if one.busy}
    return busy | {one.host: BUSY for one in recent if _under_way(one, hosts, wall, wait_s)}


def _other(name: str, busy: Mapping[str, str], groups: Mapping[str, Sequence[str]]) -> str:
    """Say for which other host of its groups this one waits; empty: for none."""
    mates = {mate for members in groups.values() if name in members for mate in members} - {name}
    others = sorted(mate for mate in mates if mate in busy)
    return f"{others[0]} {busy[others[0]]}, and of a group one goes at a time" if others else ""
