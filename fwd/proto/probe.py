"""The messages of the probe by which a router learns what a gateway can carry.

A request carries a nonce; the answer repeats it and says for each of the gateway's peerings whether its packets would
pass. Both end with a keyed BLAKE2b of 16 octets (RFC 7693) under the key of the domain, so that nobody on the LAN can
speak for a gateway. An answer is no longer than what 64 peerings take, and is given to nobody who has not got the key.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

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


def key_in(data: bytes) -> bytes:
    """Read the domain's key as its file has it. Raises ValueError, which does not show it."""
    try:
        key = bytes.fromhex(data.decode("ascii").strip())
    except ValueError:
        raise ValueError(f"is not hexadecimal: make one by `openssl rand -hex {KEY_BYTES}`") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"has {len(key)} octets, and {KEY_BYTES} are wanted")
    return key
