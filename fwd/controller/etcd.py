"""A controller's store in etcd, across hosts: through its JSON gateway, with deadlines of its own.

Any of several endpoints serves; one that does not answer in time is left for the next. The leader is who holds the key
`leader` by a lease; its create_revision is the term, and each write is a transaction that compares it, so a leader that
was frozen and wakes up writes nothing. The leader counts its lease from before it asked for it, on its own clock, and
stops a margin before it ends.

A request whose answer is lost is made again elsewhere: a write has a word of its own, by which it knows itself.

There is no watch: it may hang without a word, and the fleet's revision is one small question.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import secrets
import ssl
import time
from collections.abc import Sequence
from typing import Any, Final

import httpx

from fwd.controller.store import (
    ABSENT,
    ID_BYTES,
    ConflictError,
    Entry,
    NotLeaderError,
    Store,
    StoreError,
    Write,
    check_epoch,
    check_writes,
)

TTL_S: Final = 5
MARGIN_S: Final = 1.0  # before the end of its lease a leader stops
DEADLINE_S: Final = 2.0  # of one request
LOOK_S: Final = 0.25  # between looks at the revision
_LEADER, _ID, _DATA = "leader", "cluster_id", "data/"
_MARK: Final = (
    "mark"  # put by each write, with its word: its revision is the fleet's, since etcd's own rises by everybody's
)
_BASE: Final = "base"  # what is added to etcd's revisions, which begin anew when a cluster is made anew


class EtcdStore(Store):
    """See the module. `endpoints`: URLs. `prefix`: of all keys of this fleet. `tls`: for https."""

    def __init__(
        self, endpoints: Sequence[str], prefix: str = "/fwd/", ttl_s: int = TTL_S, tls: ssl.SSLContext | None = None
    ) -> None:
        self._endpoints = list(endpoints)
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(DEADLINE_S), verify=tls or True, trust_env=False)
        self._lease: str | None = None
        self._leads_until = float("-inf")
        self._base = 0

    # -- leading ----------------------------------------------------------------------------------------------------

    async def lead(self, who: str) -> int | None:
        await self.read("\0")  # the base
        await self._drop_lease()  # of an attempt before, whatever became of it
        began = time.monotonic()
        self._lease = str((await self._post("lease/grant", {"TTL": self._ttl_s}))["ID"])
        put = self._put(_LEADER, who.encode())
        put["request_put"]["lease"] = self._lease
        answer = await self._post("kv/txn", {"compare": [self._absent(_LEADER)], "success": [put]})
        if not answer.get("succeeded"):
            await self._drop_lease()
            return None
        self._leads_until = began + self._ttl_s - MARGIN_S
        return self._base + int(answer["header"]["revision"])

    async def renew(self) -> bool:
        if self._lease is None or time.monotonic() >= self._leads_until:
            return False
        began = time.monotonic()
        with contextlib.suppress(StoreError):
            answer = await self._post("lease/keepalive", {"ID": self._lease})
            if int(answer.get("result", {}).get("TTL", 0)) > 0:
                self._leads_until = began + self._ttl_s - MARGIN_S
        return time.monotonic() < self._leads_until

    def leads(self) -> bool:
        return time.monotonic() < self._leads_until

    async def leader(self) -> str:
        answer = await self._post("kv/range", {"key": self._key(_LEADER)})
        rows = answer.get("kvs", [])
        return _plain(rows[0].get("value", "")).decode(errors="replace") if rows else ""

    async def resign(self) -> None:
        self._leads_until = float("-inf")
        await self._drop_lease()

    async def _drop_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(StoreError):
                await self._post("lease/revoke", {"ID": lease})

    # -- entries ----------------------------------------------------------------------------------------------------

    async def read(self, prefix: str) -> tuple[list[Entry], int]:
        answer = await self._post(
            "kv/txn",
            {"success": [{"request_range": self._all(_DATA + prefix)}, *self._ranges(_MARK, _BASE)]},
        )
        data, mark, base = (one["response_range"].get("kvs", []) for one in answer["responses"])
        self._base = int(_plain(base[0]["value"])) if base else 0
        cut = len(self._prefix + _DATA)
        entries = [
            Entry(
                _plain(row["key"]).decode()[cut:], _plain(row.get("value", "")), self._base + int(row["mod_revision"])
            )
            for row in data
        ]
        revision = self._base + (int(mark[0]["mod_revision"]) if mark else 0)
        return sorted(entries, key=lambda entry: entry.key), revision

    async def write(self, term: int, changes: Sequence[Write]) -> int:
        check_writes(changes)
        if time.monotonic() >= self._leads_until:
            raise NotLeaderError
        word = secrets.token_bytes(ID_BYTES)
        answer = await self._post(
            "kv/txn",
            {
                "compare": [self._held(term), *(self._as_seen(one) for one in changes if one.seen is not None)],
                "success": [*(self._operation(one) for one in changes), self._put(_MARK, word)],
                "failure": [*self._ranges(_LEADER, _MARK), *self._ranges(*(_DATA + one.key for one in changes))],
            },
        )
        if answer.get("succeeded"):
            return self._base + int(answer["header"]["revision"])
        leader, mark, *found = (one["response_range"].get("kvs", []) for one in answer["responses"])

        # It may have been made, and its answer lost. Else somebody else leads, or has changed what it changes.
        if mark and _plain(mark[0]["value"]) == word:
            return self._base + int(mark[0]["mod_revision"])
        if not leader or int(leader[0]["create_revision"]) != term - self._base:
            self._leads_until = float("-inf")
            raise NotLeaderError
        for one, rows in zip(changes, found, strict=True):
            revision = self._base + int(rows[0]["mod_revision"]) if rows else ABSENT
            if one.seen is not None and one.seen != revision:
                raise ConflictError(one.key)
        raise StoreError("a transaction failed, and nothing says why")

    def _as_seen(self, one: Write) -> dict[str, str]:
        seen = one.seen - self._base if one.seen else 0
        return {"key": self._key(_DATA + one.key), "target": "MOD", "mod_revision": str(seen), "result": "EQUAL"}

    def _operation(self, one: Write) -> dict[str, Any]:
        if one.value is None:
            return {"request_delete_range": {"key": self._key(_DATA + one.key)}}
        return self._put(_DATA + one.key, one.value)

    async def changed(self, after: int, timeout_s: float) -> bool:
        end = time.monotonic() + timeout_s
        while True:
            _, revision = await self.read("\0")  # no key begins so
            if revision > after:
                return True
            left_s = end - time.monotonic()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(LOOK_S, left_s))

    # -- which store it is ------------------------------------------------------------------------------------------

    async def cluster_id(self) -> str:
        first = self._put(_ID, secrets.token_hex(ID_BYTES).encode())
        answer = await self._post(
            "kv/txn",
            {
                "compare": [self._absent(_ID)],
                "success": [first, *self._ranges(_ID)],
                "failure": self._ranges(_ID),
            },
        )
        return _plain(answer["responses"][-1]["response_range"]["kvs"][0]["value"]).decode()

    async def begin_epoch(self, term: int, above: int) -> None:
        check_epoch(above)
        _, revision = await self.read("\0")
        base = max(above, revision, term) + 1
        answer = await self._post(
            "kv/txn",
            {
                "compare": [self._held(term)],
                "success": [
                    self._put(_BASE, str(base).encode()),
                    self._put(_ID, secrets.token_hex(ID_BYTES).encode()),
                ],
            },
        )
        if not answer.get("succeeded"):
            raise NotLeaderError
        self._base = base

    async def close(self) -> None:
        await self.resign()
        await self._http.aclose()

    # -- messages ---------------------------------------------------------------------------------------------------

    def _key(self, name: str) -> str:
        return base64.b64encode((self._prefix + name).encode()).decode()

    def _all(self, name: str) -> dict[str, str]:
        """The range of all keys that begin so."""
        first = (self._prefix + name).encode()
        last = first[:-1] + bytes((first[-1] + 1,))  # of ASCII and UTF-8, whose last octet is below 255
        return {"key": base64.b64encode(first).decode(), "range_end": base64.b64encode(last).decode()}

    def _ranges(self, *names: str) -> list[dict[str, Any]]:
        return [{"request_range": {"key": self._key(name)}} for name in names]

    def _put(self, name: str, value: bytes) -> dict[str, Any]:
        return {"request_put": {"key": self._key(name), "value": base64.b64encode(value).decode()}}

    def _absent(self, name: str) -> dict[str, str]:
        return {"key": self._key(name), "target": "CREATE", "create_revision": "0", "result": "EQUAL"}

    def _held(self, term: int) -> dict[str, str]:
        """That the key of the leader is the one of this term."""
        created = str(term - self._base)
        return {"key": self._key(_LEADER), "target": "CREATE", "create_revision": created, "result": "EQUAL"}

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask the first endpoint that answers in time; it is asked first the next time, too."""
        why = "there is no endpoint"
        for endpoint in list(self._endpoints):
            try:
                async with asyncio.timeout(DEADLINE_S):
                    answer = await self._http.post(f"{endpoint}/v3/{path}", json=body)
                value = answer.json()
                if answer.status_code == httpx.codes.OK and isinstance(value, dict):
                    return value
                why = (
                    f"{endpoint}: {value.get('error', answer.status_code) if isinstance(value, dict) else 'no object'}"
                )
            except (httpx.HTTPError, TimeoutError, ValueError) as error:
                why = f"{endpoint}: {error or type(error).__name__}"
            self._endpoints.append(self._endpoints.pop(self._endpoints.index(endpoint)))
        raise StoreError(f"etcd does not answer: {why}")


def _plain(text: str) -> bytes:
    return base64.b64decode(text)
