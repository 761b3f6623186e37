"""What has happened: the last events, each told once to whoever listens; no IO. history.py keeps them.

What is wrong with a host is told when it begins, or is another, and not each second. Of a host with very many events
its oldest goes, so nobody's are gone for another's; and if there are too many, of the host that has most.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fwd.controller.health import Health

EVENTS_MAX: Final = 1000
EVENTS_EACH_MAX: Final = 100  # of a host
STATES: Final = frozenset(f"host.{one.value}" for one in Health)  # events that say how a host is from then on
_UNHEARD: Final = frozenset(f"host.{one.value}" for one in (Health.JOINING, Health.LEFT))
EVENT_S: Final = 60.0  # between two of a kind of one host that say what is wrong with it


@dataclass(frozen=True)
class Event:
    """Something that has happened. `number` rises; `at`: by the wall clock; `term`: of who led then."""

    number: int
    at: float
    what: str
    host: str
    text: str
    term: int = 0


def crowded(hosts: Iterable[str]) -> int:
    """Say which of several is to go, by whose they are: the first one of the host that has most."""
    all_hosts = list(hosts)
    (most, _), *_ = Counter(all_hosts).most_common(1)
    return all_hosts.index(most)


class Happened:
    """See the module."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.listeners: list[Callable[[Event], None]] = []
        self.term = 0
        self._number = 0
        self._told: dict[tuple[str, str], tuple[str, float]] = {}

    def note(self, what: str, host: str, text: str, wall: float) -> None:
        """Add an event."""
        own = [one for one in self.events if one.host == host]
        if len(own) >= EVENTS_EACH_MAX:
            self.events.remove(own[0])
        elif len(self.events) >= EVENTS_MAX:
            del self.events[crowded(one.host for one in self.events)]
        self._number += 1
        self.events.append(Event(self._number, wall, what, host, text, self.term))
        for listener in self.listeners:
            listener(self.events[-1])

    def tell_once(self, what: str, host: str, text: str, wall: float) -> None:
        """Note what is wrong when it begins, or is another; an empty text: nothing is."""
        before, at = self._told.get((what, host), ("", float("-inf")))
        if text == before or (text and abs(wall - at) < EVENT_S):
            return
        if text:
            self.note(what, host, text, wall)
        self._told[what, host] = text, wall if text else at

    def forget(self, hosts: Collection[str], wall: float) -> None:
        """Forget what was told of others than these, long ago."""
        for key in [key for key, (_, at) in self._told.items() if key[1] not in hosts and wall - at > EVENT_S]:
            del self._told[key]

    def since(self, host: str, what: str) -> float | None:
        """Since when the last that was told of a host's state is this, through all who led; None: it is another."""
        found: Event | None = None
        for one in reversed(self.events):
            if one.host == host and one.what in STATES:
                # The same one twice by one leader: between them was another one, which it had no room to tell.
                if one.what != what or (found is not None and found.term == one.term):
                    break
                found = one
        return found.at if found is not None else None

    @property
    def heard(self) -> Iterator[str]:
        """Name the hosts that were heard, by what was told of their states last."""
        last = {one.host: one.what for one in self.events if one.what in STATES}
        return (host for host, what in last.items() if what not in _UNHEARD)

    def restore(self, kept: Sequence[Event], after: int) -> int:
        """Know what was kept; what was noted here beyond `after` is not, and comes behind it. Returns the last kept."""
        own = [one for one in self.events if one.number > after]
        last = kept[-1].number if kept else after
        self._number = last + len(own)
        self.events = deque([*kept, *(replace(one, number=last + n) for n, one in enumerate(own, 1))])
        return last

    def begin(self) -> None:
        """Have told nobody of anything: what is wrong is told anew."""
        self._told.clear()
