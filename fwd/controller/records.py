"""What a controller keeps beside the fleet: tokens, certificates, operations; how each is written in the store.

A certificate's record outlives its end by the grace in which hosts may still use it, so that a host that is deleted
can have all of its revoked. The records of a host are one key of the store, so that whatever is done to it is one
write. Of operations the last ones are kept; all of them are in the log.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Final, Literal

from fwd.controller.mend import Restarted, lately
from fwd.controller.roles import GRACE_S
from fwd.controller.store import Entry, Store, Write
from fwd.controller.tokens import Token

OPERATIONS_MAX: Final = 256
CERTIFICATES_MAX: Final = 32  # of a host and a use; more are kept only while they are not over
RESTARTS_MAX: Final = 4096
REVOKED_MAX: Final = 4000  # at once: hosts take lists of 256 KiB
FORGOTTEN_MAX: Final = 32  # in a transaction, of which etcd's have 128 operations at most
_TOKEN, _CERTIFICATES, _OPERATION, _RESTARTS = "token/", "certificates/", "operation/", "restarts"
RUNNING: Final = "in progress"
Use = Literal["link", "ike"]


@dataclass(frozen=True)
class Certificate:
    """One that was issued to a host: for a key, by its fingerprint, by a CA, by its pin. `pem`: itself, until it is
    revoked.
    """

    serial: int
    kind: str
    host: str
    use: Use
    ends_at: float
    revoked_at: float | None = None
    key: str = ""
    issuer: str = ""
    cluster_id: str = ""
    pem: str = ""

    @property
    def forgotten_at(self) -> float:
        """When nobody takes it any more, revoked or not."""
        return self.ends_at + GRACE_S


@dataclass(frozen=True)
class Operation:
    """A change that was made: by whom, when, what it meant. `hosts`: those whose configuration it made another.

    One that takes a while has a `result` of its own, `RUNNING` until it ends, and `steps`: where it stands.
    """

    id: str
    at: float
    who: str
    act: str
    kind: str
    name: str
    plan: tuple[str, ...] = ()
    order: tuple[int, int] = (0, 0)  # term and generation from which on it holds
    hosts: tuple[str, ...] = ()
    reason: str = ""
    steps: tuple[str, ...] = ()
    result: str = ""


@dataclass(frozen=True)
class Records:
    """All of them, by name, serial and id."""

    tokens: Mapping[str, Token] = field(default_factory=dict)
    certificates: Mapping[int, Certificate] = field(default_factory=dict)
    operations: Mapping[str, Operation] = field(default_factory=dict)
    restarts: tuple[Restarted, ...] = ()

    @cached_property
    def revoked(self) -> dict[int, float]:
        """The serials of revoked certificates, and when."""
        return {one.serial: one.revoked_at for one in self.certificates.values() if one.revoked_at is not None}

    @cached_property
    def hosts(self) -> Mapping[tuple[str, str], list[Certificate]]:
        """All certificates by kind and name of the host, the oldest first."""
        found: dict[tuple[str, str], list[Certificate]] = defaultdict(list)
        for one in sorted(self.certificates.values(), key=lambda one: one.ends_at):
            found[one.kind, one.host].append(one)
        return found

    def of_host(self, kind: str, name: str) -> list[Certificate]:
        """The certificates of a host that are not revoked."""
        return [one for one in self.hosts.get((kind, name), ()) if one.revoked_at is None]


async def load(store: Store) -> Records:
    """Read them all."""
    tokens, certificates, operations, restarts = [
        [json.loads(entry.value) for entry in await _entries(store, prefix)]
        for prefix in (_TOKEN, _CERTIFICATES, _OPERATION, _RESTARTS)
    ]
    return Records(
        {one["name"]: Token(**_known(Token, one)) for one in tokens},
        {one["serial"]: Certificate(**_known(Certificate, one)) for host in certificates for one in host},
        {one["id"]: Operation(**_known(Operation, one)) for one in operations},
        tuple(Restarted(host, at) for row in restarts for host, at in row),
    )


async def _entries(store: Store, prefix: str) -> list[Entry]:
    entries, _ = await store.read(prefix)
    return entries


def _known(of: type[Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row this fwd knows: a later one, which has led before, may have written more."""
    names = {one.name for one in fields(of)}
    return {key: tuple(one) if isinstance(one, list) else one for key, one in row.items() if key in names}


def new_operation_id(records: Records, now: float) -> str:
    """A new id, which comes after all known ones."""
    last = max((int(one.split("-")[1]) for one in records.operations), default=0)
    return f"op-{max(int(now * 1000), last + 1):013d}"


def put_restart(records: Records, host: str, now: float) -> Write:
    """Write that a host is restarted, beside what was done lately."""
    rows = [(one.host, one.at) for one in (*lately(records.restarts, now), Restarted(host, now))]
    return Write(_RESTARTS, json.dumps(rows[-RESTARTS_MAX:]).encode())


def put_token(token: Token) -> Write:
    """Write a token."""
    return Write(_TOKEN + token.name, json.dumps(asdict(token)).encode())


def drop_token(name: str) -> Write:
    """Forget a token."""
    return Write(_TOKEN + name, None)


def put_issued(
    records: Records, kind: str, name: str, issued: Sequence[Certificate], now: float, *, revokes: bool = False
) -> list[Write]:
    """Write what was issued to a host; of those that it has had, what nobody takes any more goes, and of very many
    that are over the oldest. `revokes`: all that it has had is revoked.
    """
    if not issued:
        return []
    kept = [one for one in records.hosts.get((kind, name), ()) if now <= one.forgotten_at]
    if revokes:
        kept = [_revoked(one, now) for one in kept]
    for use in ("link", "ike"):
        over = [one for one in kept if one.use == use and one.revoked_at is None and one.ends_at < now]
        too_many = len([one for one in kept if one.use == use]) + 1 - CERTIFICATES_MAX
        kept = [one for one in kept if one not in over[: max(0, too_many)]]
    return [_put_certificates(kind, name, [*kept, *issued])]


def put_revoked(records: Records, kind: str, name: str, now: float) -> list[Write]:
    """Write that all certificates of a host are revoked."""
    found = records.hosts.get((kind, name), [])
    revoked = [_revoked(one, now) for one in found]
    return [_put_certificates(kind, name, revoked)] if revoked else []


def _revoked(one: Certificate, now: float) -> Certificate:
    return one if one.revoked_at is not None else replace(one, revoked_at=now, pem="")


def _put_certificates(kind: str, name: str, certificates: Iterable[Certificate]) -> Write:
    rows = [asdict(one) for one in certificates]
    return Write(f"{_CERTIFICATES}{kind}/{name}", json.dumps(rows).encode() if rows else None)


def put_operation(operation: Operation, records: Records) -> list[Write]:
    """Write an operation, and forget the oldest of too many."""
    too_many = sorted(records.operations)[: max(0, len(records.operations) - OPERATIONS_MAX + 1)]
    return [put_again(operation), *(Write(_OPERATION + one, None) for one in too_many[:FORGOTTEN_MAX])]


def put_again(operation: Operation) -> Write:
    """Write an operation that is there, and has come further."""
    return Write(_OPERATION + operation.id, json.dumps(asdict(operation)).encode())


def forgotten(records: Records, now: float, beside: Iterable[Write]) -> list[Write]:
    """Forget some certificates and tokens whose time is long over, but for what is written in the same transaction."""
    written = {one.key for one in beside}
    return [one for one in _over(records, now) if one.key not in written][:FORGOTTEN_MAX]


def _over(records: Records, now: float) -> Iterator[Write]:
    for (kind, name), certificates in records.hosts.items():
        kept = [one for one in certificates if now <= one.forgotten_at]
        if len(kept) < len(certificates):
            yield _put_certificates(kind, name, kept)
    for token in records.tokens.values():
        if token.ends_at is not None and now > token.ends_at + GRACE_S:
            yield drop_token(token.name)
