"""What an operator sees of a real fleet in a browser while something goes wrong, and after."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from browsekit import chromium_runs, looking
from clusterkit import Cluster, MakeFleet, until
from playwright.sync_api import Page, expect
from workflowkit import workflow

SHOWN_S, BUSY_S = 3.0, 20.0  # on a quiet machine, and with a busy one's delay
ROUNDS = 10
DOWN = ("gateway gw2, down", "peering one-two, degraded, 1 of 2 pairs")
# When the page says so first, by the clock that the test has, too.
NOTE = """labels => {
  const seen = window.seen = {};
  const look = () => labels.forEach(one => {
    if (!(one in seen) && document.querySelector(`[aria-label^="${one}"]`)) seen[one] = Date.now() / 1000;
  });
  window.noting?.disconnect();
  window.noting = new MutationObserver(look);
  window.noting.observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@contextmanager
def two_pairs_seen(fleets: MakeFleet) -> Iterator[tuple[Cluster, Page]]:
    """A fleet of two pairs that carry traffic, and its map in a browser, where all is green."""
    lab: Cluster = fleets(2, 2, peered=True)
    token = str(lab.api.create("tokens", role="viewer")["token"])
    with lab.load(), chromium_runs() as chromium, looking(chromium, lab.url, token) as page:
        until(lambda: min(lab.records(host) for host in lab.fleet.gateways) > 200, "traffic over all pairs")
        is_green(page)
        yield lab, page


def is_green(page: Page) -> None:
    """Wait until gateway and line are."""
    expect(page.get_by_label("gateway gw2, up", exact=True)).to_be_visible()
    expect(page.get_by_label(re.compile("^peering one-two, up, 2 of 2 pairs"))).to_be_visible()


def frozen(lab: Cluster, page: Page) -> dict[str, float]:
    """Freeze a gateway until the page shows it, by node, line and panel, and see it back: when it did, in seconds."""
    page.evaluate(NOTE, DOWN)
    lab.signal("gw2", signal.SIGSTOP)
    at = time.time()
    try:
        for label in DOWN:
            expect(page.get_by_label(re.compile(f"^{label}"))).to_be_visible()
        panel = page.get_by_role("region", name="Why gateway gw2 is down")
        expect(panel).to_contain_text("no answer to its probes")
        picture(page, "down", dark=True)
        seen = {label: round(when - at, 2) for label, when in page.evaluate("seen").items()}
    finally:
        lab.signal("gw2", signal.SIGCONT)
    back_at = time.time()
    is_green(page)
    seen["back"] = round(time.time() - back_at, 2)
    print(seen)
    return seen


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_gateway_that_freezes_under_load_is_seen_with_its_line_and_why_and_comes_back(fleets: MakeFleet) -> None:
    with two_pairs_seen(fleets) as (lab, page):
        seen = frozen(lab, page)
        assert max(seen[label] for label in DOWN) < BUSY_S

        # What real gateways tell of their pairs and members.
        assert all(0 < one["rtt_ms"] < 10_000 for one in lab.api.items("pairs")), lab.api.items("pairs")
        page.goto("/gateways/gw1")
        rows = page.get_by_role("region", name="Members").locator("tbody tr")
        expect(rows.first).to_contain_text("0x")
        expect(rows.first).to_contain_text("bit/s")

        # And which way a flow goes.
        here, there = lab.fleet.address("client1"), lab.fleet.address("client2")
        page.goto(f"/path?from={here}&to={there}&proto=udp&sport=7001&dport=7000")
        expect(page.get_by_text("by its hash")).to_have_count(4)
        picture(page, "path")


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(400)
def test_a_gateway_that_freezes_again_and_again_is_seen_within_three_seconds_each_time(fleets: MakeFleet) -> None:
    with two_pairs_seen(fleets) as (lab, page):
        for number in range(ROUNDS):
            until(lab.is_whole, "all gateways are heard, and up")
            time.sleep(number / ROUNDS)  # at another moment of the second
            seen = frozen(lab, page)
            assert max(seen[label] for label in DOWN) < SHOWN_S, seen


def picture(page: Page, what: str, *, dark: bool = False) -> None:
    """Take a picture for docs/dashboard.md, if FWD_SCREENSHOTS names the directory where they go."""
    if where := os.environ.get("FWD_SCREENSHOTS"):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.screenshot(path=Path(where) / f"dashboard-{what}.png", full_page=True)


class ByBrowser:
    """Somebody who works with the dashboard alone."""

    def __init__(self, page: Page) -> None:
        self._page, self._numbers = page, count()

    def create(self, kind: str, name: str, **fields: Any) -> None:
        self._page.goto(f"/plan?act=create&kind={kind}")
        self._page.locator("#f-name").fill(name)
        if "cidrs" in fields:
            self._page.locator("#f-cidrs").fill(",".join(fields["cidrs"]))
        if "vpc" in fields:
            self._page.locator("#f-vpc").select_option(fields["vpc"])
        self._check(fields.get("gateways", ()))
        for side, cluster in zip("ab", fields.get("clusters", ()), strict=False):
            self._page.locator(f"#f-{side}").select_option(cluster)
        self._carry_out(kind)

    def gateways(self, cluster: str, names: list[str]) -> None:
        self._page.goto(f"/plan?act=set&kind=cluster&name={cluster}")
        for one in self._page.locator("[name=gateways][type=checkbox]").all():
            one.set_checked(one.get_attribute("value") in names)
        self._carry_out("cluster")

    def drain(self, gateway: str) -> None:
        self._page.goto(f"/plan?act=drain&kind=gateway&name={gateway}")
        expect(self._page.get_by_text("of its flows, which are gateway").first).to_be_visible()
        self._page.locator("button.go").click()
        expect(self._page.get_by_role("heading", level=1)).to_contain_text(f"drain gateway {gateway}")

    def delete(self, kind: str, name: str) -> None:
        self._page.goto(f"/plan?act=delete&kind={kind}&name={name}")
        self._page.locator("#confirm").fill(name)
        self._page.get_by_role("button", name=f"Delete {kind} {name}").click()
        expect(self._page.get_by_role("heading", level=1)).to_contain_text(f"delete {kind} {name}")

    def token(self, vpc: str, kind: str) -> str:
        self._page.goto("/plan?act=create&kind=token")
        self._page.locator("#f-name").fill(f"token-{next(self._numbers)}")
        for field, value in (("role", "join"), ("vpc", vpc), ("host", kind)):
            self._page.locator(f"#f-{field}").select_option(value)
        self._page.get_by_role("button", name="Show the plan").click()
        self._page.locator("button.go").click()
        lines = self._page.locator("pre code").inner_text().splitlines()
        assert lines[-1].startswith("fwd join https://")
        return str(lines[1])

    def look(self, what: str) -> None:
        self._page.goto("/?open=one-two")
        expect(self._page.get_by_label(re.compile("^peering one-two, up"))).to_be_visible()
        expect(self._page.locator(".line.pair.good").first).to_be_attached()
        picture(self._page, what)

    def _check(self, names: Iterable[str]) -> None:
        for name in names:
            self._page.locator(f"[name=gateways][value={name}]").check()

    def _carry_out(self, kind: str) -> None:
        self._page.get_by_role("button", name="Show the plan").click()
        expect(self._page.get_by_role("heading", name="The plan")).to_be_visible()
        self._page.locator("button.go").click()
        expect(self._page.get_by_role("heading", level=1)).to_contain_text(f" {kind} ")


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_whole_workflow_in_a_browser(fleets: MakeFleet) -> None:
    lab = fleets(4, 3, up=False)
    token = (lab.state / "admin.token").read_text().strip()
    with (
        chromium_runs() as chromium,
        looking(chromium, lab.url, token, viewport={"width": 1280, "height": 800}) as page,
    ):
        workflow(lab, ByBrowser(page))
