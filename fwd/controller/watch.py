"""What the controller hears of its hosts, and how each one is: heartbeats in, verdicts and events out; no IO.

Times are those of a clock that is never set (`now`), and are told as ages. A controller that has just begun to lead has
heard nothing of anybody: it says so, and judges a host for silence only after it has listened for long enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.controller.health import FRESH_S, Evidence, Report, Sight, Verdict, judge
from fwd.controller.place import Pair, identity_of
from fwd.model.fleet import Fleet

EVENTS_MAX: Final = 1000
SKEW_S: Final = 30.0
TEXT_MAX: Final = 200
_REASONS_MAX: Final = 8


@dataclass(frozen=True)
class Beat:
    """A heartbeat. `applied`, `seen`, `held`: (term, generation) of documents. `skew_s`: its clock less ours."""

    at: float
    applied: tuple[int, int]
    seen: tuple[int, int]
    held: tuple[int, int] | None = None
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
        self._told: dict[tuple[str, str], str] = {}

    def hear(self, host: str, beat: Beat, newest: tuple[int, int], wall: float) -> None:
        """Take a heartbeat; `newest`: what the host is to have, `wall`: the time of day."""
        self.beats[host] = beat
        held = f"holds term {beat.held[0]}, generation {beat.held[1]}: {beat.why}" if beat.held else ""
        refused = f"refuses a document: {beat.why}" if beat.why and not beat.held else ""
        ahead = f"has seen term {beat.seen[0]}, generation {beat.seen[1]}, and here it is {newest[0]}, {newest[1]}"
        clock = f"its clock is {beat.skew_s:+.0f} s off"
        for what, text in (
            ("host.holds", held),
            ("host.refuses", refused),
            ("host.ahead", f"{ahead}: was the store put back? `fwd controller recover`" if beat.seen > newest else ""),
            ("host.clock", clock if abs(beat.skew_s) > SKEW_S else ""),
        ):
            self._tell_once(what, host, text, wall)

    def turn(self, fleet: Fleet, pairs: Sequence[Pair], now: float, wall: float) -> None:
        """Judge every host anew, and note who is another than before."""
        names = [*(one.name for one in fleet.gateways), *(one.name for one in fleet.routers)]
        for name in [name for name in self.verdicts if name not in names]:
            self.note("host.left", name, "deleted", wall)
            for known in (self.verdicts, self.beats, self.since):
                known.pop(name, None)

        sights = list(self._sights(pairs, now))
        draining = {one.name for one in fleet.gateways if one.state == "draining"}
        listening = now - self._began_at <= FRESH_S
        for name in names:
            if listening and name not in self.beats:
                continue
            before = self.verdicts.get(name)
            verdict = judge(self._evidence(name, sights, name in draining), now, before)
            self.verdicts[name] = verdict
            if before is None or before.health is not verdict.health:
                self.since[name] = wall
                text = f"{verdict.health.value}: {verdict.reason}" if verdict.reason else verdict.health.value
                self.note(f"host.{verdict.health.value}", name, text, wall)

    def note(self, what: str, host: str, text: str, wall: float) -> None:
        """Add an event."""
        self._number += 1
        self.events.append(Event(self._number, wall, what, host, text))

    def sights_of(self, pair: Pair, now: float) -> list[Sight]:
        """What both ends of a pair say of it."""
        found = [(peering, of, sight) for peering, of, sight in self._sights([pair], now) if peering == pair.peering]
        return [sight for _, of, sight in found if of in (pair.a, pair.b)]

    def waiting_for(self, order: tuple[int, int], hosts: Iterable[str]) -> list[str]:
        """Those of some hosts that have not applied a document yet."""
        return [host for host in hosts if host not in self.beats or self.beats[host].applied < order]

    def _evidence(self, name: str, sights: Sequence[tuple[str | None, str, Sight]], draining: bool) -> Evidence:
        beat = self.beats.get(name)
        report = None
        if beat is not None:
            ready = beat.status.get("ready") is not False and not beat.held and not beat.why
            reasons = (beat.why,) if beat.why else ()
            report = Report(beat.at, ready, bool(beat.status.get("draining")), (*reasons, *reasons_in(beat.status)))
        return Evidence(
            report,
            tuple(sight for peering, of, sight in sights if peering is None and of == name),
            tuple(sight for peering, of, sight in sights if peering is not None and of == name),
            draining=draining,
        )

    def _sights(self, pairs: Sequence[Pair], now: float) -> Iterator[tuple[str | None, str, Sight]]:
        """What hosts see of others: the peering (None: a router's), of whom, and what."""
        for host, beat in self.beats.items():
            if now - beat.at > FRESH_S:
                continue
            for table in _tables(beat.status.get("gateways")):
                yield None, str(table.get("name")), _sight(host, beat.at, table, table.get("up") is True)
            seen = {str(table.get("name")): table for table in _tables(beat.status.get("peerings"))}
            for pair in pairs:
                if host in (pair.a, pair.b) and pair.peering in seen:
                    yield from self._of_pair(host, beat, pair, seen[pair.peering], pairs)

    def _of_pair(
        self, host: str, beat: Beat, pair: Pair, table: Mapping[str, Any], pairs: Sequence[Pair]
    ) -> Iterator[tuple[str, str, Sight]]:
        """Of one with several partners a peering's own state says which ones only by `far`."""
        other = pair.b if host == pair.a else pair.a
        far = {str(one.get("identity")): one for one in _tables(table.get("far"))}
        if one := far.get(identity_of(other)):
            yield pair.peering, other, _sight(host, beat.at, one, one.get("up") is True)
        elif sum(pair.peering == one.peering and host in (one.a, one.b) for one in pairs) == 1:
            yield pair.peering, other, _sight(host, beat.at, table, table.get("ready") is True)

    def _tell_once(self, what: str, host: str, text: str, wall: float) -> None:
        """Note what is wrong when it begins, or is another."""
        if text and self._told.get((what, host)) != text:
            self.note(what, host, text, wall)
        self._told[what, host] = text


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
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _sight(by: str, at: float, table: Mapping[str, Any], up: bool) -> Sight:
    rtt, loss = (table.get(key) for key in ("rtt_ms", "loss"))
    return Sight(by, at, up, _number(loss) or 0.0, _number(rtt))


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    return float(min(max(value, 0), 10**9)) if is_number else None  # type: ignore[call-overload]
