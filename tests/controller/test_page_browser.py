"""The dashboard in a browser, Debian's Chromium, of a controller that runs: what is live, and what a keyboard does."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
import pytest
from cakit import new_key, request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from runkit import Running, running, start

from fwd.controller import keys

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SOON_MS = 60_000  # a browser takes seconds for everything where others have the cores
STREAM = re.compile("/live")  # what a page that is open is told by
expect.set_options(timeout=SOON_MS)


class Gateway:
    """A gateway that has joined, and reports twice a second what `status` is; None: it is silent."""

    def __init__(self, one: Running, client: httpx.Client, vpc: str, name: str, number: int) -> None:
        key = new_key()
        token = client.post("/v1/tokens", json={"vpc": vpc}).json()["token"]
        body = {
            "token": token.split(".")[1], "kind": "gateway", "name": name, "link_csr": request(key),
            "ike_csr": request(new_key()), "inner": [f"10.{'ab'.index(vpc) + 1}.0.{number}"],
            "outer": [f"192.0.2.{number}"], "members": 2,
        }  # fmt: skip
        answer = client.post("/v1/join", json=body)
        assert answer.status_code == 201, answer.text
        path = one.state.parent / f"{name}.pem"
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(plain + answer.json()["link_certificate"].encode())
        self._context = ssl.create_default_context(cafile=one.state / keys.CA_PEM)
        self._context.load_cert_chain(path)
        self._url, self.status = one.url, {"ready": True}

        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report)
        self._thread.start()

    status: dict[str, Any] | None

    def _report(self) -> None:
        with httpx.Client(base_url=self._url, verify=self._context, trust_env=False, timeout=5) as client:
            while not self._ended.wait(0.5):
                body = {"applied": [1, 1], "seen": [1, 1], "version": "0.1.0", "time": time.time()}
                if self.status is not None:
                    with suppress(httpx.HTTPError):  # the controller may be away for a while
                        client.post("/v1/heartbeat", json={**body, "status": self.status})

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


class Fleet:
    """Two VPCs with a gateway each that are peered. `faults`: what browsers have complained of."""

    def __init__(self, one: Running) -> None:
        self.controller = one
        self.faults: list[str] = []
        with one.client() as client:
            for number, name in enumerate("ab", 1):
                client.post("/v1/vpcs", json={"name": name, "cidrs": [f"10.{number}.0.0/16"]})
            self.gateways = {f"{vpc}1": Gateway(one, client, vpc, f"{vpc}1", 10 + n) for n, vpc in enumerate("ab")}
            for name in "ab":
                client.post("/v1/clusters", json={"name": name, "vpc": name, "gateways": [f"{name}1"]})
            client.post("/v1/peerings", json={"name": "a-b", "clusters": ["a", "b"]})
            self.tokens = {
                role: client.post("/v1/tokens", json={"role": role, "name": f"page-{role}"}).json()["token"]
                for role in ("viewer", "admin")
            }
        for vpc, far in ("ab", "ba"):
            gateway = self.gateways[f"{vpc}1"]
            table = {"name": "a-b", "ready": True, "loss": 0.0, "members": 2}
            gateway.status = {
                "ready": True,
                "peerings": [{**table, "far": [{"identity": f"{far}1.gateway.fwd", "up": True}]}],
            }


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running(tmp_path_factory.mktemp("controller")) as one:
        fleet = Fleet(one)
        try:
            yield fleet
        finally:
            for gateway in fleet.gateways.values():
                gateway.end()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def signed_in(fleet: Fleet, chromium: Browser, role: str = "viewer", **how: Any) -> Iterator[Page]:
    """A page of somebody who has signed in; whatever the browser complains of is a fault."""
    context = chromium.new_context(ignore_https_errors=True, base_url=fleet.controller.url, **how)
    page = context.new_page()
    page.set_default_timeout(SOON_MS)
    faults: list[str] = []
    page.on("console", lambda one: faults.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: faults.append(str(one)))
    page.goto("/")
    page.get_by_label("Bearer token").fill(fleet.tokens[role])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Map")).to_be_visible()
    yield page
    context.close()
    # What is said of a controller that does not answer, or goes while it does.
    away = ("Failed to load resource", "htmx: htmx:sse:error", "htmx: htmx:error: Failed to fetch")
    assert not [one for one in faults if not one.startswith(away)]


def test_a_state_that_changes_is_on_the_page_without_a_reload(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()
        expect(page.get_by_label("peering a-b, up, 1 of 1 pairs")).to_be_visible()
        page.evaluate("window.mark = 1")

        before = fleet.gateways["a1"].status
        fleet.gateways["a1"].status = {**(before or {}), "ready": False, "waiting": ["no <b>key</b>"]}
        expect(page.get_by_label("gateway a1, degraded")).to_be_visible()
        expect(page.get_by_role("region", name="Why gateway a1 is degraded")).to_contain_text("no <b>key</b>")

        fleet.gateways["a1"].status = before
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()
        assert page.evaluate("window.mark") == 1


def test_a_page_whose_controller_is_away_says_so_and_comes_back_by_itself(fleet: Fleet, chromium: Browser) -> None:
    one = fleet.controller
    with signed_in(fleet, chromium) as page:
        page.evaluate("window.mark = 1")
        expect(page.locator("#stale")).to_be_hidden()
        assert one.stop() == 0
        try:
            expect(page.locator("#stale")).to_contain_text("No data since")
            expect(page.locator("body")).to_have_class("silent")
        finally:
            one.process = start(one.state.parent / "controller.toml")
            one.wait()
        expect(page.locator("#stale")).to_be_hidden()
        expect(page.get_by_label("peering a-b, up, 1 of 1 pairs")).to_be_visible()
        assert page.evaluate("window.mark") == 1


def test_a_page_works_without_scripts(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium, java_script_enabled=False) as page:
        page.get_by_role("link", name="a-b", exact=True).click()
        expect(page.get_by_role("heading", name="Peering a-b")).to_be_visible()
        page.get_by_role("link", name="on the map").click()
        expect(page.locator(".line.pair")).to_have_count(1)
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_keyboard_alone_is_enough(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        seen = []
        for _ in range(20):
            page.keyboard.press("Tab")
            seen.append(str(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent")))
            if seen[-1].startswith("gateway a1"):
                break
        assert seen[0] == "Skip to the content"
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Gateway a1")).to_be_visible()


def test_a_session_that_has_ended_elsewhere_leads_to_sign_in(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        answer = page.request.post(
            "/sign-out", headers={"Origin": fleet.controller.url}, max_redirects=0,
            form={"form_key": page.locator("[name=form_key]").input_value()},
        )  # fmt: skip
        assert answer.status == 303
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_session_that_ends_before_the_page_is_told_anything_leads_to_sign_in(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        held: list[Route] = []
        page.route(STREAM, lambda route: held.append(route))
        with page.expect_request(STREAM):
            page.reload()
        form = {"form_key": page.locator("[name=form_key]").input_value()}
        answer = page.request.post("/sign-out", headers={"Origin": fleet.controller.url}, max_redirects=0, form=form)
        assert answer.status == 303
        held[0].continue_()
        page.unroute(STREAM)
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_an_admin_drains_a_gateway_and_sees_the_plan_first(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium, "admin") as page:
        page.goto("/gateways/a1")
        page.get_by_role("link", name="Drain").click()
        expect(page.get_by_role("heading", name="The plan")).to_be_visible()
        page.get_by_role("button", name="Drain gateway a1").click()
        expect(page.get_by_role("heading", name="drain gateway a1")).to_be_visible()
        page.goto("/")
        expect(page.get_by_label("gateway a1, draining")).to_be_visible()

        page.goto("/plan?act=undrain&kind=gateway&name=a1")
        page.get_by_role("button", name="Put gateway a1 back into service").click()
        page.goto("/")
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()
