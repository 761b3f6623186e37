"""The dashboard in a browser, Debian's Chromium, of a controller that runs: what is live, and what a keyboard does."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest
from browsekit import axe, chromium_runs
from browserkit import Fleet, signed_in
from playwright.sync_api import Browser, Page, Route, expect
from runkit import running, start

from fwd.controller.page.live import frame
from fwd.controller.page.render import rendered

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STREAM = re.compile("/live")  # what a page that is open is told by


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
    with chromium_runs() as browser:
        yield browser


LINES = """one => {
  const range = document.createRange();
  range.selectNodeContents(one);
  return new Set([...range.getClientRects()].map(each => Math.round(each.top))).size;
}"""


def hears(page: Page) -> None:
    """Wait until the stream of a page has said something."""
    clock = page.locator("#part-as_of time")
    expect(clock).not_to_have_text(clock.inner_text())


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


def test_nothing_of_a_page_begins_before_its_last_script_however_late(fleet: Fleet, chromium: Browser) -> None:
    def late(route: Route) -> None:
        answer = route.fetch()
        time.sleep(1)
        route.fulfill(response=answer, body="window.early = !!window.begun;" + answer.text())

    with signed_in(fleet, chromium) as page:
        page.add_init_script("addEventListener('htmx:after:process', () => { window.begun = true; }, true)")
        page.route(re.compile("page.js"), late)
        page.goto("/")
        assert page.evaluate("[window.begun, window.early]") == [True, False]
        hears(page)


def test_a_gateways_page_shows_what_goes_through_each_member_while_it_changes(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        page.goto("/gateways/a1")
        rows = page.get_by_role("region", name="Members").locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("bit/s")
        expect(rows.first).to_contain_text("0x0000aa00")
        expect(rows.first.get_by_role("img", name="Throughput of member 0 of a-b")).to_be_visible()
        expect(page.get_by_role("region", name="Drops")).to_contain_text("Its sequence number was seen before.")
        page.evaluate("window.mark = 1")

        fleet.gateways["a1"].members[1] |= {"path": "down", "restarts": 5}
        expect(rows.nth(1)).to_contain_text("the far member does not answer its echoes")
        fleet.gateways["a1"].members[1] |= {"path": "up"}
        expect(rows.nth(1)).not_to_contain_text("echoes")
        assert page.evaluate("window.mark") == 1


@pytest.mark.parametrize("script", ["htmx.min.js", "page.js"])
def test_a_page_whose_scripts_never_come_says_that_it_is_not_live(fleet: Fleet, chromium: Browser, script: str) -> None:
    with signed_in(fleet, chromium) as page:
        expect(page.locator("#unscripted")).to_have_count(0)
        state, url = page.context.storage_state(), fleet.controller.url

        # Where scripts are missing a browser complains, which is no fault here.
        context = chromium.new_context(ignore_https_errors=True, base_url=url, storage_state=state)
        broken = context.new_page()
        broken.route(re.compile(script), lambda route: route.fulfill(status=200, body=""))
        broken.goto("/")
        said = broken.locator("#unscripted")
        assert said.evaluate("one => getComputedStyle(one).visibility") == "hidden"
        expect(said).to_be_visible()
        expect(said).to_contain_text("Not live")
        context.close()


def test_on_a_narrow_screen_words_stay_whole_and_the_map_can_be_read(fleet: Fleet, chromium: Browser) -> None:
    """At 400 px each letter of a table had a line of its own, and the map was as high as a line."""
    flow = "from=10.1.0.5&to=10.2.0.5&sport=1&dport=2"
    with signed_in(fleet, chromium, viewport={"width": 400, "height": 800}) as page:
        for path in ("/", "/gateways/a1", "/peerings/a-b", "/events", f"/path?{flow}"):
            page.goto(path)
            # No word has more than a line.
            heads = page.locator("thead th").all()
            lines = [(one.inner_text(), one.evaluate(LINES)) for one in heads]
            assert [(text, count) for text, count in lines if count > len(text.split())] == [], path
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, path
            assert axe(page) == [], path
        for path in ("/", f"/path?{flow}"):
            page.goto(path)
            assert page.locator(".map").evaluate("one => one.getBoundingClientRect().width") >= 600, path


def test_ages_are_by_the_controllers_clock_before_a_stream_has_said_anything(fleet: Fleet, chromium: Browser) -> None:
    """By a browser's clock that was an hour ahead a gateway was heard an hour ago."""
    with signed_in(fleet, chromium) as page:
        page.add_init_script("const now = Date.now; Date.now = () => now() + 3600e3")
        page.route(STREAM, lambda route: route.abort())
        page.goto("/gateways/a1")
        heard = page.locator("dt", has_text="Heard").locator("xpath=following-sibling::dd[1]/time")
        expect(heard).to_have_text(re.compile("now|[0-9]+ s ago"))


@pytest.mark.parametrize("away_s", [0, pytest.param(30, marks=pytest.mark.long)])
def test_a_page_whose_controller_is_away_says_so_and_comes_back_by_itself(
    fleet: Fleet, chromium: Browser, away_s: int
) -> None:
    one, stale = fleet.controller, "#stale"
    with signed_in(fleet, chromium) as page:
        page.evaluate("window.mark = 1")
        expect(page.locator(stale)).to_be_hidden()
        hears(page)
        assert one.stop() == 0
        went_at = time.time()
        try:
            expect(page.locator(stale)).to_contain_text("No data since")
            expect(page.locator("body")).to_have_class("silent")

            # It says since when, and goes on to say so for as long as it is away.
            page.wait_for_timeout(max(0.0, went_at + away_s - time.time()) * 1000)
            since = re.search(r"since (\d\d):(\d\d):(\d\d) UTC", page.locator(stale).inner_text())
            assert since is not None
            hours, minutes, seconds = map(int, since.groups())
            ago_s = (went_at - (3600 * hours + 60 * minutes + seconds)) % 86400
            assert min(ago_s, 86400 - ago_s) < 5.0, "the last data came just before it went"
        finally:
            one.process = start(one.state.parent / "controller.toml")
            one.wait()
        expect(page.locator(stale)).to_be_hidden()
        expect(page.locator("body")).not_to_have_class("silent")
        expect(page.get_by_label("peering a-b, up, 1 of 1 pairs")).to_be_visible()
        assert page.evaluate("window.mark") == 1


def test_the_way_of_a_flow_is_on_the_map(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        page.get_by_role("link", name="Path").click()
        for name, text in (("from", "10.1.0.5"), ("to", "10.2.0.5"), ("sport", "5000"), ("dport", "80")):
            page.locator(f"[name={name}]").fill(text)
        page.get_by_role("button", name="Show the way").press("Enter")
        expect(page.get_by_label("gateway b1, up, on the way")).to_be_visible()
        expect(page.get_by_role("region", name="Nothing known here breaks it")).to_contain_text("0x0000aa01")


def test_changes_of_state_are_spoken_those_of_the_time_without_a_stream_too(fleet: Fleet, chromium: Browser) -> None:
    before = fleet.gateways["a1"].status
    with signed_in(fleet, chromium) as page:
        news = page.get_by_role("status")
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()
        hears(page)
        page.route(STREAM, lambda route: route.abort())
        page.evaluate("document.getElementById('stream')._htmx.sse.reader.cancel()")
        expect(page.locator("#stale")).to_contain_text("No data since")
        fleet.gateways["a1"].status = {**(before or {}), "ready": False, "waiting": ["no key"]}
        fleet.until("a1", "degraded")
        page.unroute(STREAM)
        expect(news).to_contain_text("gateway a1 is degraded")

        fleet.gateways["a1"].status = before
        expect(news).to_contain_text("gateway a1 is up")
        assert "bit/s" not in news.inner_text()


def test_that_a_new_controller_has_heard_nobody_yet_is_not_spoken(fleet: Fleet, chromium: Browser) -> None:
    """After each restart all hosts were said to be joining, and then to be up."""
    with signed_in(fleet, chromium) as page:
        words = [{"gateway a1": one, "peering a-b": f"{one}, 1 of 1 pairs"} for one in ("unknown", "up", "degraded")]
        told = b"".join(frame({"states": rendered("part_states.html", states=one)}) for one in words)
        page.route(STREAM, lambda route: route.fulfill(body=told, content_type="text/event-stream"), times=1)
        page.add_init_script(
            """addEventListener('DOMContentLoaded', () => {
                const said = window.said = [], news = document.getElementById('part-news');
                new MutationObserver(() => said.push(news.textContent)).observe(news, {childList: true});
            })"""
        )
        page.goto("/")
        expect(page.get_by_role("status")).to_contain_text("gateway a1 is degraded")
        assert [text for text in page.evaluate("said") if "unknown" in text or "is up" in text] == []


def test_the_last_hour_is_replayed_on_the_map(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium) as page:
        page.goto("/events")
        slider = page.get_by_role("slider", name="When")
        slider.fill("-3600")
        expect(page.locator("#replay-out")).to_contain_text("Nothing is known of")
        slider.fill("0")
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()
        expect(page.locator("#replay-out")).to_contain_text("As it was at")

        slider.fill("-60")
        page.get_by_role("button", name="Play").press("Enter")
        expect(page.get_by_role("button", name="Play")).to_be_visible()  # it has come to its end
        assert slider.input_value() == "0"


def test_a_page_works_without_scripts(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium, java_script_enabled=False) as page:
        page.get_by_role("link", name="a-b", exact=True).click()
        expect(page.get_by_role("heading", name="Peering a-b")).to_be_visible()
        page.get_by_role("link", name="on the map").click()
        expect(page.locator(".line.pair")).to_have_count(1)

        page.goto("/events")
        expect(page.get_by_role("button", name="Play")).to_be_hidden()
        page.get_by_role("button", name="Show", exact=True).first.click()
        expect(page.locator("#replay-out")).to_contain_text("As it was at")
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_axe_finds_nothing_on_any_page_light_or_dark(fleet: Fleet, chromium: Browser) -> None:
    pages = (
        "/?open=a-b", "/path?from=10.1.0.5&to=10.2.0.5&sport=1&dport=2", "/gateways/a1", "/peerings/a-b",
        "/events?at=0", "/operations", "/plan?act=create&kind=cluster",
        "/plan?act=delete&kind=gateway&name=a1", "/gateways/none", "/sign-in",
    )  # fmt: skip
    before = fleet.gateways["a1"].status
    fleet.gateways["a1"].status = {**(before or {}), "ready": False, "waiting": ["no key"]}
    # axe makes elements of text, which no page of ours may.
    with signed_in(fleet, chromium, "admin", bypass_csp=True) as page:
        expect(page.get_by_label("gateway a1, degraded")).to_be_visible()
        found = {}
        for path in pages:
            page.emulate_media(color_scheme="light")
            page.goto(path)
            found[path, "light"] = axe(page)
            page.emulate_media(color_scheme="dark")
            found[path, "dark"] = axe(page, "color-contrast")
        fleet.gateways["a1"].status = before
        assert {key: told for key, told in found.items() if told} == {}


def tab_to(page: Page, name: str) -> str:
    """Press Tab until what is called so has the focus, and Enter; returns what had it first."""
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            str(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent")).strip()
        )
        if seen[-1].startswith(name):
            page.keyboard.press("Enter")
            return seen[0]
    raise AssertionError(seen)


def test_a_keyboard_alone_is_enough_for_a_change_too(fleet: Fleet, chromium: Browser) -> None:
    with signed_in(fleet, chromium, "admin") as page:
        assert tab_to(page, "gateway a1") == "Skip to the content"
        expect(page.get_by_role("heading", name="Gateway a1")).to_be_visible()

        # The plan is seen first.
        tab_to(page, "Drain")
        expect(page.get_by_role("heading", name="The plan")).to_be_visible()
        tab_to(page, "Drain gateway a1")
        expect(page.get_by_role("heading", name="drain gateway a1")).to_be_visible()
        tab_to(page, "Map")
        expect(page.get_by_label("gateway a1, draining")).to_be_visible()

        page.goto("/plan?act=undrain&kind=gateway&name=a1")
        tab_to(page, "Put gateway a1 back into service")
        expect(page.get_by_role("heading", name="undrain gateway a1")).to_be_visible()
        tab_to(page, "Map")
        expect(page.get_by_label("gateway a1, up", exact=True)).to_be_visible()


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
