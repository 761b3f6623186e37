"""How pages are drawn in Debian's Chromium: nothing on the map covers anything, and what goes to paper is whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from browsekit import chromium_runs
from playwright.sync_api import Browser
from test_page_views import NOW, gateway

from fwd.controller.members import members_in
from fwd.controller.page.contents import Content, host_page, map_page
from fwd.controller.page.inside import Seen
from fwd.controller.page.render import STATIC, parts_of
from fwd.controller.page.views import Facts, fleet_view

pytestmark = pytest.mark.slow
LONG = "name-of-thirty-two-letters-no-"
STATES = ["down", "degraded", "unreachable", "draining", "joining", *["up"] * 20]
# Of each text on the map what it says and where it is, and of each box that it may be in where that is.
TEXTS = """() => {
  const at = one => { const r = one.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  return {
    texts: [...document.querySelectorAll('svg.map text')].map(one => [one.textContent, at(one)]),
    boxes: [...document.querySelectorAll('svg.map .vpc, svg.map .pill')].map(at),
  };
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with chromium_runs() as browser:
        yield browser


def long_facts() -> Facts:
    """Two VPCs of a gateway in each state and twenty that are up, all names as long as they may be, and all silent."""
    names = {vpc: [f"{vpc}{n:02}-{LONG}"[:31] + "x" for n in range(len(STATES))] for vpc in "ab"}
    gateways = [gateway(one, state) for vpc in "ab" for one, state in zip(names[vpc], STATES, strict=True)]
    routers = [gateway(f"{vpc}-router-{LONG}"[:32].rstrip("-"), "unreachable") for vpc in "ab"]
    clusters = {vpc: f"c{vpc}-{LONG}"[:31] + "x" for vpc in "ab"}
    peering = f"a-b-{LONG}"[:30] + "x"
    subnets = [f".{n}.128/25" for n in range(100, 104)]
    return Facts(
        NOW,
        vpcs=[{"name": vpc, "cidrs": [f"172.{n}{one}" for one in subnets]} for n, vpc in enumerate("ab", 16)],
        gateways=gateways,
        clusters=[{"name": clusters[vpc], "vpc": vpc, "gateways": names[vpc]} for vpc in "ab"],
        routers=routers,
        peerings=[{"name": peering, "clusters": list(clusters.values()), "state": "degraded"}],
        pairs=[
            {"peering": peering, "a": a, "b": b, "state": "up", "rtt_ms": 1.5, "loss": 0.0}
            for a, b in zip(names["a"], names["b"], strict=True)
        ],
        heard={one["name"]: NOW - 60 for one in (*gateways, *routers)},
        bits_s={("peering", peering): 33.8e9},
    )  # fmt: skip


def drawn(content: Content) -> str:
    """A page's parts with the style sheet, without a controller."""
    parts = parts_of(content, may_change=True)
    within = "".join(f'<div id="part-{name}">{text}</div>' for name, text in parts.items() if name != "states")
    return f"<!doctype html><style>{STATIC['page.css'].decode()}</style><main>{within}</main>"


def test_no_text_of_the_map_leaves_its_box_or_covers_another_one(chromium: Browser) -> None:
    """With long names and many states in a cluster texts ran into each other and out of their boxes."""
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_content(drawn(map_page(fleet_view(long_facts()), "")))
    found = page.evaluate(TEXTS)
    page.close()
    texts: list[tuple[str, tuple[float, ...]]] = [(text, tuple(at)) for text, at in found["texts"]]
    assert "1 joining" in [text for text, _ in texts]

    def is_within(one: tuple[float, ...], box: Any) -> bool:
        return bool(box[0] <= one[0] and box[1] <= one[1] and one[2] <= box[2] and one[3] <= box[3])

    assert [text for text, at in texts if not any(is_within(at, box) for box in found["boxes"])] == []
    covering = [
        (one, other)
        for (one, a), (other, b) in combinations(texts, 2)
        if min(a[2], b[2]) - max(a[0], b[0]) > 1 and min(a[3], b[3]) - max(a[1], b[1]) > 4
    ]
    assert covering == []


def test_whatever_can_have_the_focus_keeps_it_while_others_come_and_go(chromium: Browser) -> None:
    """It went to whatever stood at the same place then: Enter opened another gateway than the one that was chosen."""
    page = chromium.new_page()
    page.set_content(drawn(map_page(fleet_view(long_facts()), "")))
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('[id^="part-"]:not(#part-acts):not(#part-clusters) a')]
            .filter(one => !one.closest('[id]:not([id^="part-"])')).map(one => one.textContent)"""
    )
    twice = page.evaluate(
        """() => [...document.querySelectorAll('[id]')].map(one => one.id)
            .filter((id, n, all) => all.indexOf(id) !== n)"""
    )
    page.close()
    assert nameless == []
    assert twice == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_all_columns_are_there_and_black_on_white(chromium: Browser, scheme: Any) -> None:
    """Of a page that is dark on the screen nothing could be read, and the table of members was cut off."""
    far = f"{LONG}x.gateway.fwd"
    members = [
        {"index": n, "state": "running", "path": "down", "far": far, "mtu": 1500, "restarts": 0, "out": 0, "in": 0,
         "buckets": 8192, "spi_out": "0x12345678", "spis_in": ["0x12345678"] * 2, "age_s": 60, "rekey_s": 1,
         "ends_s": 2}
        for n in range(8)
    ]  # fmt: skip
    seen = Seen(members_in({"peerings": [{"name": "a-b", "each": members}]}))
    facts = long_facts()
    content = host_page(fleet_view(facts), "gateway", facts.gateways[0]["name"], (), seen)
    assert content is not None
    page = chromium.new_page(viewport={"width": 718, "height": 1000})  # A4 within its margins
    page.emulate_media(media="print", color_scheme=scheme)
    page.set_content(drawn(content))
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.wide table')]
            .map(one => [one.scrollWidth, one.parentElement.clientWidth])"""
    )
    ink = page.locator(".facts dd").first.evaluate("one => getComputedStyle(one).color")
    card = page.locator(".facts").first.evaluate("one => getComputedStyle(one).backgroundColor")
    page.close()
    assert [width <= room for width, room in wide] == [True]
    assert (ink, card) == ("rgb(0, 0, 0)", "rgb(255, 255, 255)")
