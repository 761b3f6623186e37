"""What is etcd's alone: leases that end, members that freeze, a quorum that is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from etcdkit import Etcd

from fwd.controller.etcd import EtcdStore
from fwd.controller.store import ABSENT, Entry, NotLeaderError, StoreError, Write

TTL_S = 2
RENEWED_TTL_S = 4  # and a machine may be slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Callable[[int], Etcd]]:
    made: list[Etcd] = []

    def make(members: int) -> Etcd:
        made.append(Etcd(tmp_path, members))
        made[-1].wait()
        return made[-1]

    try:
        yield make
    finally:
        for one in made:
            one.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


def freeze(process: subprocess.Popen[Any]) -> None:
    """Stop it; on a busy machine it may answer for a while yet, so wait until it is stopped."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


async def leader(store: EtcdStore, who: str) -> int:
    """Wait until it leads."""
    while (term := await store.lead(who)) is None:
        await asyncio.sleep(0.1)
    return term


def test_a_leader_that_was_frozen_and_wakes_writes_nothing(cluster: Callable[[int], Etcd]) -> None:
    async def work() -> None:
        endpoints = cluster(1).endpoints
        one, other = EtcdStore(endpoints, ttl_s=TTL_S), EtcdStore(endpoints, ttl_s=TTL_S)
        old = await leader(one, "one")
        new = await leader(other, "other")  # one does not renew meanwhile, as if it were stopped

        assert new > old
        assert not await one.renew()
        one._leads_until = float("inf")  # even if its own clock stood still
        with pytest.raises(NotLeaderError):
            await one.write(old, [Write("a", b"1")])
        await other.write(new, [Write("a", b"2")])
        assert (await one.read("a"))[0][0].value == b"2"

    run(work())


def test_a_leader_that_renews_goes_on_and_nobody_else_leads(cluster: Callable[[int], Etcd]) -> None:
    async def work() -> None:
        endpoints = cluster(1).endpoints
        one, other = EtcdStore(endpoints, ttl_s=RENEWED_TTL_S), EtcdStore(endpoints)
        term = await leader(one, "one")
        end = time.monotonic() + 1.5 * RENEWED_TTL_S
        while time.monotonic() < end:
            await asyncio.sleep(0.5)
            assert await one.renew()
            assert await other.lead("other") is None
        await one.write(term, [Write("a", b"1")])

    run(work())


def test_one_of_three_that_freezes_is_passed_over(cluster: Callable[[int], Etcd]) -> None:
    async def work() -> None:
        etcd = cluster(3)
        store = EtcdStore(etcd.endpoints, ttl_s=60)
        term = await leader(store, "one")
        freeze(etcd.processes[0])
        while True:
            try:
                await store.write(term, [Write("a", b"1")])
                break
            except StoreError:  # while the others choose a leader of their own
                await store.renew()

        assert (await store.read("a"))[0][0].value == b"1"

    run(work())


def test_a_quorum_that_is_lost_is_told_in_time(cluster: Callable[[int], Etcd]) -> None:
    async def work() -> None:
        etcd = cluster(3)
        store = EtcdStore(etcd.endpoints)
        term = await leader(store, "one")
        for process in etcd.processes[1:]:
            freeze(process)

        with pytest.raises(StoreError, match="does not answer"):
            await store.write(term, [Write("a", b"1")])

    run(work())


def test_a_lease_that_somebody_takes_ends_the_leading_and_one_can_lead_again(cluster: Callable[[int], Etcd]) -> None:
    async def work() -> None:
        store = EtcdStore(cluster(1).endpoints, ttl_s=TTL_S)
        old = await leader(store, "one")
        await store._post("lease/revoke", {"ID": store._lease})
        with pytest.raises(NotLeaderError):
            await store.write(old, [Write("a", b"1")])
        while await store.renew():  # its own clock says when
            await asyncio.sleep(0.1)

        new = await leader(store, "one")
        assert new > old
        await store.write(new, [Write("a", b"1")])

    run(work())


def test_a_write_whose_answer_is_lost_is_made_once_and_said_to_be(
    cluster: Callable[[int], Etcd], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        store = EtcdStore(cluster(1).endpoints * 2)
        term = await leader(store, "one")
        lost: list[httpx.Response] = []
        answered = store._http.post

        async def lose_one(*arguments: Any, **more: Any) -> Any:
            answer = await answered(*arguments, **more)
            if not lost:
                lost.append(answer)
                raise httpx.ReadTimeout("lost")
            return answer

        monkeypatch.setattr(store._http, "post", lose_one)
        revision = await store.write(term, [Write("a", b"1", ABSENT)])
        assert lost[0].json()["succeeded"]
        assert await store.read("a") == ([Entry("a", b"1", revision)], revision)

    run(work())
