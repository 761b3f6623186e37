"""The probe by which a router learns what a gateway can carry: its messages, and what their coming and missing mean.

Pure: bytes and `now` in, bytes and states out. A request carries a nonce; the answer repeats it and says for each of
the gateway's peerings whether its packets would pass. Both end with a keyed BLAKE2b of 16 octets (RFC 7693) under the
key of the domain, so that nobody on the LAN can speak for a gateway. An answer is no longer than what 64 peerings take,
and is given to nobody who has not got the key.

A gateway is down when nothing was heard since a probe that was sent MISSES intervals ago, and up again after HITS
answers in a row. That counts only while its own loop is on time: one that was late has not waited, it has slept.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

EVERY_S: Final = 0.1
MISSES: Final = 3
HITS: Final = 10
LATE_S: Final = 0.05  # a loop that is later than that has no say
SILENCE_S: Final = EVERY_S * (MISSES - 0.5)  # the half is for a loop that is a little early
WINDOW: Final = 30  # probes over which loss is told
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 16
PEERINGS_MAX: Final = 64

_MAC_BYTES: Final = 16
_ID_BYTES: Final = 8
_HEAD: Final = struct.Struct(f">4sBB{NONCE_BYTES}s")  # magic, version, kind, nonce
_LOAD: Final = struct.Struct(">BHB")  # flags, load in 1/1000, number of peerings
_ROW: Final = struct.Struct(f">{_ID_BYTES}sBH")  # a peering, whether its packets pass, loss in 1/1000
_MAGIC, _VERSION = b"fwdp", 1
_REQUEST, _ANSWER = 0, 1
_DRAINING = 1
REQUEST_BYTES: Final = _HEAD.size + _MAC_BYTES


@dataclass(frozen=True)
class Said:
    """What a gateway says of one of its peerings: whether packets would pass, and the share that its echoes lose."""

    passes: bool
    loss: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What a gateway says of itself. `peerings`: by `peering_id`. `load`: 0 to 1."""

    nonce: bytes
    peerings: Mapping[bytes, Said] = field(default_factory=dict)
    draining: bool = False
    load: float = 0.0


def peering_id(name: str) -> bytes:
    """Make the 8 octets by which a peering is called in answers."""
    return hashlib.blake2b(name.encode(), digest_size=_ID_BYTES).digest()


def encode_request(nonce: bytes, key: bytes) -> bytes:
    """Make a request."""
    return _sealed(_HEAD.pack(_MAGIC, _VERSION, _REQUEST, nonce), key)


def decode_request(data: bytes, key: bytes) -> bytes | None:
    """Read a request: its nonce, or None if it is not a router's of this domain."""
    body = _opened(data, key, _REQUEST)
    return body[6 : 6 + NONCE_BYTES] if body is not None and len(data) == REQUEST_BYTES else None


def encode_answer(answer: Answer, key: bytes) -> bytes:
    """Make an answer. Raises ValueError for more than PEERINGS_MAX peerings."""
    if len(answer.peerings) > PEERINGS_MAX:
        raise ValueError(f"{len(answer.peerings)} peerings in an answer: {PEERINGS_MAX} at most")
    head = _HEAD.pack(_MAGIC, _VERSION, _ANSWER, answer.nonce)
    load = _LOAD.pack(_DRAINING * answer.draining, _thousandths(answer.load), len(answer.peerings))
    rows = (_ROW.pack(name, one.passes, _thousandths(one.loss)) for name, one in answer.peerings.items())
    return _sealed(b"".join((head, load, *rows)), key)


def decode_answer(data: bytes, key: bytes) -> Answer | None:
    """Read an answer, or None if no gateway of this domain has made it."""
    body = _opened(data, key, _ANSWER)
    if body is None or len(body) < _HEAD.size + _LOAD.size:
        return None
    flags, load, count = _LOAD.unpack_from(body, _HEAD.size)
    rows = body[_HEAD.size + _LOAD.size :]
    if count > PEERINGS_MAX or len(rows) != count * _ROW.size:
        return None
    said = {name: Said(passes == 1, min(loss, 1000) / 1000) for name, passes, loss in _ROW.iter_unpack(rows)}
    return Answer(body[6 : 6 + NONCE_BYTES], said, bool(flags & _DRAINING), min(load, 1000) / 1000)


def _thousandths(share: float) -> int:
    return round(1000 * min(1.0, max(0.0, share)))


def _sealed(body: bytes, key: bytes) -> bytes:
    return body + hashlib.blake2b(body, digest_size=_MAC_BYTES, key=key).digest()


def _opened(data: bytes, key: bytes, kind: int) -> bytes | None:
    """The message without its MAC, if that is right and it is of this kind."""
    if len(data) < REQUEST_BYTES or data[:6] != _MAGIC + bytes((_VERSION, kind)):
        return None
    body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    right = hashlib.blake2b(body, digest_size=_MAC_BYTES, key=key).digest()
    return body if hmac.compare_digest(mac, right) else None


class Reach:
    """Whether one gateway can be reached, as its probes tell. It counts as down until HITS have been answered."""

    def __init__(self) -> None:
        self.up = False
        self.said: Answer | None = None  # by the last answer
        self.heard_at = float("-inf")
        self.rtt_s: float | None = None
        self._asked: dict[bytes, float] = {}  # nonces that wait for an answer, and when they were sent; oldest first
        self._hits = 0
        self._window: deque[bool] = deque(maxlen=WINDOW)

    def ask(self, nonce: bytes, now: float) -> None:
        """Note that a probe is sent now, and look what has become of those before."""
        for missed, at in [(one, at) for one, at in self._asked.items() if now - at >= SILENCE_S]:
            del self._asked[missed]
            self._window.append(False)
            self._hits = 0
            self.up = self.up and self.heard_at > at
        self._asked[nonce] = now

    def hear(self, answer: Answer, now: float) -> bool:
        """Take an answer; False: it answers nothing that was asked, or comes too late."""
        sent_at = self._asked.pop(answer.nonce, None)
        if sent_at is None:
            return False
        self.said, self.heard_at, self.rtt_s = answer, now, now - sent_at
        self._window.append(True)
        self._hits += 1
        self.up = self.up or self._hits >= HITS
        return True

    def void(self) -> None:
        """Forget what is unanswered: the router itself was late."""
        self._asked.clear()

    def lose(self) -> None:
        """Take it for down: the kernel says that nobody is there."""
        self.up, self._hits = False, 0
        self.void()

    @property
    def loss(self) -> float:
        """Share of the last WINDOW probes that went unanswered."""
        return 1 - sum(self._window) / len(self._window) if self._window else 0.0
