"""What open pages cost with fifty gateways and ten browsers: the controller's share of a core, each update's script.

One page is open in Chromium, and measured by its own clock of the renderer's CPU; nine more are read as a browser
reads them, by their streams. All of it shares one machine with the gateways, so of times none is taken by the wall.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import threading
import time
from pathlib import Path

import httpx
import pytest
from browsekit import chromium_runs, looking
from crowdkit import GATEWAYS, Crowd, used
from playwright.sync_api import Page, expect
from runkit import running

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
OTHERS = ["/"] * 4 + ["/?open=a-b", "/gateways/g1", "/gateways/g2", "/peerings/a-b", "/events"]
LOOKED_AT = ("/", "/?open=a-b", "/gateways/g1", "/peerings/a-b", "/events")
SECONDS, SETTLES_S = 20.0, 4.0
SCRIPT_MS_MAX, CORES_MAX = 50.0, 0.40


class Company:
    """The gateways and the nine others, beside the test. `heard`: reports so far; `read`: octets of the streams."""

    def __init__(self, crowd: Crowd, token: str) -> None:
        self._crowd, self._token = crowd, token
        self.octets = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))

    def __enter__(self) -> Company:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    async def _live(self) -> None:
        tasks = [asyncio.create_task(one) for one in (*self._crowd.live(float("inf")), *map(self._look, OTHERS))]
        while not self._ended.is_set():
            await asyncio.sleep(0.2)
            assert not any(one.done() for one in tasks), "all go on"
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, page: str) -> None:
        """Read a page's stream, as somebody who has signed in."""
        url, context = self._crowd.controller.url, ssl.create_default_context(cafile=self._crowd.authority)
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:
            form = {"token": self._token, "to": "/"}
            assert (await client.post("/sign-in", data=form, headers={"Origin": url})).status_code == 303
            async with client.stream("GET", "/live", params={"page": page}) as stream:
                assert stream.status_code == 200, page
                async for chunk in stream.aiter_bytes():
                    self.octets += len(chunk)


def measured(page: Page, pid: int, path: str) -> tuple[float, float, float]:
    """Milliseconds of script and of everything else for each update of a page, and the controller's share of a core."""
    page.goto(path)
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.wait_for_timeout(1000 * SETTLES_S)
    page.evaluate(
        """() => {
            window.updates = 0;
            new MutationObserver(() => { window.updates += 1; })
                .observe(document.getElementById('part-as_of'), {childList: true, subtree: true, characterData: true});
        }"""
    )

    def now() -> tuple[float, float]:
        found = {one["name"]: one["value"] for one in cdp.send("Performance.getMetrics")["metrics"]}
        return found["ScriptDuration"], found["TaskDuration"]

    (script, task), (cpu, _), began = now(), used(pid), time.monotonic()
    page.wait_for_timeout(1000 * SECONDS)
    (script_after, task_after), (cpu_after, _), took = now(), used(pid), time.monotonic() - began
    updates = page.evaluate("window.updates")
    assert updates > SECONDS / 4, path
    return (script_after - script) * 1e3 / updates, (task_after - task) * 1e3 / updates, (cpu_after - cpu) / took


def test_ten_browsers_that_look_at_fifty_gateways_cost_little(tmp_path: Path) -> None:
    found = {}
    with running(tmp_path) as one, one.client() as client, chromium_runs() as chromium:
        crowd = Crowd(one, client)
        token = client.post("/v1/tokens", json={"role": "viewer", "name": "page"}).json()["token"]
        with Company(crowd, token) as company, looking(chromium, one.url, token) as page:
            for path in LOOKED_AT:
                found[path] = measured(page, one.process.pid, path)
            page.goto("/")
            expect(page.get_by_label(re.compile(f"peering a-b, .*{GATEWAYS // 2} pairs"))).to_be_visible()
        states = {host["health"]["state"] for host in client.get("/v1/gateways").json()["items"]}

    for path, (script_ms, task_ms, cores) in found.items():
        print(f"{path}: {script_ms:.1f} ms of script an update, {task_ms:.1f} ms of all; controller {cores:.3f} cores")
    print(f"{company.octets} octets to nine others; gateways {states}")
    assert max(script_ms for script_ms, _, _ in found.values()) < SCRIPT_MS_MAX
    assert max(cores for _, _, cores in found.values()) < CORES_MAX
