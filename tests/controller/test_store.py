"""What every store of a controller's must do: one conformance test for all of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from etcdkit import Etcd

from fwd.controller.store import (
    ABSENT,
    WRITES_MAX,
    ConflictError,
    Entry,
    NotLeaderError,
    SqliteStore,
    Store,
    StoreError,
    Write,
)
from fwd.proto.errors import UserError

Opened = Callable[[], Store]


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    made = Etcd(tmp_path_factory.mktemp("etcd"))
    try:
        made.wait()
        yield made
    finally:
        made.stop()


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same store once more; in memory there is one alone."""
    if request.param == "memory":
        one = SqliteStore()
        return lambda: one
    if request.param == "sqlite":
        return lambda: SqliteStore(tmp_path / "state.db")
    from fwd.controller.etcd import EtcdStore

    endpoints = request.getfixturevalue("etcd").endpoints
    return lambda: EtcdStore(endpoints, f"/{tmp_path.name}/")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def test_what_is_written_is_read_in_the_order_of_keys(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one")
        assert term
        revision = await store.write(term, [Write("gateway/b", b"2"), Write("gateway/a", b"1"), Write("vpc/a", b"3")])

        assert await store.read("gateway/") == (
            [Entry("gateway/a", b"1", revision), Entry("gateway/b", b"2", revision)],
            revision,
        )

    run(work())


def test_each_write_has_a_higher_revision(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        first = await store.write(term, [Write("a", b"1")])
        second = await store.write(term, [Write("b", b"1")])

        assert second > first
        assert [entry.revision for entry in (await store.read(""))[0]] == [first, second]

    run(work())


@pytest.mark.parametrize("seen", [ABSENT, 10**6])
def test_a_write_that_has_seen_another_revision_is_refused_as_a_whole(opened: Opened, seen: int) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        await store.write(term, [Write("a", b"1", ABSENT)])
        with pytest.raises(ConflictError) as refused:
            await store.write(term, [Write("b", b"2"), Write("a", b"2", seen)])

        assert refused.value.key == "a"
        assert [(entry.key, entry.value) for entry in (await store.read(""))[0]] == [("a", b"1")]

    run(work())


def test_a_key_is_deleted_by_who_has_seen_it(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        revision = await store.write(term, [Write("a", b"1")])
        await store.write(term, [Write("a", None, revision)])

        assert (await store.read(""))[0] == []

    run(work())


def test_a_key_may_hold_what_a_prefix_or_a_pattern_would_mean(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        await store.write(term, [Write("a%", b"1"), Write("ab", b"2"), Write("a_b", b"3")])

        assert [entry.key for entry in (await store.read("a%"))[0]] == ["a%"]

    run(work())


def test_an_older_term_writes_nothing(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        old = await store.lead("one") or 0
        await store.resign()
        new = await store.lead("two")

        assert new is not None
        assert new > old
        with pytest.raises(NotLeaderError):
            await store.write(old, [Write("a", b"1")])

    run(work())


def test_who_leads_is_told_until_it_resigns(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        assert await store.leader() == ""
        await store.lead("one")
        assert await store.leader() == "one"
        await store.resign()
        assert await store.leader() == ""
        await store.lead("two")
        assert await store.leader() == "two"

    run(work())


def test_who_waits_hears_of_a_write_and_of_none(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        _, revision = await store.read("")
        assert not await store.changed(revision, 0.01)

        waiting = asyncio.create_task(store.changed(revision, 20))
        await asyncio.sleep(0)
        await store.write(term, [Write("a", b"1")])
        assert await waiting
        assert await store.changed(revision, 0.0), "and at once, if it was written before"

    run(work())


def test_a_new_epoch_is_above_all_that_anybody_has_seen(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        before = await store.cluster_id()
        await store.begin_epoch(term, above=5000)

        assert await store.cluster_id() != before
        with pytest.raises(NotLeaderError):
            await store.write(term, [Write("a", b"1")])
        await store.resign()
        after = await store.lead("one") or 0
        assert after > 5000
        assert await store.write(after, [Write("a", b"1")]) > 5000

    run(work())


def test_what_was_written_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    async def work() -> None:
        store = SqliteStore(tmp_path / "state.db")
        first = await store.lead("one") or 0
        await store.write(first, [Write("a", b"1")])
        identity = await store.cluster_id()
        await store.close()

        again = SqliteStore(tmp_path / "state.db")
        second = await again.lead("one") or 0
        assert second > first, "each start has a term of its own"
        assert await again.cluster_id() == identity
        assert [entry.value for entry in (await again.read(""))[0]] == [b"1"]

    run(work())


def test_of_two_on_one_file_one_leads(tmp_path: Path) -> None:
    async def work() -> None:
        one, other = SqliteStore(tmp_path / "state.db"), SqliteStore(tmp_path / "state.db")
        assert await one.lead("one")
        assert await other.lead("other") is None
        await one.close()
        assert await other.lead("other")

    run(work())


@pytest.mark.parametrize("content", [b"this is no database, and long enough to be looked at" * 100])
def test_a_file_that_is_no_store_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)
    with pytest.raises(UserError, match="cannot be opened"):
        SqliteStore(tmp_path / "state.db")


def test_more_than_a_transaction_can_have_is_refused_before_it_is_begun(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        await store.write(term, [Write(f"a/{n}", b"") for n in range(WRITES_MAX)])
        with pytest.raises(StoreError, match="at most"):
            await store.write(term, [Write(f"b/{n}", b"") for n in range(WRITES_MAX + 1)])

        assert len((await store.read(""))[0]) == WRITES_MAX

    run(work())


def test_no_epoch_begins_where_numbers_end(opened: Opened) -> None:
    async def work() -> None:
        store = opened()
        term = await store.lead("one") or 0
        before = await store.cluster_id()
        with pytest.raises(StoreError, match="cannot be above"):
            await store.begin_epoch(term, 2**63 - 1)

        assert await store.cluster_id() == before
        assert await store.write(term, [Write("a", b"")])

    run(work())


def test_nobody_waits_for_a_disk_but_who_writes_and_who_gives_up_has_written_or_not(tmp_path: Path) -> None:
    """Another connection has the file's lock for as long as a disk would not answer."""

    async def work() -> None:
        store = SqliteStore(tmp_path / "state.db")
        term = await store.lead("one") or 0
        disk = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        disk.execute("BEGIN IMMEDIATE")
        writing = asyncio.create_task(store.write(term, [Write("a", b"1")]))
        given_up = asyncio.create_task(store.write(term, [Write("b", b"2")]))
        for _ in range(10):
            await asyncio.sleep(0.01)  # the loop goes on
            assert store.leads()
            assert not writing.done()
        given_up.cancel()
        disk.execute("COMMIT")
        revision = await writing
        assert [one.key for one in (await store.read(""))[0]] in (["a"], ["a", "b"])
        assert await store.write(term, [Write("c", b"3")]) > revision

        # A transaction that has failed leaves nothing behind.
        disk.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            await store.write(term, [Write("d", b"4")])
        disk.execute("COMMIT")
        await store.write(term, [Write("e", b"5")])
        disk.close()
        await store.close()

    run(work())
