"""What the controller hears of its hosts, and how each one is: heartbeats in, verdicts and events out; no IO.

Times are those of a clock that is never set (`now`), and are told as ages. A controller that has just begun to lead has
heard nothing of anybody: it says so, and judges a host for silence only after it has listened for long enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.controller.happened import Happened
from fwd.controller.health import FRESH_S, Evidence, Health, Report, Sight, Verdict, judge
from fwd.controller.place import Pair
from fwd.controller.rates import Rates
from fwd.controller.sights import Sights, sights_in
from fwd.model.fleet import Fleet
from fwd.proto.text import line_of

SKEW_S: Final = 30.0
SKEW_MAX_S: Final = 1e10  # some 300 years, of whatever a host says that its clock is
_SKEW_STEP_S: Final = 10
_STATES: Final = (20.0, 1 / 30)  # changes of a host's state that are told at once, and for each second from then on
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


class Watch:
    """See the module. `happened`: where events go."""

    def __init__(self, now: float, happened: Happened | None = None) -> None:
        self.happened = happened or Happened()
        self.note, self.tell_once = self.happened.note, self.happened.tell_once
        self.beats: dict[str, Beat] = {}
        self.verdicts: dict[str, Verdict] = {}
        self.since: dict[str, float] = {}  # by the wall clock, of each verdict's state
        self._began_at = now
        self._states = Rates(*_STATES)
        self._untold: set[str] = set()  # whose last change of state has yet to be told
        self._sights = Sights()
        self._heard_before: frozenset[str] = frozenset()

    def hear(self, host: str, beat: Beat, newest: tuple[int, int], wall: float) -> None:
        """Take a heartbeat; `newest`: what the host is to have, `wall`: the time of day."""
        self.beats[host] = beat
        held = f"holds term {beat.held[0]}, generation {beat.held[1]}: {beat.why}" if beat.held else ""
        refused = f"refuses a document: {beat.why}" if beat.why and not beat.held else ""
        ahead = f"has seen term {beat.seen[0]}, generation {beat.seen[1]}, and here it is {newest[0]}, {newest[1]}"
        clock = f"its clock is {_SKEW_STEP_S * round(beat.skew_s / _SKEW_STEP_S):+d} s off"
        for what, text in (
            ("host.holds", held),
            ("host.refuses", refused),
            ("host.ahead", f"{ahead}: was the store put back? `fwd controller recover`" if beat.seen > newest else ""),
            ("host.clock", clock if abs(beat.skew_s) > SKEW_S else ""),
        ):
            self.tell_once(what, host, text, wall)

    def turn(self, fleet: Fleet, pairs: Sequence[Pair], now: float, wall: float) -> None:
        """Judge every host anew, and note who is another than before."""
        names = [*(one.name for one in fleet.gateways), *(one.name for one in fleet.routers)]
        for name in [name for name in self.verdicts if name not in names]:
            self.note("host.left", name, "deleted", wall)
            for known in (self.verdicts, self.beats, self.since):
                known.pop(name, None)
            self._untold.discard(name)
        self.happened.forget(names, wall)

        # What all say is sorted once.
        said = {host: (beat.at, beat.status) for host, beat in self.beats.items()}
        self._sights = sights_in(fleet, pairs, said, now)
        draining = {one.name for one in fleet.gateways if one.state == "draining"}
        listening = now - self._began_at <= FRESH_S
        for name in names:
            if listening and name not in self.beats:
                continue
            before = self.verdicts.get(name)
            verdict = judge(self._evidence(name, name in draining), now, before)
            self.verdicts[name] = verdict
            if before is None or before.health is not verdict.health:
                told_at = self.happened.since(name, f"host.{verdict.health.value}") if before is None else None
                self.since[name] = min(wall, told_at) if told_at is not None else wall
                self._untold.add(name)
            if name in self._untold and self._states.take(name, now):
                self._untold.remove(name)
                text = f"{verdict.health.value}: {verdict.reason}" if verdict.reason else verdict.health.value
                self.note(f"host.{verdict.health.value}", name, text, wall)

    def recall(self) -> None:
        """Know since when hosts are as they are, and who was heard, now that what happened before is known."""
        self._heard_before = frozenset(self.happened.heard)
        for name, verdict in self.verdicts.items():
            if (told_at := self.happened.since(name, f"host.{verdict.health.value}")) is not None:
                self.since[name] = min(self.since[name], told_at)

    def sights_of(self, pair: Pair, now: float) -> list[Sight]:
        """What both ends of a pair say of it, as of the last turn."""
        return [sight for sight in self._sights.pairs.get(pair, ()) if now - sight.at <= FRESH_S]

    def unused_by(self, gateway: str, now: float) -> list[str]:
        """Routers of its VPC that send nothing to a gateway, whatever else is known of it, as of the last turn."""
        sights = self._sights.routers.get(gateway, ())
        return sorted(one.by for one in sights if now - one.at <= FRESH_S and (one.why or not one.up))

    @property
    def down(self) -> set[str]:
        """Name the hosts that are down."""
        return {name for name, verdict in self.verdicts.items() if verdict.health is Health.DOWN}

    def waiting_for(self, order: tuple[int, int], hosts: Iterable[str]) -> list[str]:
        """Those of some hosts that have not applied a document yet."""
        return [host for host in hosts if host not in self.beats or self.beats[host].applied < order]

    def _evidence(self, name: str, draining: bool) -> Evidence:
        beat = self.beats.get(name)
        report = None
        if beat is not None:
            said = beat.status.get("ready")
            ready = said is not False and not beat.held and not beat.why
            reasons = (*((beat.why,) if beat.why else ()), *reasons_in(beat.status))
            report = Report(beat.at, ready, bool(beat.status.get("draining")), reasons, vouches=said is True)
        return Evidence(
            report,
            tuple(self._sights.routers.get(name, ())),
            tuple(self._sights.partners.get(name, ())),
            heard_before=name in self._heard_before, draining=draining,
        )  # fmt: skip


def reasons_in(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Read why a host is not ready in its status, as texts of bounded length."""
    found = status.get("reasons", status.get("waiting"))
    items = found.items() if isinstance(found, dict) else ((None, one) for one in found) if _is_list(found) else ()
    texts = []
    for name, one in items:
        text = one.get("text", one.get("code")) if isinstance(one, dict) else one
        texts.append(line_of(f"{name}: {text}" if name is not None else text, TEXT_MAX))
    return tuple(texts[:_REASONS_MAX])


def _is_list(value: object) -> bool:
    return isinstance(value, list)
