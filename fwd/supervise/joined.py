"""A host's controller, as root has it there: what it wants of this host, and what becomes of that.

    link's mailboxes ──checking.py──▶ taken: kept on disk, then in force beside what the local file has
                                      held: kept on disk, until root lets it pass (`accept-shrink`)
                                      refused: told to the controller, the status and the log

Whatever the controller does, says or does not say: what is in force stays until a document is taken. What a gateway
does with one is link.py's, and what a router does is fwd/router's.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final

from fwd.datapath.memory import Memory
from fwd.datapath.shared import GatewayShared
from fwd.link.directory import CA, IKE, LINK, Directory
from fwd.link.document import ACCEPTS, Answer, DocumentError
from fwd.link.kept import DOCUMENT, Shelf, tell_damage
from fwd.link.place import place_in
from fwd.model.config import Config
from fwd.model.linked import NOTHING, News
from fwd.model.router import RouterConfig
from fwd.model.words import is_address
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import names
from fwd.supervise.admin import RefusedError
from fwd.supervise.checking import REFUSED, Case, Checking, Found, What
from fwd.supervise.users import User

log = logging.getLogger(__name__)
AGAIN_S: Final = 1.0  # after a question, before the next one
UNKEPT_S: Final = 10.0  # after what could not be kept, or not be in force at the start, before it is tried again
_OF: Final[Mapping[What, str]] = {
    "start": "document", "document": "document", "accept": "document", "certificates": "certificates",
}  # fmt: skip
LOOK_UP_S: Final = 60.0  # between two look-ups of the controller's name, while it does not answer
LOOK_UP_AGAIN_S: Final = 5.0  # after one that has failed
Json = dict[str, Any]


class Joined(ABC):
    """See the module. `local`: the local file's configuration, as it is in force. `follow`: has all follow what is
    wanted now; it is told whether link is to begin anew, with another certificate.

    `checker`: whom the processes run as that examine what comes; `looks_up`: those that look up the controller's name.
    """

    KIND: ClassVar[str]
    CERTIFICATES: ClassVar[tuple[str, ...]]  # that this kind of host has

    def __init__(
        self,
        directory: Path,
        local: Callable[[], Config | RouterConfig],
        follow: Callable[[bool], None],
        memory: Memory,
        checker: User,
        looks_up: User,
    ) -> None:
        """Read what `fwd join` has put there. Raises UserError."""
        self.directory = Directory(directory)
        self._shelf = Shelf(directory)
        self.about = self.directory.about()
        self._key = self.directory.document_key()
        self._file, self._follow = local, follow
        self._memory = memory
        self._shared = GatewayShared(memory.map("supervisor"))
        self._checker, self._looks_up = checker, looks_up

        # What is known of what is in force.
        self.news = News(url=self.about.url, name=self.about.name)
        self._refusals: dict[str, str] = {}  # of what is in _OF

        # What was kept is in force, or nothing was; and until then: what was found in it, and why it is not.
        self.has_begun = False
        self._kept: Found | None = None
        self._why_not = ""
        self._begin_at = 0.0
        self._follows = False  # what changes is to be told
        self._changed: set[str] = set()  # files that nobody was told of

        # What is under way.
        self._asked: Checking | None = None
        self._ended: list[Checking] = []
        self._seen = {"document": 0, "certificates": 0}  # version of link's mailbox that was looked at
        self._not_before = 0.0
        self._is_due = False  # that what is held is to pass
        self._accepted: str | None = None  # why not; empty: it is in force; None: nobody has asked, or not yet
        self._lookup: names.Lookup | None = None
        self._look_up_at = 0.0
        self._follow_host()

    @property
    def told(self) -> Json:
        """What link and the agent are told of it."""
        return self.news.as_json()

    # -- by itself ----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take what is kept, at the start, without a controller. Raises UserError."""
        self._ask("start", bytes, time.monotonic())
        while self._asked is not None:
            self._asked.wait(0.1)
            self._hear(time.monotonic())
        self._bury(wait=True)
        self._follows = True

    def turn(self, now: float) -> None:
        """Go on with what is under way, with what is kept, or with what link has handed over."""
        self._bury()
        self._look_up(now)
        if self._asked is not None:
            self._hear(now)
        elif self._is_due:
            self._is_due = False
            self._ask("accept", bytes, now)
        elif not self.has_begun and now >= self._begin_at:
            self._ask("start", bytes, now)
        elif now >= self._not_before:
            for what, board in (("document", "documents"), ("certificates", "certificates")):
                version = self._version(board)
                if version and version != self._seen[what] and self._asked is None:
                    self._seen[what] = version
                    self._ask(what, lambda board=board: self._handed(board), now)  # type: ignore[arg-type, misc]

    def look_again(self) -> None:
        """Examine what was refused once more: the local file is another."""
        self._begin_at = self._not_before = 0.0
        if "document" in self._refusals:
            self._seen["document"] = -1

    def accept(self) -> Iterator[Json | None]:
        """Let what is held pass, by root's word, in its turn; what is given is what to say. Raises RefusedError."""
        self._accepted, self._is_due = None, True
        return self._accept()

    def _accept(self) -> Iterator[Json | None]:
        while self._accepted is None:
            yield None
        if self._accepted:
            raise RefusedError(self._accepted)
        yield {"accepted": list(self.news.applied)}

    def close(self) -> None:
        """End what is under way."""
        if self._asked is not None:
            self._dismiss(self._asked)
            self._asked = None
        if self._lookup is not None:
            names.end(self._lookup)
        self._bury(wait=True)

    # -- questions ----------------------------------------------------------------------------------------------------

    def _version(self, board: str) -> int:
        version: int = getattr(self._shared, board).version
        return version

    def _handed(self, board: str) -> bytes:
        """What link has written; for the child, which maps it anew: the supervisor's maps are not inherited."""
        shared = GatewayShared({"link": self._memory.regions["link"].map("read")})
        found: bytes = getattr(shared, board).get()
        return found

    def _ask(self, what: What, handed: Callable[[], bytes], now: float) -> None:
        self._not_before = now + AGAIN_S
        try:
            files = {name: self.directory.octets(name) for name in (CA, *self.CERTIFICATES)}
            kept, applied = self._shelf.read(), self.news.applied
            case = Case(self._file(), self.directory, self.about.name, self._key, kept, files, applied)
            self._asked = Checking(case, what, handed, self._checker, now)
        except (UserError, OSError) as error:
            self._refused(what, f"it cannot be examined: {error}; it is tried again")
            self._try_again(what)

    def _hear(self, now: float) -> None:
        asked = self._asked
        assert asked is not None
        try:
            found = asked.found(now)
        except UserError as error:
            found = Found(REFUSED, why=str(error))
        if found is None:
            return
        self._dismiss(asked)
        self._asked = None
        for name, why in found.damaged.items():
            tell_damage(name, why, self.directory.path)
        if found.lives and asked.what != "certificates":
            self._tell_lives(found)
        if found.order > self.news.seen:
            self.news = replace(self.news, seen=found.order)
        self._obey(asked.what, found)

    def _tell_lives(self, found: Found) -> None:
        self.news = replace(self.news, link=found.lives.get(LINK), ike=found.lives.get(IKE))

    def _obey(self, what: What, found: Found) -> None:
        """Do what was found out."""
        if what == "start" and found.held is not None:
            why = f"it takes away too much: `{ACCEPTS[self.KIND]}` on this host lets it pass"
            self.news = replace(self.news, held=found.held, held_why=why)
        match found.answer:
            case "take":
                self._take(what, found)
            case Answer.HOLD.value:
                self._hold(found)
            case Answer.OLD.value | "refused":
                self._refused(what, found.why, found)
            case "none" if found.order != NOTHING or DOCUMENT in found.damaged:
                self._refused(what, "it is damaged, and the controller has sent no other")
            case _:
                self.has_begun |= what == "start"
                self._is_well(what)

    def _stay_closed(self, kept: Found | None, why: str) -> None:
        """Have what was in force guarded, and tried again, since it cannot be in force."""
        before = self._kept
        if kept is not None and (kept.peerings or kept.router):
            self._kept = kept
        self._why_not = why
        self._begin_at = time.monotonic() + UNKEPT_S
        if self._follows and self._kept != before:
            self._follow(False)

    def _take(self, what: What, found: Found) -> None:
        """Keep it on disk first; what cannot be kept is not in force, either."""
        if what != "certificates":
            try:
                self._check(found)
            except DocumentError as error:
                self._refused(what, str(error), found)
                return
        try:
            for name, data in found.files.items():
                self._put(name, data)
            if found.document:
                self._shelf.take(found.document, found.order)
        except OSError as error:
            self._unkept(what, error)
            return

        # From here on it is in force.
        changed, self._changed = self._changed, set()
        self._is_well(what)
        if what == "certificates":
            self._tell_lives(found)
            told = event("controller.renewed")
            log.info("certificates renewed: %s", ", ".join(sorted(changed)) or "none", extra=told)
        else:
            self._enforce(what, found)
        if self._follows:
            self._follow(bool({f"{LINK}.pem", CA} & changed))

    @abstractmethod
    def _check(self, found: Found) -> None:
        """Believe the child in nothing that the local file does not give away. Raises DocumentError."""

    @abstractmethod
    def _want(self, found: Found) -> int:
        """Want what was found; returns how many peerings, or spreads, that are."""

    def _enforce(self, what: What, found: Found) -> None:
        term, generation = found.order
        count = self._want(found)
        held = self.news.held if what == "start" else None
        self.news = replace(self.news, applied=found.order, held=held)
        self.has_begun = True
        if what == "accept":
            self._accepted = ""
        told = event("controller.applied", term=term, generation=generation, peerings=count)
        log.info("the controller's document %d.%d: %d peerings", term, generation, count, extra=told)

    def _hold(self, found: Found) -> None:
        if found.order == self.news.held:  # it is kept already, and told
            return
        try:
            self._shelf.hold(found.document)
        except OSError as error:
            self._unkept("document", error)
            return
        self.news = replace(self.news, held=found.order, held_why=found.why)
        self._is_well("document")
        told = event("controller.held", term=found.order[0], generation=found.order[1], reason=found.why)
        log.warning("the controller's document %d.%d is held: %s", *found.order, found.why, extra=told)

    def _unkept(self, what: What, error: OSError) -> None:
        """Tell that the disk takes it not, and try again in a while."""
        self._refused(what, f"it cannot be kept in {self.directory.path}: {error.strerror}; it is tried again")
        self._try_again(what)

    def _try_again(self, what: What) -> None:
        self._seen |= {what: -1} if what in self._seen else {}
        self._not_before = self._begin_at = time.monotonic() + UNKEPT_S

    def _refused(self, what: What, why: str, kept: Found | None = None) -> None:
        """Tell why nothing has come of it; `kept`: what was in force, as far as that is understood."""
        if what == "accept":
            self._accepted = why
            return
        if what == "start":
            self._stay_closed(kept, why)
        text = f"{_OF[what]}{' that is kept here' if what == 'start' else ''}: {why}"
        if text != self._refusals.get(_OF[what]):
            log.error("the controller's %s", text, extra=event("controller.refused", reason=why))
        self._refusals[_OF[what]] = text
        self._tell_refusals()

    def _is_well(self, what: What) -> None:
        """Forget why what is of this kind was refused."""
        self._refusals.pop(_OF[what], None)
        self._tell_refusals()

    def _tell_refusals(self) -> None:
        self.news = replace(self.news, refused="; ".join(self._refusals.values()))

    def _put(self, name: str, data: bytes) -> None:
        """Have a file in the directory. Raises OSError."""
        try:
            same = self.directory.octets(name) == data
        except UserError:
            same = False
        if not same:
            self.directory.put(name, data)
            self._changed.add(name)  # until all that comes with it is kept, too

    # -- children, and the controller's name --------------------------------------------------------------------------

    def _dismiss(self, asked: Checking) -> None:
        asked.end()
        self._ended.append(asked)

    def _bury(self, *, wait: bool = False) -> None:
        while True:
            self._ended = [one for one in self._ended if not one.is_gone()]
            if not (wait and self._ended):
                return
            time.sleep(0.001)

    def _follow_host(self) -> None:
        """Take the controller's address, if its URL has one."""
        try:
            self._host = place_in(self.about.url).host
        except ValueError as error:
            raise UserError(f"{self.directory.path}: {error}") from None
        if is_address(self._host):
            self.news = replace(self.news, addresses=(self._host,))
            self._look_up_at = float("inf")

    def _look_up(self, now: float) -> None:
        """Look the controller's name up, again and again while it does not answer."""
        if self._lookup is not None:
            said = names.heard(self._lookup, now)
            if said is not None:
                self._lookup = None
                found, why = names.answer_in(said, 0)
                if found:
                    self.news = replace(self.news, addresses=tuple(map(str, found)))
                else:
                    self._look_up_at = now + LOOK_UP_AGAIN_S
                    log.warning("%s cannot be looked up: %s", self._host, why, extra=event("controller.no_address"))
        elif now >= self._look_up_at and not self._shared.link_connected[0]:
            self._look_up_at = now + LOOK_UP_S
            try:
                self._lookup = names.begin((self._host, 0), self._looks_up, now)
            except OSError as error:
                log.warning("%s cannot be looked up: %s", self._host, error, extra=event("controller.no_address"))
