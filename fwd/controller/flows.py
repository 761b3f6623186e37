"""How much goes through each gateway and peering, by what gateways count, and for the last hour: no IO.

A gateway counts the inner bytes that it has carried of each peering, both ways. Its word counts for itself alone. A
counter that is smaller than before has begun anew, and says nothing of the time between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.controller.health import FRESH_S
from fwd.controller.sights import TABLES_MAX

HOUR_S: Final = 3600.0
STEP_S: Final = 5.0  # between two points of the last hour
_BYTES_MAX: Final = 2**63
_RATE_MAX: Final = 1e14


@dataclass
class _Host:
    """What was heard of one last. `peerings`: bits a second."""

    at: float
    counted: Mapping[str, int]
    peerings: Mapping[str, float] = field(default_factory=dict)
    past: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=int(HOUR_S / STEP_S)))


class Flows:
    """See the module."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Host] = {}

    def hear(self, host: str, status: Mapping[str, Any], now: float, wall: float) -> None:
        """Take a heartbeat's counters."""
        counted = dict(_counted(status))
        known = self._hosts.get(host)
        if known is None:
            self._hosts[host] = _Host(now, counted)
            return
        if now <= known.at:
            return

        # Bits a second since the last heartbeat.
        spans = {name: number - known.counted[name] for name, number in counted.items() if name in known.counted}
        known.peerings = {
            name: min(8 * span / (now - known.at), _RATE_MAX) for name, span in spans.items() if span >= 0
        }
        known.at, known.counted = now, counted
        if known.peerings and (not known.past or wall - known.past[-1][0] >= STEP_S - 0.5):
            known.past.append((wall, sum(known.peerings.values())))

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

    def past_of(self, host: str, wall: float) -> tuple[tuple[float, float], ...]:
        """Return the last hour of a gateway: when, and bits a second."""
        known = self._hosts.get(host)
        return tuple(one for one in known.past if wall - one[0] <= HOUR_S) if known is not None else ()

    def _fresh(self, host: str, now: float) -> _Host | None:
        known = self._hosts.get(host)
        return known if known is not None and now - known.at <= FRESH_S else None


def _counted(status: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Read what a gateway has carried of each peering, of whatever form its status is."""
    peerings = status.get("peerings")
    for table in peerings[:TABLES_MAX] if isinstance(peerings, list) else ():
        number = table.get("bytes") if isinstance(table, dict) else None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _BYTES_MAX:
            yield str(table.get("name")), number
