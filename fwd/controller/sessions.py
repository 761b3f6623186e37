"""Sessions of people who look at pages: who has signed in with a bearer token has a cookie instead, for a while.

The cookie is 256 random bits, and is kept in the store as its SHA-256 alone, so that a session outlives the controller
that began it, and a copy of the store opens none. A session may what its token may, for as long as there is the token.
Who cannot look it up, because the store does not answer, believes what was seen a moment ago; that is no denial.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Final

from fwd.controller.desk import Desk, LeaderlessError
from fwd.controller.happened import crowded
from fwd.controller.roles import DeniedError
from fwd.controller.store import StoreError, Write
from fwd.controller.tokens import Token, digest

LIFETIME_S: Final = 12 * 3600.0
SESSIONS_MAX: Final = 256
_FORGOTTEN_MAX: Final = 50  # at once: what one transaction has room for
_BELIEVED_S: Final = 2.0
_LOOK_S: Final = 0.5  # for the store to say how a session is that was known a moment ago
_SECRET_BYTES: Final = 32
_SECRET_CHARS: Final = 43
_KEY: Final = "session/"


@dataclass(frozen=True)
class Session:
    """What is kept of one. `token`, `digest`: whose it is. `ends_at`: by the wall clock."""

    token: str
    digest: str
    ends_at: float


def form_key(secret: str) -> str:
    """What forms of a session carry, so that no other page can send them."""
    return digest(f"form.{secret}")


class Sessions:
    """See the module. All that look or write may raise StoreError."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._seen: dict[str, tuple[float, Session]] = {}
        self._ended: dict[str, None] = {}  # the last ones that this controller has ended

    async def begin(self, token: Token, now: float) -> str:
        """Begin one: the cookie's secret. Raises LeaderlessError and NotLeaderError."""
        term, _ = self._desk.newest
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        session = Session(token.name, token.digest, now + LIFETIME_S)
        gone = [Write(key, None) for key in await self._superfluous(now)]
        await self._desk.store.write(term, [Write(_key(secret), json.dumps(asdict(session)).encode()), *gone])
        return secret

    async def find(self, secret: str, now: float, clock: float) -> Token:
        """Return whose session it is. `clock`: the time by one that is never set. Raises DeniedError."""
        session = await self._look_up(secret, clock) if len(secret) == _SECRET_CHARS else None
        if session is None or now >= session.ends_at:
            raise DeniedError("nobody has signed in with this cookie, or not since long ago", unknown=True)
        if not self._desk.has_read:
            raise LeaderlessError
        token = self._desk.records.tokens.get(session.token)
        if token is None or token.digest != session.digest or token.role == "join":
            raise DeniedError("the token of this session was deleted", unknown=True)
        return token

    async def end(self, secret: str) -> None:
        """End one, for good. Raises LeaderlessError and NotLeaderError."""
        term, _ = self._desk.newest
        await self._desk.store.write(term, [Write(_key(secret), None)])
        self._seen.pop(_key(secret), None)
        self._ended[_key(secret)] = None
        while len(self._ended) > SESSIONS_MAX:
            del self._ended[next(iter(self._ended))]

    async def _look_up(self, secret: str, clock: float) -> Session | None:
        key = _key(secret)
        if key in self._ended:
            return None
        at, known = self._seen.get(key, (float("-inf"), None))
        if clock - at < _BELIEVED_S:
            return known

        # A store that hangs keeps no page of who was known a moment ago from being told anything.
        try:
            async with asyncio.timeout(None if known is None else _LOOK_S):
                entries, _ = await self._desk.store.read(key)
            found = next((_session(one.value) for one in entries if one.key == key), None)
        except (StoreError, TimeoutError):
            if known is None:
                raise
            found = known

        # It may have ended meanwhile: what was read is of before.
        if key in self._ended:
            return None

        # Of the cookies of strangers none is remembered.
        self._seen.pop(key, None)
        if found is not None:
            self._seen[key] = clock, found
        while len(self._seen) > SESSIONS_MAX:
            del self._seen[next(iter(self._seen))]
        return found

    async def _superfluous(self, now: float) -> list[str]:
        """Name those that have ended; of too many the first to end of the token that has most, so that nobody signs
        others out by signing in.
        """
        entries, _ = await self._desk.store.read(_KEY)
        kept = sorted(((_session(one.value), one.key) for one in entries), key=lambda one: (one[0].ends_at, one[1]))
        gone = [key for session, key in kept if now >= session.ends_at]
        rest = kept[len(gone) :]
        while len(rest) >= SESSIONS_MAX and len(gone) < _FORGOTTEN_MAX:
            _, key = rest.pop(crowded(session.token for session, _ in rest))
            gone.append(key)
        return gone[:_FORGOTTEN_MAX]


def _key(secret: str) -> str:
    return f"{_KEY}{digest(secret)}"


def _session(value: bytes) -> Session:
    known = json.loads(value)
    return Session(str(known["token"]), str(known["digest"]), float(known["ends_at"]))
