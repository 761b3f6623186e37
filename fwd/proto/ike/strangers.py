"""IKE_SA_INIT of strangers: what is looked at, what it may cost, and what is remembered of it (RFC 7296 §2.4, §2.6).

Anybody can write a known peer's address. So a first message is judged from its octets by a walk over few payloads, and
only what has everything that IKE_SA_INIT must have, and nothing that it must not, counts against any limit. Who shows a
good cookie can receive at its address and competes with others of that kind alone, by source port. Without one few are
answered; the rest are asked for a cookie, which leaves no trace, until the answers would take too much bandwidth.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from typing import Final

from fwd.proto.ike.crypto import Random
from fwd.proto.ike.events import Address
from fwd.proto.ike.limits import (
    AUTHS_PER_S,
    COOKIE_BYTES,
    COOKIES_BYTES_PER_S,
    COPIES_PER_S,
    HALF_OPEN_BYTES,
    HALF_OPEN_COOKIES,
    HALF_OPEN_MAX,
    INIT_BYTES_MAX,
    INIT_PAYLOADS_MAX,
    PROVEN_PER_S,
    PROVEN_PORT_PER_S,
    PROVEN_PORTS,
    UNPROVEN_PER_S,
)
from fwd.proto.ike.message import HEADER_BYTES, Header
from fwd.proto.ike.numbers import Notify, Payload, syntax
from fwd.proto.ike.payloads import NONCE_BYTES, split_chain
from fwd.proto.ike.rate import Budget, FairRate, Rate
from fwd.proto.ike.sa import IkeSa

COOKIE_SECRET_S: Final = 60.0
_ONCE: Final = (Payload.SA, Payload.KE, Payload.NONCE)
_ALLOWED: Final = {*_ONCE, Payload.NOTIFY, Payload.VENDOR}
_KNOWN: Final = frozenset(Payload)
_COOKIE_ANSWER_BYTES: Final = HEADER_BYTES + 8 + 16 + 28  # with its IP and UDP headers


class Verdict(Enum):
    """What becomes of a first message."""

    ANSWER = "by a key exchange"
    ASK = "for a cookie"
    DROP = "without a word"


@dataclass(frozen=True)
class FirstMessage:
    """What is known of IKE_SA_INIT before it is decoded. `cookie`: empty if there is none that could be good."""

    nonce: bytes
    cookie: bytes


def read_first(header: Header, data: bytes) -> FirstMessage:
    """Judge a stranger's IKE_SA_INIT by its octets. Raises ProtocolError unless it could be answered."""
    if len(data) > INIT_BYTES_MAX:
        raise syntax(f"IKE_SA_INIT of {len(data)} octets")
    chain = split_chain(header.first_payload, data[HEADER_BYTES:], INIT_PAYLOADS_MAX)
    counts = Counter(kind for kind, _, _ in chain)
    if any(counts[kind] != 1 for kind in _ONCE) or any(kind in _KNOWN - _ALLOWED for kind in counts):
        raise syntax("IKE_SA_INIT has one SA, KE and nonce each, and nothing that is for later messages")

    nonce = next(body for kind, _, body in chain if kind == Payload.NONCE)
    if len(nonce) not in NONCE_BYTES:
        raise syntax(f"nonce of {len(nonce)} octets")

    # A cookie comes back as the first payload, or it does not count (RFC 7296 §2.6).
    kind, _, body = chain[0]
    cookie = b""
    if kind == Payload.NOTIFY and body[1:4] == b"\0" + Notify.COOKIE.to_bytes(2, "big"):
        cookie = bytes(body[4:])
    return FirstMessage(bytes(nonce), cookie if len(cookie) in COOKIE_BYTES else b"")


@dataclass
class HalfOpen:
    """A responder's IKE SA before IKE_AUTH, and the answer for a request that comes again."""

    sa: IkeSa
    request: bytes
    answer: bytes
    copies: Rate = field(default_factory=lambda: Rate(COPIES_PER_S, 2 * COPIES_PER_S))


class Strangers:
    """Of one endpoint: its half-open IKE SAs, its cookies, and how often it answers.

    `budget`: octets for half-open IKE SAs, of all endpoints of the process.
    """

    def __init__(self, random: Random, budget: Budget, known_port: int) -> None:
        self._random = random
        self._budget = budget
        self._half_open: dict[tuple[bytes, Address], HalfOpen] = {}  # by the initiator's SPI and address; oldest first
        self._keys: dict[bytes, tuple[bytes, Address]] = {}  # of the same, by our SPI
        self._cookie_secrets = (random(32), random(32))
        self._cookie_secret_at = 0.0
        self._unproven = Rate(UNPROVEN_PER_S, UNPROVEN_PER_S)
        self._cookies = Rate(COOKIES_BYTES_PER_S, COOKIES_BYTES_PER_S)
        shares = {"classes": PROVEN_PORTS, "class_per_s": PROVEN_PORT_PER_S, "known_port": known_port}
        self._proven = FairRate(PROVEN_PER_S, **shares)
        self._auths = FairRate(AUTHS_PER_S, **shares)

    # -- what is done about a message ---------------------------------------------------------------------------

    def judge(self, first: FirstMessage, spi_i: bytes, remote: Address, now: float) -> Verdict:
        """What becomes of a first message that is not a copy of an earlier one."""
        if self._is_good(first, spi_i, remote, now):
            return Verdict.ANSWER if self._proven.allows(remote[1], now) else Verdict.DROP
        if len(self._half_open) < HALF_OPEN_COOKIES and self._unproven.allows(now):
            return Verdict.ANSWER
        return Verdict.ASK if self._cookies.allows(now, _COOKIE_ANSWER_BYTES) else Verdict.DROP

    def admits(self, remote: Address, now: float) -> bool:
        """Whether IKE_AUTH of a half-open IKE SA is looked at; else it is as good as lost."""
        return self._auths.allows(remote[1], now)

    def cookie(self, first: FirstMessage, spi_i: bytes, remote: Address, which: int = 0) -> bytes:
        """What proves that somebody receives at `remote`."""
        octets = first.nonce + ip_address(remote[0]).packed + remote[1].to_bytes(2, "big") + spi_i
        return hmac.digest(self._cookie_secrets[which], octets, "sha256")[:16]

    def _is_good(self, first: FirstMessage, spi_i: bytes, remote: Address, now: float) -> bool:
        if now >= self._cookie_secret_at + COOKIE_SECRET_S:
            self._cookie_secrets = (self._random(32), self._cookie_secrets[0])
            self._cookie_secret_at = now
        return bool(first.cookie) and any(
            hmac.compare_digest(first.cookie, self.cookie(first, spi_i, remote, which)) for which in (0, 1)
        )

    # -- half-open IKE SAs --------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._half_open)

    def find(self, spi_i: bytes, remote: Address) -> HalfOpen | None:
        """The half-open IKE SA that somebody at `remote` has begun with this SPI."""
        return self._half_open.get((spi_i, remote))

    def holds(self, sa: IkeSa) -> bool:
        """Whether it is a stranger's yet."""
        return sa.spi in self._keys

    def add(self, half: HalfOpen, remote: Address, end: Callable[[IkeSa], None]) -> None:
        """Remember a half-open IKE SA. `end` is given those that must go for it, oldest first."""
        while (count := len(self._half_open)) >= HALF_OPEN_COOKIES:
            if count < HALF_OPEN_MAX and self._budget.take(HALF_OPEN_BYTES):
                break
            oldest = next(iter(self._half_open.values())).sa
            self.remove(oldest)
            end(oldest)
        key = half.sa.spi_i, remote
        self._half_open[key] = half
        self._keys[half.sa.spi] = key

    def remove(self, sa: IkeSa) -> None:
        """It is not half open any more."""
        key = self._keys.pop(sa.spi, None)
        if key is None:
            return
        if len(self._half_open) > HALF_OPEN_COOKIES:  # as many as that are free
            self._budget.give(HALF_OPEN_BYTES)
        del self._half_open[key]

    def oldest_at(self) -> float | None:
        """When the oldest has begun."""
        half = next(iter(self._half_open.values()), None)
        return half.sa.begun_at if half is not None else None
