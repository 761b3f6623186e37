"""Tokens, of two kinds: one with which a host joins, and a bearer's, with which a person or a program asks: pure.

    fwd1.<43 characters of secret>.<SHA-256 of the CA's certificate>     what a host joins with, once, within an hour
    fwdb.<43 characters of secret>                                       a bearer's, until it is deleted

The secret has 256 bits, is shown when the token is made, and is kept as its SHA-256 alone: what is drawn at random
needs no salt. A host's token is bound to a VPC, and to what the host is: a gateway, or a router, whose word counts for
the gateways of its VPC. It is used up by one host's keys: who asks again with those that it has
used it with, since the answer was lost, is answered again while the token lasts; with another key it is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

SECRET_BYTES: Final = 32
LIFETIME_S: Final = 3600
ID_CHARS: Final = 12
Role = Literal["join", "viewer", "admin"]
Host = Literal["gateway", "router"]
ROLES: Final[tuple[Role, ...]] = ("join", "viewer", "admin")
_JOIN, _BEARER = "fwd1", "fwdb"
_SECRET: Final = re.compile(r"[A-Za-z0-9_-]{43}")


class TokenError(Exception):
    """A token that is not taken; its text is one line."""


@dataclass(frozen=True)
class Token:
    """What is kept of a token. `vpc`, `kind`, `ends_at` and `used_*`: of one that a host joins with."""

    name: str
    role: Role
    digest: str
    made_at: float
    vpc: str = ""
    ends_at: float | None = None
    used_by: str = ""  # the host's name
    used_key: str = ""  # the fingerprints of its keys
    kind: Host = "gateway"  # that may join with it
    replaces: str = ""  # the only host that may, though it has joined: with other keys, and those before are revoked


def new_join_token(
    vpc: str,
    pin: str,
    now: float,
    name: str = "",
    lifetime_s: float = LIFETIME_S,
    kind: Host = "gateway",
    replaces: str = "",
) -> tuple[str, Token]:
    """Make a token with which one host of a VPC joins: its text, to be shown once, and what is kept."""
    secret = _text(secrets.token_bytes(SECRET_BYTES))
    kept = Token(
        name or _id_of(secret), "join", digest(secret), now, vpc, now + lifetime_s, kind=kind, replaces=replaces
    )
    return f"{_JOIN}.{secret}.{pin}", kept


def new_bearer_token(role: Role, now: float, name: str = "") -> tuple[str, Token]:
    """Make a bearer's token: its text, to be shown once, and what is kept."""
    secret = _text(secrets.token_bytes(SECRET_BYTES))
    return f"{_BEARER}.{secret}", Token(name or _id_of(secret), role, digest(secret), now)


def digest(secret: str) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def bearer_of(text: str, tokens: Iterable[Token]) -> Token:
    """Find whose bearer token a text is. Raises TokenError."""
    kind, _, secret = text.partition(".")
    found = _find(secret, tokens) if kind == _BEARER else None
    if found is None or found.role == "join":
        raise TokenError("this bearer token is not known here: `fwd token create role=admin` makes one")
    return found


def known(secret: str, tokens: Iterable[Token], now: float) -> Token:
    """Find the token that a host joins with, while it lasts. Raises TokenError."""
    found = _find(secret, tokens)
    if found is None or found.role != "join":
        raise TokenError("this token is not known here: was it deleted, or is it another controller's?")
    if found.ends_at is not None and now >= found.ends_at:
        raise TokenError(f"this token ended {now - found.ends_at:.0f} s ago: `fwd token create` makes another one")
    return found


def use(secret: str, host: str, key: str, tokens: Iterable[Token], now: float, kind: Host = "gateway") -> Token:
    """Use a token up, for a host and the fingerprints of its keys: the token as it is then. Raises TokenError."""
    found = known(secret, tokens, now)
    if found.replaces and found.replaces != host:
        raise TokenError(f"this token is for {found.replaces} alone, and this host joins as {host}")
    if found.kind != kind:
        raise TokenError(
            f"this token is a {found.kind}'s, and this host joins as a {kind}: `fwd token create` with kind={kind}"
        )
    if found.used_key and (found.used_by, found.used_key) != (host, key):
        raise TokenError(f"this token was used by {found.used_by}: each host needs one of its own")
    return replace(found, used_by=host, used_key=key)


def _find(secret: str, tokens: Iterable[Token]) -> Token | None:
    """Compare with all of them, each in the same time."""
    if not _SECRET.fullmatch(secret):
        return None
    mine = digest(secret)
    matching = [one for one in tokens if hmac.compare_digest(one.digest, mine)]
    return matching[0] if matching else None


def _id_of(secret: str) -> str:
    return "t-" + hashlib.blake2b(secret.encode(), digest_size=ID_CHARS // 2).hexdigest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
