"""What a host keeps of its controller's documents, so that it starts without one: a directory for root alone.

    document   the signed document in force
    held       one that takes away too much, until root accepts it here
    seen       the newest (term, generation) that was in force: what is older is refused, even if `document` is lost

Each is replaced by a rename. A file that is damaged, or that others can have written, counts as absent and is told of;
the host then begins with what its own file says, and takes the next document that is newer than `seen`.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fwd.files import why_not_believed
from fwd.link.document import BYTES_MAX, Answer, Document, DocumentError, Held, judge, verify
from fwd.proto.errors import UserError
from fwd.proto.logged import event

_DOCUMENT, _HELD, _SEEN = "document", "held", "seen"
_OWNER_ONLY: Final = 0o600
log = logging.getLogger(__name__)


class Kept:
    """See the module. `key`: the controller's, pinned when the host joined. `host`: the host's name there."""

    def __init__(self, directory: Path, key: Ed25519PublicKey, host: str) -> None:
        """Read what is kept. Raises UserError for a directory that others may write to."""
        self._directory, self._key, self._host = directory, key, host
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            about = directory.stat()
        except OSError as error:
            raise UserError(f"{directory}: documents cannot be kept here: {error.strerror}") from None
        if why := why_not_believed(about):
            raise UserError(f"{directory}: {why}")
        self.document = self._read(_DOCUMENT)
        self.held = self._read(_HELD)
        self._seen = max(self._read_seen(), self.document.order if self.document else (0, 0))

    def receive(self, data: bytes) -> tuple[Answer, str]:
        """Take what has come, or hold or refuse it, and why. Raises DocumentError, and OSError if it cannot be kept."""
        document = verify(data, self._key, self._host)
        answer, why = judge(document, self._known())
        if answer is Answer.TAKE:
            self._take(document, data)
        elif answer is Answer.HOLD:
            self._put(_HELD, data)
            self.held = document
        return answer, why

    def accept(self) -> Document:
        """Take what is held, by root's word. Raises UserError if there is nothing to accept, and OSError."""
        if self.held is None:
            raise UserError("no document is held: there is nothing to accept")
        answer, why = judge(self.held, replace(self._known(), accepted=self.held.order))
        if answer is not Answer.TAKE:
            raise UserError(f"what is held cannot be accepted: {why or 'it is in force'}")
        document = self.held
        self._take(document, (self._directory / _HELD).read_bytes())
        return document

    def _known(self) -> Held:
        if self.document is None:
            return Held(self._seen)
        return Held(self._seen, self.document.cluster_id, self.document.content)

    def _take(self, document: Document, data: bytes) -> None:
        """The document first: if the machine ends in between, its own order counts as seen."""
        self._put(_DOCUMENT, data)
        self._put(_SEEN, json.dumps(document.order).encode())
        self.document, self._seen = document, document.order
        if self.held is not None and self.held.order <= document.order:
            self.held = None
            (self._directory / _HELD).unlink(missing_ok=True)

    # -- files --------------------------------------------------------------------------------------------------------

    def _read(self, name: str) -> Document | None:
        try:
            data = self._octets(name)
            return verify(data, self._key, self._host) if data else None
        except DocumentError as error:
            path = self._directory / name
            log.error("%s is not used: %s", path, error, extra=event("document.not_used", path=str(path)))
            return None

    def _read_seen(self) -> tuple[int, int]:
        with suppress(ValueError, TypeError, RecursionError, DocumentError):
            term, generation = json.loads(self._octets(_SEEN))
            if type(term) is int and type(generation) is int:
                return term, generation
        return 0, 0

    def _octets(self, name: str) -> bytes:
        """What a file holds; nothing if it is not there. Raises DocumentError."""
        try:
            fd = os.open(self._directory / name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise DocumentError(f"it cannot be read: {error.strerror}") from None
        with os.fdopen(fd, "rb") as file:
            about = os.fstat(fd)
            if not stat.S_ISREG(about.st_mode):
                raise DocumentError("it is no file")
            if why := why_not_believed(about):
                raise DocumentError(f"it {why}")
            return file.read(BYTES_MAX + 1)

    def _put(self, name: str, data: bytes) -> None:
        """Have this in the file's place, on the disk."""
        new = self._directory / f".{name}.new"
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER_ONLY)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        new.rename(self._directory / name)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
