"""What a controller keeps beside the fleet: tokens, certificates, operations; how each is written in the store.

A certificate's record outlives its end by the grace in which hosts may still use it, so that a host that is deleted
can have all of its revoked. Of operations the last ones are kept; all of them are in the log.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from fwd.controller.roles import GRACE_S
from fwd.controller.store import Entry, Store, Write
from fwd.controller.tokens import Token

OPERATIONS_MAX: Final = 256
CERTIFICATES_MAX: Final = 1024  # of a host, not yet past their grace
_TOKEN, _CERTIFICATE, _OPERATION = "token/", "certificate/", "operation/"
Use = Literal["link", "ike"]


@dataclass(frozen=True)
class Certificate:
    """One that was issued to a host."""

    serial: int
    kind: str
    host: str
    use: Use
    ends_at: float
    revoked_at: float | None = None

    @property
    def forgotten_at(self) -> float:
        """When nobody takes it any more, revoked or not."""
        return self.ends_at + GRACE_S


@dataclass(frozen=True)
class Operation:
    """A change that was made: by whom, when, what it meant. `hosts`: those whose configuration it made another."""

    id: str
    at: float
    who: str
    act: str
    kind: str
    name: str
    plan: tuple[str, ...] = ()
    order: tuple[int, int] = (0, 0)  # term and generation from which on it holds
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Records:
    """All of them, by name, serial and id."""

    tokens: Mapping[str, Token] = field(default_factory=dict)
    certificates: Mapping[int, Certificate] = field(default_factory=dict)
    operations: Mapping[str, Operation] = field(default_factory=dict)

    @cached_property
    def revoked(self) -> dict[int, float]:
        """The serials of revoked certificates, and when."""
        return {one.serial: one.revoked_at for one in self.certificates.values() if one.revoked_at is not None}

    def of_host(self, kind: str, name: str) -> list[Certificate]:
        """The certificates of a host that are not revoked."""
        found = self.certificates.values()
        return [one for one in found if (one.kind, one.host) == (kind, name) and one.revoked_at is None]


async def load(store: Store) -> Records:
    """Read them all."""
    tokens, certificates, operations = [
        [json.loads(entry.value) for entry in await _entries(store, prefix)]
        for prefix in (_TOKEN, _CERTIFICATE, _OPERATION)
    ]
    return Records(
        {one["name"]: Token(**one) for one in tokens},
        {one["serial"]: Certificate(**one) for one in certificates},
        {one["id"]: _operation(one) for one in operations},
    )


async def _entries(store: Store, prefix: str) -> list[Entry]:
    entries, _ = await store.read(prefix)
    return entries


def _operation(fields: dict[str, Any]) -> Operation:
    return Operation(**{**fields, **{name: tuple(fields[name]) for name in ("plan", "order", "hosts")}})


def put_token(token: Token) -> Write:
    """Write a token."""
    return Write(_TOKEN + token.name, json.dumps(asdict(token)).encode())


def drop_token(name: str) -> Write:
    """Forget a token."""
    return Write(_TOKEN + name, None)


def put_certificate(certificate: Certificate) -> Write:
    """Write a certificate's record."""
    return Write(f"{_CERTIFICATE}{certificate.serial:040x}", json.dumps(asdict(certificate)).encode())


def put_operation(operation: Operation, records: Records) -> list[Write]:
    """Write an operation, and forget the oldest of too many."""
    too_many = sorted(records.operations)[: max(0, len(records.operations) - OPERATIONS_MAX + 1)]
    put = Write(_OPERATION + operation.id, json.dumps(asdict(operation)).encode())
    return [put, *(Write(_OPERATION + one, None) for one in too_many)]


def forgotten(records: Records, now: float) -> Iterator[Write]:
    """Forget certificates and tokens whose time is long over."""
    for one in records.certificates.values():
        if now > one.forgotten_at:
            yield Write(f"{_CERTIFICATE}{one.serial:040x}", None)
    for token in records.tokens.values():
        if token.ends_at is not None and now > token.ends_at + GRACE_S:
            yield drop_token(token.name)
