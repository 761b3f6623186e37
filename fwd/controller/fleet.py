"""The fleet in the store: read whole, changed one object at a time, and a document for each host that it concerns.

A change is one transaction: the object, the pairs that follow, and the next generation; it says which revision of the
object it has seen. The last deletions are noted with their generation, so that a document can say what was taken away
on purpose (link/document.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from fwd.controller.changes import KINDS, objects_of, plan
from fwd.controller.place import Pair, Placement, place
from fwd.controller.store import ABSENT, Store, StoreError, Write
from fwd.model.fleet import Fleet
from fwd.model.mistakes import first_reason

_OBJECT: Final = "object/"
_PLACED: Final = "placed"  # pairs, generation, what was removed
REMOVED_MAX: Final = 256


@dataclass(frozen=True)
class Kept:
    """What the store holds, at one revision. `revisions`: of each object, by kind and name."""

    fleet: Fleet = field(default_factory=Fleet)
    pairs: tuple[Pair, ...] = ()
    generation: int = 0
    removed: tuple[tuple[str, int], ...] = ()  # peerings, and the generation that made each smaller; the latest last
    revisions: Mapping[tuple[str, str], int] = field(default_factory=dict)
    placed_revision: int = ABSENT

    @property
    def placement(self) -> Placement:
        """What each host is to do."""
        return place(self.fleet, self.pairs)


@dataclass(frozen=True)
class Outcome:
    """What a change comes to. `lines`: its plan. `kept`: what holds afterwards; of a dry run, what would."""

    kept: Kept
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Seen:
    """What a user has looked at before: an object's revision, a plan by its digest; None: that is not asked."""

    kind: str
    name: str
    revision: int | None = None
    plan: str | None = None

    def check_object(self, kept: Kept) -> None:
        """See that the object is the same still. Raises StaleError."""
        now = kept.revisions.get((self.kind, self.name), ABSENT)
        if self.revision not in (None, now):
            raise StaleError(f"it has changed since: it is at revision {now} now: look at it first")

    def check_plan(self, plan: Sequence[str]) -> None:
        """See that what was planned would come of it. Raises StaleError."""
        if self.plan not in (None, digest_of(plan)):
            raise StaleError("the fleet has changed since, and this would do something else now")


class StaleError(Exception):
    """The object, or the plan, is another by now than the one that the user has seen."""


def digest_of(plan: Sequence[str]) -> str:
    """Return by what a plan is known again."""
    return hashlib.sha256("\n".join(plan).encode()).hexdigest()


async def load(store: Store) -> Kept:
    """Read everything."""
    entries, _ = await store.read("")
    data: dict[str, list[Any]] = {field: [] for field, _ in KINDS.values()}
    revisions: dict[tuple[str, str], int] = {}
    placed: dict[str, Any] = {}
    placed_revision = ABSENT

    # Each object has a key of its own, by kind and name; what was placed is one.
    for entry in entries:
        if entry.key == _PLACED:
            placed, placed_revision = json.loads(entry.value), entry.revision
        elif entry.key.startswith(_OBJECT):
            _, kind, name = entry.key.split("/", 2)
            if kind not in KINDS:
                raise StoreError(f"the store has what this fwd does not know: was a later one here? {entry.key}")
            data[KINDS[kind][0]].append(json.loads(entry.value))
            revisions[kind, name] = entry.revision
    try:
        fleet = Fleet.model_validate(data)
    except ValidationError as error:
        why = first_reason(error, {})
        raise StoreError(f"the store has what this fwd does not know: was a later one here? {why}") from None
    return Kept(
        fleet,
        tuple(Pair(*one) for one in placed.get("pairs", ())),
        placed.get("generation", 0),
        tuple((name, generation) for name, generation in placed.get("removed", ())),
        revisions,
        placed_revision,
    )


async def edit(
    store: Store,
    term: int,
    kept: Kept,
    act: Callable[[Fleet], Fleet],
    *,
    seen: Seen | None = None,
    dry_run: bool = False,
    beside: Callable[[Outcome], Sequence[Write]] = lambda outcome: (),
    again: bool = False,
) -> Outcome:
    """Change the fleet by `act`. `seen`: what must still be so.
    `beside`: what else is written in the same transaction, also if the fleet stays as it is. `again`: there is a new
    generation then, too: what documents have besides is another.

    Raises RefusedError, StaleError, and what the store raises: ConflictError if it has other content than `kept`.
    """
    if seen is not None:
        seen.check_object(kept)
    after = act(kept.fleet)
    placement, lines = plan(kept.fleet, after, kept.pairs)
    if seen is not None:
        seen.check_plan(lines)
    gone = [one.name for one in kept.fleet.peerings if one.name not in {other.name for other in after.peerings}]
    removed = _removed(kept, placement, gone)
    outcome = Kept(after, placement.pairs, kept.generation + 1, removed, kept.revisions, kept.placed_revision)
    if dry_run:
        return Outcome(outcome, tuple(lines))

    # A change that changes nothing is no generation.
    changes = [*_object_writes(kept, after), _placed_write(kept, outcome)] if after != kept.fleet or again else []
    others = beside(Outcome(outcome if changes else kept, tuple(lines)))
    if not changes and not others:
        return Outcome(kept, tuple(lines))
    await store.write(term, [*changes, *others])
    return Outcome(await load(store), tuple(lines))


def _removed(kept: Kept, placement: Placement, gone: list[str]) -> tuple[tuple[str, int], ...]:
    """Peerings that hosts may lose by a person's wish, in the generation that comes: those deleted, and those whose
    clusters were changed. A host counts what is newer than what it has."""
    smaller = {pair.peering for pair in set(kept.pairs) - set(placement.pairs)}
    smaller |= set(_smaller_spreads(kept.placement, placement))
    found = [*kept.removed, *((name, kept.generation + 1) for name in sorted(smaller | set(gone)))]
    return tuple(found[-REMOVED_MAX:])


def _smaller_spreads(before: Placement, after: Placement) -> Iterator[str]:
    """The peerings of which a router has fewer gateways; they may have no pair, while nobody is on the far side."""
    for host, content in before.routers.items():
        now = {one["name"]: _names(one) for one in after.routers.get(host, {}).get("spread", ())}
        yield from (one["name"] for one in content["spread"] if _names(one) - now.get(one["name"], set()))


def _names(spread: Mapping[str, Any]) -> set[str]:
    return {one["name"] for one in spread["gateway"]}


def _object_writes(kept: Kept, after: Fleet) -> list[Write]:
    """The objects that are others now, each as it was seen."""
    writes = []
    for kind in KINDS:
        was, now = objects_of(kept.fleet, kind), objects_of(after, kind)
        for name in sorted(was.keys() | now.keys()):
            if was.get(name) != now.get(name):
                value = json.dumps(now[name]).encode() if name in now else None
                writes.append(Write(f"{_OBJECT}{kind}/{name}", value, kept.revisions.get((kind, name), ABSENT)))
    return writes


def _placed_write(kept: Kept, after: Kept) -> Write:
    value = {
        "pairs": [(one.peering, one.a, one.b) for one in after.pairs],
        "generation": after.generation,
        "removed": list(after.removed),
    }
    return Write(_PLACED, json.dumps(value).encode(), kept.placed_revision)
