"""The controller's own turns, of a real one, while its store hangs or fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from apikit import application_over
from sitekit import NOW, Site, with_site

from fwd.controller import keys, service
from fwd.controller.config import Controller, ControllerConfig
from fwd.controller.service import Service
from fwd.controller.store import StoreError
from fwd.controller.watch import Beat


def test_hosts_are_judged_while_the_store_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host was shown as up, and fresh, whatever it said, for as long as a disk did not answer."""

    async def work(site: Site) -> None:
        link, go = site.issue(NOW), asyncio.Event()
        write = site.desk.store.write

        async def hangs(term: int, changes: Any) -> int:
            await go.wait()
            return await write(term, changes)

        async def until_it_is(state: str, *, ready: bool) -> None:
            order = list(site.desk.newest)
            body = {"applied": order, "seen": order, "time": site.now, "status": {"ready": ready}}
            async with site.client(link) as client, asyncio.timeout(20):
                while (verdict := site.control.watch.verdicts.get("a1")) is None or verdict.health.value != state:
                    (await client.post("/v1/heartbeat", json=body)).raise_for_status()
                    await asyncio.sleep(0.1)

        await until_it_is("up", ready=True)
        with monkeypatch.context() as broken:
            broken.setattr(site.desk.store, "write", hangs)
            headers = {"Authorization": f"Bearer {site.admin}"}
            async with site.client() as client:
                body = {"name": "b", "cidrs": ["10.2.0.0/16"]}
                made = asyncio.create_task(client.post("/v1/vpcs", json=body, headers=headers))
                try:
                    await until_it_is("degraded", ready=False)
                    assert not made.done()
                finally:
                    go.set()
                assert (await made).status_code == 200

    with_site(tmp_path, work)


@pytest.mark.parametrize("is_told", [True, False])
def test_hosts_are_judged_before_the_second_is_over_if_one_says_what_others_go_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    site = Site(tmp_path, "https://c.example")
    config = ControllerConfig(controller=Controller(url=site.url, state=tmp_path))
    with patch.object(service, "application", application_over):
        one = Service(config, site.control, site.tls)
    monkeypatch.setattr(service, "TURN_S", 3600.0)
    pauses: list[float] = []

    async def pause(seconds: float, sleep: Any = asyncio.sleep) -> None:
        pauses.append(seconds)
        await sleep(seconds)

    async def work() -> None:
        waiting = asyncio.create_task(one._until_due())
        with monkeypatch.context() as timed:
            timed.setattr(asyncio, "sleep", pause)
            await pause(0)
            if is_told:
                site.control.hurry.tell()
            assert pauses == [0, service._SOON_S], "and never more often than that"
        done, _ = await asyncio.wait([waiting], timeout=20.0 if is_told else 4 * service._SOON_S)
        assert bool(done) is is_told
        waiting.cancel()
        await site.desk.store.close()

    asyncio.run(work())


def test_pages_are_told_at_once_of_another_state_and_of_nothing_else(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        config = ControllerConfig(controller=Controller(url=site.url, state=tmp_path))
        with patch.object(service, "application", application_over):
            one = Service(config, site.control, site.tls)
        states = site.control.states
        await one.judge()
        began = states.number
        await one.judge()
        assert states.number == began
        beat = Beat(site.control.clock(), (1, 1), (1, 1), status={"ready": True})
        site.control.watch.hear("a1", beat, (1, 1), NOW)
        await one.judge()
        await one.judge()
        assert states.number == began + 1

    with_site(tmp_path, work)


def test_a_first_admin_who_could_not_be_kept_takes_the_place_of_one_token_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store that was empty by mistake the admin's token was gone when the second attempt had failed, too."""
    (tmp_path / keys.ADMIN_TOKEN).write_text("of the store that is put back")
    site = Site(tmp_path, "https://c.example")
    config = ControllerConfig(controller=Controller(url=site.url, state=tmp_path))
    with patch.object(service, "application", application_over):
        one = Service(config, site.control, site.tls)

    async def fails(term: int, changes: Any) -> int:
        raise StoreError("no room")

    async def work() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(site.desk.store, "write", fails)
            for _ in range(3):
                await one.turn()
        await one.turn()
        text = (tmp_path / keys.ADMIN_TOKEN).read_text().strip()
        assert site.control.person(f"Bearer {text}", writes=True).name == "admin"
        await site.desk.store.close()

    asyncio.run(work())
    assert (tmp_path / f"{keys.ADMIN_TOKEN}.before").read_text() == "of the store that is put back"
