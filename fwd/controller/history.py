"""The last events in the store, so that whoever leads next shows them, and goes on telling the webhook of them.

What is new is written once a second, all of it in one transaction, and with it up to which event the webhook has been
told. Of too many the oldest one of the host that has most goes. An event that was told in the last second before a
controller ended may be told again, under the term and number that it had.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Final

from fwd.controller.control import Control
from fwd.controller.happened import Event, crowded
from fwd.controller.store import Entry, Write
from fwd.controller.webhook import Webhook
from fwd.proto.logged import event

KEPT_MAX: Final = 256
NEW_MAX: Final = 40  # in a transaction, and so in a second
_EVENT, _TOLD = "event/", "events-told"
log = logging.getLogger(__name__)


@dataclass
class History:
    """See the module."""

    control: Control
    hook: Webhook | None = None
    _kept: list[Event] = field(default_factory=list)
    _last: int = 0  # the newest event of this controller that is kept
    _told: int | None = None  # as it is in the store
    _knows: bool = False  # what is kept; before that nothing is written, which would take its place

    async def begin(self) -> None:
        """Know what is kept, now that this controller leads."""
        store, happened, self._knows = self.control.desk.store, self.control.happened, False
        entries, _ = await store.read(_EVENT)
        told, _ = await store.read(_TOLD)
        self._kept = list(_events_in(entries))
        newest = self._kept[-1].number if self._kept else 0
        self._told = _number_in(told[0]) if told else None

        # What another one has noted meanwhile, and not told, is told from here.
        if self.hook is not None:
            since = max(newest if self._told is None else self._told, self._last)
            self.hook.told = max(self.hook.told, since)
            for one in self._kept:
                if one.number > since:
                    self.hook.put(one)
        self._last = happened.restore(self._kept, self._last)
        self.control.watch.recall()
        self._knows = True

    async def turn(self) -> None:
        """Write what is new: due each second. Raises what the desk does; the next turn goes on."""
        if self.control.desk.term is None:
            return
        if not self._knows:
            await self.begin()
        new = [one for one in self.control.happened.events if one.number > self._last][:NEW_MAX]
        told = None if self.hook is None else self.hook.told
        kept, gone = [*self._kept, *new], []
        while len(kept) > KEPT_MAX:
            gone.append(kept.pop(crowded(one.host for one in kept)))
        if not new and told == self._told:
            return

        writes = [Write(_key(one), json.dumps(asdict(one)).encode()) for one in new if one not in gone]
        writes += [Write(_key(one), None) for one in gone if one not in new]
        if told != self._told:
            writes.append(Write(_TOLD, None if told is None else str(told).encode()))
        await self.control.desk.keep(writes)
        self._kept, self._told = kept, told
        self._last = new[-1].number if new else self._last


def _key(one: Event) -> str:
    return f"{_EVENT}{one.number:016d}"


def _number_in(entry: Entry) -> int | None:
    return int(entry.value) if entry.value.isdigit() else None


def _events_in(entries: Iterable[Entry]) -> Iterable[Event]:
    """Read events; what is none is told of and left out."""
    for entry in entries:
        try:
            row = json.loads(entry.value)
            yield Event(
                int(row["number"]), float(row["at"]), str(row["what"]), str(row["host"]), str(row["text"]),
                int(row["term"]),
            )  # fmt: skip
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s in the store is no event: %s", entry.key, error, extra=event("controller.trouble"))
