"""Where a controller keeps what it must not lose: one interface, in memory and in SQLite.

A store has keys, values and one revision that each change raises. Who writes must lead, under a *term* that is higher
than that of every leader before: a write under an older one is refused, whatever its writer believes. A write says
which revision of each key it has seen, and is refused as a whole if one is another by now.

Revisions and terms of one store are of one `cluster_id`; one that was put back from a backup has lower ones than hosts
have seen, which they notice by the document that they hold (link).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from fwd.proto.errors import UserError

T = TypeVar("T")
ABSENT: Final = 0  # revision of a key that is not there
ID_BYTES: Final = 8
WRITES_MAX: Final = 100  # in one transaction: etcd's have 128 operations at most
NUMBER_MAX: Final = 2**53  # of terms and revisions: far below what a store can count to


class StoreError(Exception):
    """A store that cannot be reached, or has lost what it needs to work."""


class NotLeaderError(Exception):
    """Another one leads, or has done so since."""


class ConflictError(Exception):
    """A key is no more as the writer has seen it. `key`: which."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} has changed meanwhile: try again")
        self.key = key


def check_writes(changes: Sequence[Write]) -> None:
    """See that one transaction can have them all. Raises StoreError."""
    if len(changes) > WRITES_MAX:
        raise StoreError(f"{len(changes)} changes at once, and a transaction has {WRITES_MAX} at most")


def check_epoch(above: int) -> None:
    """See that there are higher numbers. Raises StoreError."""
    if above >= NUMBER_MAX:
        raise StoreError(f"terms and revisions cannot be above {above}")


@dataclass(frozen=True)
class Entry:
    """A key's value, and the revision at which it was written."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True)
class Write:
    """One change. `value` None: the key goes. `seen`: its revision as the writer knows it (ABSENT: none); None: any."""

    key: str
    value: bytes | None
    seen: int | None = None


class Store(ABC):
    """See the module. All calls may raise StoreError."""

    @abstractmethod
    async def lead(self, who: str) -> int | None:
        """Become the leader, if there is none: the term; None: another one leads."""

    @abstractmethod
    async def renew(self) -> bool:
        """Go on leading; False: that is over."""

    @abstractmethod
    def leads(self) -> bool:
        """Whether who was the leader at the last renewal may act as one now, by its own clock."""

    @abstractmethod
    async def leader(self) -> str:
        """Who leads, as it has called itself; empty: nobody does."""

    @abstractmethod
    async def resign(self) -> None:
        """Lead no more; the next one need not wait."""

    @abstractmethod
    async def read(self, prefix: str) -> tuple[list[Entry], int]:
        """All entries whose keys begin so, in the keys' order, and the store's revision at that time."""

    @abstractmethod
    async def write(self, term: int, changes: Sequence[Write]) -> int:
        """Make all changes, or none: the new revision. Raises NotLeaderError and ConflictError."""

    @abstractmethod
    async def changed(self, after: int, timeout_s: float) -> bool:
        """Wait until something was written after a revision; False: nothing was for so long."""

    @abstractmethod
    async def cluster_id(self) -> str:
        """Which store this is: made with it, and another one after `begin_epoch`."""

    @abstractmethod
    async def begin_epoch(self, term: int, above: int) -> None:
        """Make terms and revisions higher than `above`, under another `cluster_id`: after a backup was put back."""

    @abstractmethod
    async def close(self) -> None:
        """Be done with it."""


class SqliteStore(Store):
    """A file of SQLite, in WAL mode, with one leader on one host: who has the lock on the file beside it.

    With the path `:memory:` there is nothing to keep, and nobody else to lead. A disk may be slow: what touches it
    is done one after the other in a thread, beside the loop, and what was begun there is brought to its end.
    """

    def __init__(self, path: Path | str = ":memory:") -> None:
        """Open or make the file. Raises UserError."""
        self._news = asyncio.Event()
        self._lock: int | None = None
        self._path = Path(path) if path != ":memory:" else None
        self._thread, self._is_closed = ThreadPoolExecutor(1, "store"), False
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._set_up()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"{path}: the controller's store cannot be opened: {error}") from None

    def _set_up(self) -> None:
        for statement in (
            "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", "PRAGMA busy_timeout = 2000",
            "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)",
            "CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value NOT NULL)",
        ):  # fmt: skip
            self._db.execute(statement)
        for name, value in (("term", 0), ("revision", 0), ("cluster_id", secrets.token_hex(ID_BYTES))):
            self._db.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, value))

    # -- beside the loop ----------------------------------------------------------------------------------------------

    async def lead(self, who: str) -> int | None:
        return await self._apart(lambda: self._lead(who))

    async def renew(self) -> bool:
        return self.leads()

    def leads(self) -> bool:
        return self._path is None or self._lock is not None

    async def leader(self) -> str:
        return await self._apart(lambda: str(self._about("leader") or ""))

    async def resign(self) -> None:
        await self._apart(self._resign)

    async def read(self, prefix: str) -> tuple[list[Entry], int]:
        return await self._apart(lambda: self._read(prefix))

    async def write(self, term: int, changes: Sequence[Write]) -> int:
        check_writes(changes)
        revision = await self._apart(lambda: self._write(term, changes))
        self._news.set()
        return revision

    async def changed(self, after: int, timeout_s: float) -> bool:
        self._news.clear()
        if await self._apart(lambda: self._number("revision")) > after:
            return True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), timeout_s)
        return await self._apart(lambda: self._number("revision")) > after

    async def cluster_id(self) -> str:
        return await self._apart(lambda: str(self._about("cluster_id")))

    async def begin_epoch(self, term: int, above: int) -> None:
        check_epoch(above)
        await self._apart(lambda: self._begin_epoch(term, above))

    async def close(self) -> None:
        if not self._is_closed:
            await self.resign()
            await self._apart(self._db.close)
            self._is_closed = True
            self._thread.shutdown()

    async def _apart(self, act: Callable[[], T]) -> T:
        if self._is_closed:
            raise StoreError("it is closed")
        with _as_store_error():
            return await asyncio.get_running_loop().run_in_executor(self._thread, act)

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _lead(self, who: str) -> int | None:
        if not self._take_lock():
            return None
        self._db.execute("UPDATE about SET value = value + 1 WHERE name = 'term'")
        self._db.execute("INSERT OR REPLACE INTO about VALUES ('leader', ?)", (who,))
        return self._number("term")

    def _take_lock(self) -> bool:
        if self._path is None or self._lock is not None:
            return True
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _resign(self) -> None:
        if self.leads():
            self._db.execute("DELETE FROM about WHERE name = 'leader'")
        if self._lock is not None:
            lock, self._lock = self._lock, None
            os.close(lock)

    def _read(self, prefix: str) -> tuple[list[Entry], int]:
        with self._transaction("DEFERRED"):
            rows = self._db.execute(
                "SELECT key, value, revision FROM entries WHERE substr(key, 1, ?) = ? ORDER BY key",
                (len(prefix), prefix),
            )
            return [Entry(*row) for row in rows], self._number("revision")

    def _write(self, term: int, changes: Sequence[Write]) -> int:
        with self._transaction("IMMEDIATE"):
            if term != self._number("term"):
                raise NotLeaderError
            revision = self._number("revision") + 1
            for change in changes:
                row = self._db.execute("SELECT revision FROM entries WHERE key = ?", (change.key,)).fetchone()
                if change.seen is not None and change.seen != (row[0] if row else ABSENT):
                    raise ConflictError(change.key)
                self._put(change, revision)
            self._db.execute("UPDATE about SET value = ? WHERE name = 'revision'", (revision,))
        return revision

    def _put(self, change: Write, revision: int) -> None:
        if change.value is None:
            self._db.execute("DELETE FROM entries WHERE key = ?", (change.key,))
        else:
            row = (change.key, change.value, revision)
            self._db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?, ?)", row)

    def _begin_epoch(self, term: int, above: int) -> None:
        with self._transaction("IMMEDIATE"):
            if term != self._number("term"):
                raise NotLeaderError
            self._db.execute("UPDATE about SET value = max(value, ?) + 1 WHERE name IN ('term', 'revision')", (above,))
            self._db.execute("UPDATE about SET value = ? WHERE name = 'cluster_id'", (secrets.token_hex(ID_BYTES),))

    def _about(self, name: str) -> object:
        row = self._db.execute("SELECT value FROM about WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _number(self, name: str) -> int:
        return int(str(self._about(name)))

    @contextlib.contextmanager
    def _transaction(self, kind: str):  # type: ignore[no-untyped-def]
        self._db.execute(f"BEGIN {kind}")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # it has failed, or its end has
                self._db.execute("ROLLBACK")


@contextlib.contextmanager
def _as_store_error():  # type: ignore[no-untyped-def]
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise StoreError(str(error)) from error
