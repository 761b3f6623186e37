"""Tell events to somebody else's server, each by a POST that is signed, one after another in their order.

    Fwd-Timestamp: 1790000000                             when it was sent, by the wall clock
    Fwd-Signature: sha256=HEX                             HMAC-SHA-256 (RFC 2104) of "1790000000." and the body

The body is one JSON object: cluster_id, term, number, at, what, host, text; the first three tell an event from all
others, as one may come twice. Who does not answer, or says 408, 425, 429 or 5xx, is asked again with full jitter for
GIVE_UP_S; another answer ends it, redirects too. When too many events wait, the oldest one of the host that has most
goes. Nothing waits for any of this, and what was not told is counted and logged, and still in the list of events. What
waits when a controller ends is told by the one that leads next (history.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import random
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import httpx

from fwd import __version__
from fwd.controller.happened import Event, crowded
from fwd.proto.logged import event

WAITING_MAX: Final = 1000
GIVE_UP_S: Final = 600.0
ATTEMPT_S: Final = 10.0
FIRST_S, LAST_S = 0.5, 60.0  # what is waited at most before the second attempt, and before any
CLOSE_S: Final = 2.0
SECRET_OCTETS_MIN: Final = 16
_AGAIN: Final = (408, 425, 429)
log = logging.getLogger(__name__)


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """Sign a body and the time at which it is sent."""
    return "sha256=" + hmac.new(secret, b"%d." % timestamp + body, hashlib.sha256).hexdigest()


def pause_s(attempts: int, share: float) -> float:
    """Say how long to wait after so many attempts; `share`: of the longest wait, drawn at random."""
    return share * min(LAST_S, FIRST_S * 2.0 ** min(attempts - 1, 16))


@dataclass(frozen=True)
class Receiver:
    """Who is told: a URL, the secret that both know, and by which CAs its certificate is looked at."""

    url: str
    secret: bytes = field(repr=False)
    tls: ssl.SSLContext | None = None


@dataclass
class Webhook:
    """See the module. `about`: what each body says of its controller. `counts`: delivered, failed (attempts), lost."""

    receiver: Receiver
    about: Callable[[], dict[str, Any]]
    wall: Callable[[], float] = time.time
    share: Callable[[], float] = random.random
    counts: Counter[str] = field(default_factory=Counter)
    told: int = 0  # the number of the last event of which nothing more is to be told
    _waiting: deque[tuple[str, bytes, int]] = field(default_factory=deque)  # whose it is, and its number
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _is_idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waiting(self) -> int:
        """How many events are not told yet."""
        return len(self._waiting)

    def put(self, one: Event) -> None:
        """Have an event told."""
        if len(self._waiting) >= WAITING_MAX:
            del self._waiting[crowded(host for host, *_ in self._waiting)]
            self._lose("too many wait")
        self._waiting.append((one.host, json.dumps({**self.about(), **asdict(one)}).encode(), one.number))
        self._is_idle.clear()
        self._bell.set()

    async def run(self) -> None:
        """Tell events until this is cancelled."""
        headers = {"Content-Type": "application/json", "User-Agent": f"fwd/{__version__}"}
        verify: Any = self.receiver.tls or True
        async with httpx.AsyncClient(verify=verify, trust_env=False, timeout=ATTEMPT_S, headers=headers) as http:
            while True:
                self._bell.clear()
                while self._waiting:
                    first = self._waiting[0]
                    why = await self._tell(http, first[1])
                    if (
                        self._waiting and self._waiting[0] is first
                    ):  # else it has gone for want of room, and was counted
                        self.told = self._waiting.popleft()[2]
                        self._count(why)
                self._is_idle.set()
                await self._bell.wait()

    async def flush(self) -> None:
        """Give what waits a moment."""
        if self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_idle.wait(), CLOSE_S)

    async def _tell(self, http: httpx.AsyncClient, body: bytes) -> str:
        """Post a body until it is taken, or given up: why; empty: it was taken."""
        began, attempts = time.monotonic(), 0
        while True:
            status, why = await self._post(http, body)
            if httpx.codes.is_success(status):
                return ""
            attempts += 1
            self.counts["failed"] += 1
            is_final = 0 < status < 500 and status not in _AGAIN
            if is_final or time.monotonic() - began >= GIVE_UP_S:
                return why
            await asyncio.sleep(pause_s(attempts, self.share()))

    async def _post(self, http: httpx.AsyncClient, body: bytes) -> tuple[int, str]:
        """Post once: the status, 0 if there is none, and what is wrong with it."""
        now = int(self.wall())
        headers = {"Fwd-Timestamp": str(now), "Fwd-Signature": signature(self.receiver.secret, now, body)}
        try:
            async with asyncio.timeout(ATTEMPT_S):
                async with http.stream("POST", self.receiver.url, content=body, headers=headers) as answer:
                    return answer.status_code, f"answers {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return 0, str(error) or type(error).__name__

    def _count(self, why: str) -> None:
        if why:
            self._lose(why)
        else:
            self.counts["delivered"] += 1

    def _lose(self, why: str) -> None:
        self.counts["lost"] += 1
        log.error("an event was not told to the webhook: %s", why, extra=event("controller.webhook_lost", reason=why))
