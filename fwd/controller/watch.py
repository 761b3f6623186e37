"""What the controller hears of its hosts, and how each one is: heartbeats in, verdicts and events out; no IO.

Times are those of a clock that is never set (`now`), and are told as ages. A controller that has just begun to lead has
heard nothing of anybody: it says so, and judges a host for silence only after it has listened for long enough.

A host is believed of itself, and of others only what is its part to see: a router of the gateways of its VPC, a gateway
of those that it is paired with. What is wrong with a host is an event a minute at most.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.controller.health import FRESH_S, Evidence, Report, Sight, Verdict, judge
from fwd.controller.place import Pair, identity_of
from fwd.model.fleet import Fleet

Order = tuple[int, int]
EVENTS_MAX: Final = 1000
SKEW_S: Final = 30.0
TEXT_MAX: Final = 200
_REASONS_MAX: Final = 8
_TABLES_MAX: Final = 64  # of each kind in a status
EVENT_S: Final = 60.0  # between two events of one kind for one host


@dataclass(frozen=True)
class Beat:
    """A heartbeat. `applied`, `seen`, `held`: (term, generation) of documents. `skew_s`: its clock less ours."""

    at: float
    applied: Order
    seen: Order
    held: Order | None = None
    why: str = ""  # it is held, or a document was refused
    status: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    skew_s: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that has happened. `number` rises; `at`: by the wall clock."""

    number: int
    at: float
    what: str
    host: str
    text: str


class Watch:
    """See the module."""

    def __init__(self, now: float) -> None:
        self.beats: dict[str, Beat] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.since: dict[str, float] = {}  # by the wall clock, of each verdict's state
        self.events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._began_at = now
        self._number = 0
        self._told: dict[tuple[str, str], tuple[str, float]] = {}
        self._pairs_of: dict[str, list[Pair]] = {}  # by gateway
        self._reach: dict[str, frozenset[str]] = {}  # the gateways that a router sends to

    def hear(self, host: str, beat: Beat, newest: Order, wall: float) -> None:
        """Take a heartbeat; `newest`: what the host is to have, `wall`: the time of day."""
        self.beats[host] = beat
        held = f"holds term {beat.held[0]}, generation {beat.held[1]}: {beat.why}" if beat.held else ""
        refused = f"refuses a document: {beat.why}" if beat.why and not beat.held else ""
        ahead = f"has seen term {beat.seen[0]}, generation {beat.seen[1]}, and here it is {newest[0]}, {newest[1]}"
        clock = f"its clock is {round(beat.skew_s, -1):+.0f} s off"
        for what, text in (
            ("host.holds", held),
            ("host.refuses", refused),
            ("host.ahead", f"{ahead}: was the store put back? `fwd controller recover`" if beat.seen > newest else ""),
            ("host.clock", clock if abs(beat.skew_s) > SKEW_S else ""),
        ):
            self._tell_once(what, host, text, wall)

    def turn(self, fleet: Fleet, pairs: Sequence[Pair], now: float, wall: float) -> None:
        """Judge every host anew, and note who is another than before."""
        self._know(fleet, pairs)
        names = [*(one.name for one in fleet.gateways), *(one.name for one in fleet.routers)]
        for name in [name for name in self.verdicts if name not in names]:
            self.note("host.left", name, "deleted", wall)
            for known in (self.verdicts, self.beats, self.since):
                known.pop(name, None)
            self._told = {key: told for key, told in self._told.items() if key[1] != name}

        routers, partners = self._sights(now)
        draining = {one.name for one in fleet.gateways if one.state == "draining"}
        listening = now - self._began_at <= FRESH_S
        for name in names:
            if listening and name not in self.beats:
                continue
            before = self.verdicts.get(name)
            beside = tuple(routers.get(name, ())), tuple(partners.get(name, ()))
            verdict = judge(self._evidence(name, *beside, draining=name in draining), now, before)
            self.verdicts[name] = verdict
            if before is None or before.health is not verdict.health:
                self.since[name] = wall
                text = f"{verdict.health.value}: {verdict.reason}" if verdict.reason else verdict.health.value
                self.note(f"host.{verdict.health.value}", name, text, wall)

    def newest_seen(self) -> tuple[str, Order]:
        """Of all hosts, the one that has seen the newest document, and which."""
        seen = ((host, beat.seen) for host, beat in self.beats.items())
        return max(seen, key=lambda one: one[1], default=("", (0, 0)))

    def note(self, what: str, host: str, text: str, wall: float) -> None:
        """Add an event."""
        self._number += 1
        self.events.append(Event(self._number, wall, what, host, text))

    def sights_of(self, pair: Pair, now: float) -> list[Sight]:
        """What both ends of a pair say of it."""
        ends = [(host, self.beats[host]) for host in (pair.a, pair.b) if host in self.beats]
        fresh = [(host, beat) for host, beat in ends if now - beat.at <= FRESH_S]
        return [sight for host, beat in fresh for _, sight in self._of_pair(host, beat, pair)]

    def waiting_for(self, order: Order, hosts: Iterable[str]) -> list[str]:
        """Those of some hosts that have not applied a document yet."""
        return [host for host in hosts if host not in self.beats or self.beats[host].applied < order]

    def _know(self, fleet: Fleet, pairs: Sequence[Pair]) -> None:
        """Learn whose part it is to see whom."""
        self._pairs_of = {}
        for pair in pairs:
            for host in (pair.a, pair.b):
                self._pairs_of.setdefault(host, []).append(pair)
        of_vpc = {vpc.name: frozenset(one.name for one in fleet.gateways if one.vpc == vpc.name) for vpc in fleet.vpcs}
        self._reach = {one.name: of_vpc[one.vpc] for one in fleet.routers}

    def _evidence(
        self, name: str, routers: tuple[Sight, ...], partners: tuple[Sight, ...], *, draining: bool
    ) -> Evidence:
        beat = self.beats.get(name)
        report = None
        if beat is not None:
            ready = beat.status.get("ready") is not False and not beat.held and not beat.why
            reasons = (beat.why,) if beat.why else ()
            report = Report(beat.at, ready, bool(beat.status.get("draining")), (*reasons, *reasons_in(beat.status)))
        return Evidence(report, routers, partners, draining=draining)

    def _sights(self, now: float) -> tuple[dict[str, list[Sight]], dict[str, list[Sight]]]:
        """What routers, and what partners, see of each gateway."""
        routers: dict[str, list[Sight]] = {}
        partners: dict[str, list[Sight]] = {}
        for host, beat in self.beats.items():
            if now - beat.at > FRESH_S:
                continue
            seen = {str(table.get("name")): table for table in _tables(beat.status.get("gateways"))}
            for name in self._reach.get(host, frozenset()) & seen.keys():
                routers.setdefault(name, []).append(_sight(host, beat.at, seen[name], seen[name].get("up") is True))
            for pair in self._pairs_of.get(host, ()):
                for other, sight in self._of_pair(host, beat, pair):
                    partners.setdefault(other, []).append(sight)
        return routers, partners

    def _of_pair(self, host: str, beat: Beat, pair: Pair) -> Iterator[tuple[str, Sight]]:
        """Of one with several partners a peering's own state says which ones only by `far`."""
        tables = (one for one in _tables(beat.status.get("peerings")) if one.get("name") == pair.peering)
        if (table := next(tables, None)) is None:
            return
        other = pair.b if host == pair.a else pair.a
        far = {str(one.get("identity")): one for one in _tables(table.get("far"))}
        if one := far.get(identity_of(other)):
            yield other, _sight(host, beat.at, one, one.get("up") is True)
        elif sum(one.peering == pair.peering for one in self._pairs_of.get(host, ())) == 1:
            yield other, _sight(host, beat.at, table, table.get("ready") is True)

    def _tell_once(self, what: str, host: str, text: str, wall: float) -> None:
        """Note what is wrong when it begins, or is another, and not more often than once in EVENT_S."""
        known, at = self._told.get((what, host), ("", float("-inf")))
        if text and text != known and wall - at >= EVENT_S:
            self.note(what, host, text, wall)
            self._told[what, host] = text, wall
        elif not text:
            self._told[what, host] = "", at


def reasons_in(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Read why a host is not ready in its status, as texts of bounded length."""
    found = status.get("reasons", status.get("waiting"))
    items = found.items() if isinstance(found, dict) else ((None, one) for one in found) if _is_list(found) else ()
    texts = []
    for name, one in items:
        text = one.get("text", one.get("code")) if isinstance(one, dict) else one
        line = f"{name}: {text}" if name is not None else str(text)
        texts.append(" ".join(line[:TEXT_MAX].encode(errors="replace").decode().split()))
    return tuple(texts[:_REASONS_MAX])


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value[:_TABLES_MAX] if isinstance(one, dict)] if isinstance(value, list) else []


def _sight(by: str, at: float, table: Mapping[str, Any], up: bool) -> Sight:
    rtt, loss = (table.get(key) for key in ("rtt_ms", "loss"))
    return Sight(by, at, up, _number(loss) or 0.0, _number(rtt))


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(min(max(value, 0), 10**9)) if is_number else None  # type: ignore[call-overload]
