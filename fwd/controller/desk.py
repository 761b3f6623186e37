"""What a leading controller knows and does: the fleet and its records, as they are in the store, and their changes.

One change at a time, each a transaction of the store with its operation. Who asks was looked at before (roles.py). All
calls that write may raise what `edit` does, RequestError, TokenError, and StoreError; a desk that finds another one
leading knows nothing more, and answers LeaderlessError.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from fwd.controller import ca, changes, domain, fleet, records, tokens
from fwd.controller.fleet import Kept, Outcome, Seen
from fwd.controller.issuing import Issuer, keys_in, lists_of
from fwd.controller.joining import Joining, joined_already, with_host
from fwd.controller.keys import Keys
from fwd.controller.news import News
from fwd.controller.place import Placement
from fwd.controller.records import REVOKED_MAX, Operation, Records
from fwd.controller.roles import DeniedError, Host
from fwd.controller.store import ConflictError, NotLeaderError, Store, StoreError, Write
from fwd.controller.tokens import Token
from fwd.link.document import Document, sign
from fwd.model.fleet import Fleet
from fwd.proto.logged import event

Order = tuple[int, int]
TERMS_AHEAD_MAX: Final = 2**39  # more than an etcd that is lost can have counted; of a host's word, so that thousands
# of lies are needed before a store cannot count any further (store.NUMBER_MAX)
CRL_S: Final = 86400.0  # between lists of revoked certificates if nothing is revoked
log = logging.getLogger(__name__)


# What comes of reading what is of another form.
_NONSENSE: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


class LeaderlessError(Exception):
    """This controller does not lead, so it can neither change nor vouch for anything."""


@dataclass(frozen=True)
class Asked:
    """A change that somebody asks for: who, what is done to which object, and when."""

    who: str
    act: str
    kind: str
    name: str
    now: float


@dataclass(frozen=True)
class Done:
    """What came of it. `operation` None: a dry run, or nothing was to be changed."""

    kept: Kept
    lines: tuple[str, ...]
    operation: Operation | None
    moved: tuple[str, ...] = ()  # what of flows; it is another soon, and `lines` are what a plan is known again by


class Desk:
    """See the module. `lifetime_s`: of hosts' certificates."""

    def __init__(
        self, store: Store, keys: Keys, lifetime_s: float = ca.DAYS * 86400.0, wall: Callable[[], float] = time.time
    ) -> None:
        self.store, self.keys, self._lifetime_s, self._wall = store, keys, lifetime_s, wall
        self.term: int | None = None
        self._who, self._followed = "", -1  # what it calls itself while it leads
        self.has_read = False
        self._stale = False  # a write has failed, and it may have been made
        self.cluster_id = ""
        self.records = Records()
        self.crl, self._crl_at, self._crl_of = b"", float("-inf"), -1
        self._documents: dict[str, bytes] = {}
        self._take(Kept())
        # To begin to lead has a lock of its own: who writes need not wait for a store that is away.
        self._lock, self._beginning = asyncio.Lock(), asyncio.Lock()
        self._news = News()

    # -- leading ------------------------------------------------------------------------------------------------------

    async def lead(self, who: str) -> bool:
        """Try to lead, and read everything if that is so."""
        is_new = self.term is None
        async with self._beginning:
            # A recovery gives up leading for a moment, and leads anew itself.
            if is_new and self.term is not None:
                return True
            return await self._lead(who)

    async def _lead(self, who: str) -> bool:
        self._who, term = who, await self.store.lead(who)
        if term is not None:
            self._crl_of = -1  # another term's
            try:
                await self._read()
            except BaseException:
                await self.store.resign()  # another one may know what this one does not
                raise
            self.term = term
            self.wake()
        return term is not None

    async def follow(self) -> None:
        """Read everything, if it has changed, to show it while another one leads."""
        _, revision = await self.store.read("\0")  # no key begins so
        if revision != self._followed:
            await self._read()
            self._followed = revision

    async def renew(self) -> bool:
        """Go on leading; False: that is over, and nothing is vouched for any more."""
        term = self.term
        if term is not None and not await self.store.renew() and self.term == term:
            self.step_down()
        if self.term is not None and self._stale:
            async with self._leading():
                pass  # which reads what was made, if anything was
        return self.term is not None

    def step_down(self) -> None:
        """Lead no more: those who wait for documents are told."""
        self.term = None
        self._documents.clear()
        self.wake()

    async def _read(self) -> None:
        self.cluster_id = await self.store.cluster_id()
        try:
            kept, self.records = await fleet.load(self.store), await records.load(self.store)
            self._take(kept)
        except _NONSENSE as error:
            why = f"{type(error).__name__}: {error}"
            raise StoreError(f"the store has what no fwd has written: put a backup of it back ({why})") from None
        self.has_read = True

    def _take(self, kept: Kept) -> None:
        """Know what holds from now on. What is revoked is part of a generation, since one order has one content."""
        self.kept, self._placement = kept, kept.placement
        self._hosts = {("gateway", one.name) for one in kept.fleet.gateways}
        self._hosts |= {("router", one.name) for one in kept.fleet.routers}
        if self._crl_of != kept.generation:
            self._documents.clear()
            self._crl_at, self._crl_of = self._wall(), kept.generation
            revoked = [self.records.certificates[serial] for serial in self.records.revoked]
            self.crl = lists_of(self.keys, [one for one in revoked if self._crl_at <= one.forgotten_at], self._crl_at)

    # -- what hosts are to do -----------------------------------------------------------------------------------------

    @property
    def newest(self) -> Order:
        """Term and generation of the newest documents."""
        if self.term is None or not self.leads:
            raise LeaderlessError
        return self.term, self.kept.generation

    @property
    def leads(self) -> bool:
        """Whether it may vouch for anything now."""
        return self.term is not None and self.store.leads()

    def document(self, host: str) -> bytes:
        """The newest document of a host that the fleet has, signed."""
        term, generation = self.newest
        if host not in self._documents:
            trusted, crl = ca.bundle(self.keys.trusted()).decode(), self.crl.decode()
            content = domain.content(self._placement, self.kept.fleet, host, self.keys.document, trusted, crl)
            document = Document(self.cluster_id, term, generation, host, content, self.kept.removed)
            self._documents[host] = sign(document, self.keys.document)
        return self._documents[host]

    async def news(self, timeout_s: float) -> bool:
        """Wait until there are newer documents, or this controller does not lead any more."""
        return await self._news.wait(timeout_s)

    def wake(self) -> None:
        """Have whoever waits for documents look again."""
        self._news.tell()

    @property
    def hosts(self) -> set[tuple[str, str]]:
        """All that may have a link: kind and name."""
        return self._hosts

    async def refresh(self) -> None:
        """Have hosts get the lists of revoked certificates anew, if those that they have are of yesterday."""
        async with self._leading() as term:
            if self._wall() - self._crl_at > CRL_S:
                outcome = await fleet.edit(self.store, term, self.kept, lambda fleet: fleet, again=True)
                self._take(outcome.kept)
                self.wake()

    # -- objects ------------------------------------------------------------------------------------------------------

    async def change(
        self,
        asked: Asked,
        act: Callable[[Fleet], Fleet],
        *,
        seen: Seen | None = None,
        dry_run: bool = False,
    ) -> Done:
        """Change the fleet. A plan alone waits for nobody who writes, nor for the store: it is of what is known."""
        if dry_run:
            return await self._edit(self.newest[0], asked, act, lambda: (), seen=seen, dry_run=True)
        async with self._leading() as term:
            return await self._edit(term, asked, act, lambda: (), seen=seen)

    async def delete(self, asked: Asked, *, seen: Seen | None = None, dry_run: bool = False) -> Done:
        """Take an object away; of a host both certificates are revoked."""

        def act(fleet: Fleet) -> Fleet:
            self._check_revocable(asked.kind, asked.name)
            return changes.delete(fleet, asked.kind, asked.name)

        if dry_run:
            return await self.change(asked, act, seen=seen, dry_run=True)
        async with self._leading() as term:
            revokes = partial(records.put_revoked, self.records, asked.kind, asked.name, asked.now)
            return await self._edit(term, asked, act, revokes, seen=seen)

    def _check_revocable(self, kind: str, name: str) -> None:
        """See that a host's certificates can be revoked, too."""
        if len(self.records.revoked) + len(self.records.of_host(kind, name)) > REVOKED_MAX:
            text = f"more than {REVOKED_MAX} certificates would be revoked at once: do it when some have ended"
            raise changes.RefusedError(text, conflict=True)

    async def _edit(
        self,
        term: int,
        asked: Asked,
        act: Callable[[Fleet], Fleet],
        beside: Callable[[], Sequence[Write]],
        *,
        seen: Seen | None = None,
        dry_run: bool = False,
        again: bool = False,
    ) -> Done:
        """Make a change and its operation in one transaction, and know what holds then."""
        made: list[Operation] = []

        def written(outcome: Outcome) -> Sequence[Write]:
            others = beside()
            if outcome.kept is self.kept and not others:
                return ()
            made.append(self._operation(term, asked, outcome))
            others = [*others, *records.put_operation(made[0], self.records)]
            return [*others, *records.forgotten(self.records, asked.now, others)]

        outcome = await fleet.edit(
            self.store, term, self.kept, act, seen=seen, dry_run=dry_run, beside=written, again=again
        )
        if dry_run or not made:
            return Done(outcome.kept, outcome.lines, None)
        self.records = await records.load(self.store)
        self._take(outcome.kept)
        self.wake()
        _log(made[0])
        return Done(outcome.kept, outcome.lines, made[0])

    def _operation(self, term: int, asked: Asked, outcome: Outcome) -> Operation:
        order, after = (term, outcome.kept.generation), outcome.kept.placement
        hosts = _changed(self._placement, after)
        if asked.act in ("delete", "replace") and asked.kind == "gateway":
            hosts |= set(after.gateways)  # whose list of revoked certificates is another
        return Operation(
            records.new_operation_id(self.records, asked.now), asked.now, asked.who, asked.act, asked.kind, asked.name,
            outcome.lines, order, tuple(sorted(hosts)),
        )  # fmt: skip

    # -- tokens -------------------------------------------------------------------------------------------------------

    async def put_token(self, asked: Asked, token: Token) -> Operation:
        """Keep a token that was made. Raises RefusedError if its name is taken or its VPC is not there."""
        async with self._leading() as term:
            if token.name in self.records.tokens:
                raise changes.RefusedError(f"token {token.name} is there already: delete it", conflict=True)
            if token.role == "join" and token.vpc not in self.kept.fleet.vpc:
                raise changes.RefusedError(f"token {token.name}: there is no VPC {token.vpc}")
            if token.replaces and (token.kind, token.replaces) not in self._hosts:
                raise changes.RefusedError(f"token {token.name}: there is no {token.kind} {token.replaces}")
            return await self._record(term, asked, [records.put_token(token)])

    async def drop_token(self, asked: Asked) -> Operation:
        """Forget a token. The last admin's stays: nobody could make another one."""
        async with self._leading() as term:
            token = self.records.tokens.get(asked.name)
            if token is None:
                raise changes.RefusedError(f"there is no token {asked.name}", missing=True)
            admins = [one for one in self.records.tokens.values() if one.role == "admin"]
            if admins == [token]:
                text = f"token {asked.name} is the last admin's: make another one first"
                raise changes.RefusedError(text, conflict=True)
            return await self._record(term, asked, [records.drop_token(asked.name)])

    async def _record(self, term: int, asked: Asked, writes: Sequence[Write], **about: Any) -> Operation:
        """Write records that change no host. `about`: other fields of the operation."""
        made = Operation(
            records.new_operation_id(self.records, asked.now), asked.now, asked.who, asked.act, asked.kind, asked.name,
            **about,
        )  # fmt: skip
        await self.store.write(term, [*writes, *records.put_operation(made, self.records)])
        self.records = await records.load(self.store)
        _log(made)
        return made

    async def keep(self, writes: Sequence[Write]) -> None:
        """Write what is nobody's change: no operation, and no other document."""
        async with self._leading() as term:
            await self.store.write(term, writes)

    # -- what takes a while -------------------------------------------------------------------------------------------

    async def begin(self, asked: Asked, write: Callable[[Records], Sequence[Write]], **about: Any) -> Operation:
        """Note that something begins, before it is done. `write`: what is written with it."""
        async with self._leading() as term:
            return await self._record(term, asked, write(self.records), result=records.RUNNING, **about)

    async def progress(self, id: str, *, steps: Sequence[str] | None = None, result: str | None = None) -> None:
        """Note where an operation stands, or how it has ended; one that is forgotten already stays so."""
        async with self._leading() as term:
            if (one := self.records.operations.get(id)) is None:
                return
            told = replace(one, steps=one.steps if steps is None else tuple(steps), result=result or one.result)
            await self.store.write(term, [records.put_again(told)])
            self.records = await records.load(self.store)

    # -- hosts --------------------------------------------------------------------------------------------------------

    async def join(self, secret: str, joining: Joining, now: float) -> dict[str, Any]:
        """Take a host into the fleet by its token: what it is told."""
        async with self._leading() as term:
            tokens.known(secret, self.records.tokens.values(), now)  # before anything is worked out for who asks
            keys = keys_in(joining.kind, joining.link_csr, joining.ike_csr)
            words = " ".join(keys.fingerprints.values())
            token = tokens.use(secret, joining.name, words, self.records.tokens.values(), now, joining.kind)
            again = bool(self.records.tokens[token.name].used_key)
            joined = bool(self.records.of_host(joining.kind, joining.name))
            if again and not joined:
                raise tokens.TokenError(f"this token was used by {joining.name}, which was deleted: make another one")
            replaces = joined and not again and token.replaces == joining.name
            if replaces:
                self._check_revocable(joining.kind, joining.name)
            elif joined and not again:
                raise changes.RefusedError(joined_already(joining, token.vpc), conflict=True)

            there = self.records.of_host(joining.kind, joining.name)
            issued, told = self._issuer.issue(joining.kind, joining.name, keys, there, now)
            asked = Asked(f"token {token.name}", "replace" if replaces else "join", joining.kind, joining.name, now)
            writes = records.put_issued(self.records, joining.kind, joining.name, issued, now, revokes=replaces)
            if issued or not again:
                writes.append(records.put_token(token))
                act = partial(with_host, joining=joining, vpc=token.vpc)
                await self._edit(term, asked, act, lambda: writes, again=replaces)
            return told

    async def renew_certificates(self, host: Host, link_csr: str, ike_csr: str | None, now: float) -> dict[str, Any]:
        """Issue a host's certificates anew, for the keys that it has; those before stay as they are."""
        async with self._leading() as term:
            if (host.kind, host.name) not in self._hosts or host.serial in self.records.revoked:
                raise DeniedError(f"the certificate of {host.kind} {host.name} is revoked: it was deleted")
            keys, there = keys_in(host.kind, link_csr, ike_csr), self.records.of_host(host.kind, host.name)
            if not keys.fingerprints.items() <= {(one.use, one.key) for one in there}:
                raise DeniedError(f"{host.kind} {host.name} has joined with another key than the one that it renews")

            issued, told = self._issuer.issue(host.kind, host.name, keys, there, now)
            writes = records.put_issued(self.records, host.kind, host.name, issued, now)
            if writes:
                await self.store.write(term, [*writes, *records.forgotten(self.records, now, writes)])
                self.records = await records.load(self.store)
            return told

    @property
    def _issuer(self) -> Issuer:
        return Issuer(self.keys, self.cluster_id, self._lifetime_s)

    async def recover(self, asked: Asked, seen: Mapping[str, Order]) -> Operation:
        """Begin an epoch above all that hosts have seen, after an older store was put back."""
        async with self._leading() as term:
            for host, (one, _) in seen.items():
                if one > term + TERMS_AHEAD_MAX:
                    text = f"{host} says it has seen term {one}, and here it is {term}: see to that host, or delete it"
                    raise changes.RefusedError(text, conflict=True)
            above = max([term, *(one for one, _ in seen.values())])
            async with self._beginning:
                self.step_down()  # if what follows is cut off, nobody knows in which term; the next turn leads anew
                await self.store.begin_epoch(term, above)
                await self.store.resign()
                if not await self._lead(self._who):
                    raise LeaderlessError
            return await self._record(self.newest[0], asked, ())

    # -- who writes ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _leading(self) -> AsyncIterator[int]:
        """Be the only one who writes; whoever finds another leader leads no more."""
        async with self._lock:
            if self.term is None:
                raise LeaderlessError
            try:
                if self._stale:
                    await self._read_anew()
                yield self.term
            except NotLeaderError:
                self.step_down()
                raise LeaderlessError from None
            except ConflictError:
                self._stale = True
                await self._read_anew()
                raise
            except (StoreError, asyncio.CancelledError):
                self._stale = True
                raise

    async def _read_anew(self) -> None:
        """Read everything after a write of which nobody knows what came: it may have been made."""
        before = self.records.operations
        await self._read()
        self._stale = False
        self.wake()
        for one in self.records.operations.values():
            if one.id not in before:
                _log(one)


def _changed(before: Placement, after: Placement) -> set[str]:
    """The hosts whose configuration is another, without those that leave."""
    pairs: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = [
        (before.gateways, after.gateways), (before.routers, after.routers),
    ]  # fmt: skip
    return {name for old, new in pairs for name in new if old.get(name) != new[name]}


def _log(one: Operation) -> None:
    fields = {"operation": one.id, "who": one.who, "act": one.act, "kind": one.kind, "name": one.name}
    log.info("%s: %s %s %s", one.who, one.act, one.kind, one.name, extra=event("controller.changed", **fields))
