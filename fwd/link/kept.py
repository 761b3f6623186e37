"""What a host keeps of its controller's documents, so that it starts without one: files in a directory for root alone.

    document   the signed document in force
    held       one that takes away too much, until root accepts it here
    seen       the newest (term, generation) that was in force: what is older is refused, even if `document` is lost

Root reads and writes octets (`Shelf`); what they say is for a process without rights to find out (`Known`). Each file
is replaced by a rename. One that is damaged, or that others can have written, counts as absent and is told of; the host
then begins with what its own file says, and takes the next document that is newer than `seen`.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fwd.files import sync, why_not_believed
from fwd.link.directory import put
from fwd.link.document import BYTES_MAX, Answer, Document, DocumentError, Held, judge, verify
from fwd.model.linked import order_in
from fwd.proto.errors import UserError
from fwd.proto.logged import event

DOCUMENT, _HELD, _SEEN = "document", "held", "seen"
FILES: Final = (DOCUMENT, _HELD, _SEEN)
Order = tuple[int, int]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Octets:
    """What the files hold; nothing of one that is not there. `seen`: (0, 0) if nothing was."""

    document: bytes = b""
    held: bytes = b""
    seen: Order = (0, 0)


class Shelf:
    """The files in `directory`; for root."""

    def __init__(self, directory: Path) -> None:
        """Look at the directory. Raises UserError if others may write to it."""
        self._directory = directory
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = directory.stat()
        except OSError as error:
            raise UserError(f"{directory}: documents cannot be kept here: {error.strerror}") from None
        if why := why_not_believed(about):
            raise UserError(f"{directory}: {why}")

    def read(self) -> Octets:
        """Read all that is kept."""
        said, seen = self._octets(_SEEN), (0, 0)
        try:
            seen = order_in(json.loads(said)) if said else seen
        except (ValueError, RecursionError):
            tell_damage(_SEEN, "it is no term and generation", self._directory)
        return Octets(self._octets(DOCUMENT), self._octets(_HELD), seen)

    def take(self, data: bytes, order: Order) -> None:
        """Keep what is to be in force. Raises OSError.

        The document first: if the machine ends in between, its own order counts as seen.
        """
        put(self._directory, DOCUMENT, data)
        put(self._directory, _SEEN, json.dumps(order).encode())
        (self._directory / _HELD).unlink(missing_ok=True)
        sync(self._directory)

    def hold(self, data: bytes) -> None:
        """Keep what waits for root. Raises OSError."""
        put(self._directory, _HELD, data)

    def _octets(self, name: str) -> bytes:
        """What a file holds; nothing, and a line in the log, if it cannot be believed."""
        path, why = self._directory / name, ""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        except OSError as error:
            tell_damage(name, f"it cannot be read: {error.strerror}", self._directory)
            return b""
        with os.fdopen(fd, "rb") as file:
            about = os.fstat(fd)
            why = why_not_believed(about) if stat.S_ISREG(about.st_mode) else "is no file"
            if not why:
                return file.read(BYTES_MAX + 1)
        tell_damage(name, f"it {why}", self._directory)
        return b""


class Known:
    """What is kept, understood; `key`: the controller's, pinned when the host joined. `host`: its name there. Pure.

    `damaged`: which file is not used, and why.
    """

    def __init__(self, octets: Octets, key: Ed25519PublicKey, host: str) -> None:
        self._key, self._host, self._octets = key, host, octets
        self.damaged: dict[str, str] = {}
        self.document = self._read(DOCUMENT, octets.document)
        self.held = self._read(_HELD, octets.held)
        self._seen = max(octets.seen, self.document.order if self.document else (0, 0))

    def judge(self, data: bytes) -> tuple[Answer, str, Document]:
        """Say what becomes of a document that has come, and why. Raises DocumentError for what is none."""
        document = verify(data, self._key, self._host)
        return (*judge(document, self._known()), document)

    def accept(self) -> tuple[Document, bytes]:
        """Return what is held, to be taken by root's word. Raises UserError if there is nothing to accept."""
        if self.held is None:
            raise UserError("no document is held: there is nothing to accept")
        answer, why = judge(self.held, replace(self._known(), accepted=self.held.order))
        if answer is not Answer.TAKE:
            raise UserError(f"what is held cannot be accepted: {why or 'it is in force'}")
        return self.held, self._octets.held

    def _known(self) -> Held:
        if self.document is None:
            return Held(self._seen)
        return Held(self._seen, self.document.cluster_id, self.document.content)

    def _read(self, name: str, data: bytes) -> Document | None:
        try:
            return verify(data, self._key, self._host) if data else None
        except DocumentError as error:
            self.damaged[name] = str(error)
            return None


def tell_damage(name: str, why: str, directory: Path) -> None:
    """Log that a file is not used."""
    path = directory / name
    log.error("%s is not used: %s", path, why, extra=event("document.not_used", path=str(path)))
