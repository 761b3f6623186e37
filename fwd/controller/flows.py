"""How much goes through each gateway, peering and member, by what gateways count, and for the last hour: no IO.

A gateway counts the inner bytes that it has carried of each peering, both ways. Its word counts for itself alone. A
counter that is smaller than before has begun anew, and says nothing of the time between.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fwd.controller.health import FRESH_S
from fwd.controller.members import BYTES_MAX, Key, members_in
from fwd.controller.sights import TABLES_MAX
from fwd.model.fleet import Fleet

HOUR_S: Final = 3600.0
SAME_S: Final = 2.5  # the same counters for so long: nothing goes through
STEP_S: Final = 5.0  # between two points of the last hour
_RATE_MAX: Final = 1e14
Points = tuple[tuple[float, float], ...]  # when, and bits a second


@dataclass(frozen=True)
class _Point:
    """What went through a gateway; its members' in 4 octets each, as there are many."""

    at: float
    bits_s: float
    keys: tuple[Key, ...]
    of_each: array[float]


@dataclass
class _Host:
    """What was heard of one last. `peerings`, `members`: bits a second. `past`: when, all of it, and whose each is."""

    at: float
    counted: Mapping[str, int]
    of_members: Mapping[Key, int]
    peerings: Mapping[str, float] = field(default_factory=dict)
    members: Mapping[Key, float] = field(default_factory=dict)
    past: deque[_Point] = field(default_factory=lambda: deque(maxlen=int(HOUR_S / STEP_S)))


class Flows:
    """See the module."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def hear(self, host: str, status: Mapping[str, Any], now: float, wall: float) -> None:
        """Take a heartbeat's counters."""
        counted = dict(_counted(status))
        of_members = {one.key: one.bytes for one in members_in(status) if one.bytes is not None}
        known = self._hosts.get(host)
        if known is None:
            self._hosts[host] = _Host(now, counted, of_members)
            return
        if now <= known.at:
            return

        # A heartbeat that comes before its time, or before the agent has counted anew, tells the same as the last one.
        if (counted, of_members) == (known.counted, known.of_members) and now - known.at < SAME_S:
            return

        # Bits a second since the last heartbeat.
        known.peerings = _rates(known.counted, counted, now - known.at)
        known.members = _rates(known.of_members, of_members, now - known.at)
        known.at, known.counted, known.of_members = now, counted, of_members
        if known.peerings and (not known.past or wall - known.past[-1].at >= STEP_S - 0.5):
            keys = tuple(known.members)
            if known.past and known.past[-1].keys == keys:
                keys = known.past[-1].keys  # one for all points
            known.past.append(_Point(wall, sum(known.peerings.values()), keys, array("f", known.members.values())))

    def forget(self, hosts: set[str]) -> None:
        """Forget all other hosts."""
        for gone in [host for host in self._hosts if host not in hosts]:
            del self._hosts[gone]

    def of_host(self, host: str, now: float) -> float | None:
        """Return what goes through a gateway, in bits a second; None: it does not say."""
        known = self._fresh(host, now)
        return sum(known.peerings.values()) if known is not None and known.peerings else None

    def of_peering(self, peering: str, sides: tuple[set[str], set[str]], now: float) -> float | None:
        """Return what goes through a peering, by the side that has seen more of it; None: no gateway says."""
        found = []
        for side in sides:
            hosts = [one for host in side if (one := self._fresh(host, now)) is not None]
            rates = [one.peerings[peering] for one in hosts if peering in one.peerings]
            found += [sum(rates)] if rates else []
        return max(found, default=None)

    def of_all(self, fleet: Fleet, now: float) -> dict[tuple[str, str], float]:
        """Return what goes through each gateway and peering, by ("host" or "peering", name), as far as they say."""
        found = {("host", one.name): self.of_host(one.name, now) for one in fleet.gateways}
        for one in fleet.peerings:
            a, b = (set(fleet.cluster[name].gateways) for name in one.clusters)
            found["peering", one.name] = self.of_peering(one.name, (a, b), now)
        return {key: value for key, value in found.items() if value is not None}

    def of_members(self, host: str, now: float) -> Mapping[Key, float]:
        """Return what goes through each of a gateway's members, in bits a second."""
        known = self._fresh(host, now)
        return known.members if known is not None else {}

    def past_of(self, host: str, wall: float) -> Points:
        """Return the last hour of a gateway."""
        return tuple((one.at, one.bits_s) for one in self._past(host, wall))

    def past_of_members(self, host: str, wall: float) -> dict[Key, Points]:
        """Return the last hour of each member that there was in it."""
        found: dict[Key, list[tuple[float, float]]] = {}
        for one in self._past(host, wall):
            for key, bits_s in zip(one.keys, one.of_each, strict=True):
                found.setdefault(key, []).append((one.at, bits_s))
        return {key: tuple(points) for key, points in found.items()}

    def _past(self, host: str, wall: float) -> Iterator[_Point]:
        known = self._hosts.get(host)
        return (one for one in (known.past if known is not None else ()) if wall - one.at <= HOUR_S)

    def _fresh(self, host: str, now: float) -> _Host | None:
        known = self._hosts.get(host)
        return known if known is not None and now - known.at <= FRESH_S else None


_K = TypeVar("_K")


def _rates(before: Mapping[_K, int], after: Mapping[_K, int], seconds: float) -> dict[_K, float]:
    """Return bits a second of what has not begun anew."""
    spans = {key: number - before[key] for key, number in after.items() if key in before}
    return {key: min(8 * span / seconds, _RATE_MAX) for key, span in spans.items() if span >= 0}


def _counted(status: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Read what a gateway has carried of each peering, of whatever form its status is."""
    peerings = status.get("peerings")
    for table in peerings[:TABLES_MAX] if isinstance(peerings, list) else ():
        number = table.get("bytes") if isinstance(table, dict) else None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < BYTES_MAX:
            yield str(table.get("name")), number
