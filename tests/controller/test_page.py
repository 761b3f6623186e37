"""Pages of the dashboard as a browser gets them: what they show, and what no page may have."""

from __future__ import annotations

import pytest
from apikit import Api
from pagekit import Browser, Tags

from fwd.controller.control import Control
from fwd.controller.page import facts
from fwd.controller.page.views import Facts

PAGES = ("/", "/?open=a-b", "/gateways/a1", "/peerings/a-b", "/events", "/sign-in", "/gateways/none")


@pytest.fixture
def browser(api: Api) -> Browser:
    """A viewer's, with two gateways that are peered."""
    told = api.peered()
    for one in told.values():
        api.beat(one)
    api.control.turn()
    browser = Browser(api)
    assert browser.sign_in(api.viewer).status_code == 303
    return browser


def test_the_map_shows_vpcs_clusters_gateways_and_peerings(browser: Browser) -> None:
    text = browser.get("/").text
    for word in (
        "10.1.0.0/16",
        "10.2.0.0/16",
        "gateway a1, up",
        "gateway b1, up",
        "peering a-b, unknown, 0 of 1 pairs",
    ):
        assert word in text


def test_a_state_that_is_not_up_is_explained_on_the_first_page(browser: Browser) -> None:
    browser.api.now += 10
    browser.api.control.turn()
    text = browser.get("/").text

    assert "Why gateway a1 is unreachable" in text
    assert "no heartbeat, and nobody else looks at it" in text
    assert "its heartbeat 10.0 s ago: ready" in text
    assert "gateway a1, unreachable, old" in text


@pytest.mark.parametrize("path", ["/map.json", "/gateways/a1.json", "/peerings/a-b.json", "/events.json"])
def test_each_page_is_there_as_json(browser: Browser, path: str) -> None:
    answer = browser.get(path)
    assert answer.status_code == 200
    assert isinstance(answer.json(), dict)
    assert browser.api.ask("GET", path, token=browser.api.viewer).json() == answer.json()


@pytest.mark.parametrize("path", PAGES)
def test_no_page_has_script_or_style_within_or_anything_from_elsewhere(browser: Browser, path: str) -> None:
    answer = browser.get(path)
    policy = answer.headers["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy

    for tag, attributes in Tags(answer.text).tags:
        assert tag != "style"
        assert tag != "script" or attributes.get("src", "").startswith("/static/")
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action"):
            assert attributes.get(name, "/")[0] in "/#"


def test_whatever_a_host_says_is_text(browser: Browser) -> None:
    """A gateway's reason is a stranger's word."""
    api = browser.api
    told = api.join("a", "a2", "10.1.0.12", "192.0.2.9")
    reasons = ["<script>alert(1)</script>", "'\"><img alt=x>", "`<b>`"]
    api.beat(told, status={"ready": False, "waiting": reasons}, version="<i>9</i>")
    api.control.turn()

    for path in ("/", "/gateways/a2", "/events"):
        tags = {tag for tag, attributes in Tags(browser.get(path).text).tags if "src" not in attributes}
        assert not tags & {"script", "img", "b", "i"}


def test_a_hosts_status_of_any_form_breaks_no_page(browser: Browser) -> None:
    api = browser.api
    told = api.join("a", "a2", "10.1.0.12", "192.0.2.9")
    router = api.join("a", "r", "10.1.0.2", "192.0.2.8", kind="router", ike_csr=None)
    rows = [None, {"name": 4, "share": "x"}, {"name": ["a2"], "share": 1}, {"name": "a2", "share": 10**400}]
    each = [None, {"index": 1}, {"index": 2, "spis_in": 5, "far": ["x"], "mtu": "y"}, {"index": 0, "spi_out": "<b>"}]
    inside = {"peerings": [None, {"name": "<i>", "each": each, "drops": {"<b>": 3, "hole": "x"}}]}
    for status in ({}, {"gateways": 3}, {"gateways": {"a2": 1}}, {"gateways": rows}, inside, {"peerings": {"each": 1}}):
        for host in (told, router):
            api.beat(host, status=status)
        api.control.turn()
        for path in ("/", "/gateways/a2", "/routers/r"):
            assert browser.get(path).status_code == 200


def test_who_asks_for_pages_without_end_waits_by_what_they_cost(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 a second, as they were allowed, took all of a controller's time, for which heartbeats waited."""
    api, worked, load = browser.api, 0.0, facts.facts_of

    def slow(control: Control) -> Facts:
        nonlocal worked
        worked += 0.05
        return load(control)

    monkeypatch.setattr("time.thread_time", lambda: worked)
    monkeypatch.setattr("fwd.controller.page.routes.facts_of", slow)
    statuses = [browser.get("/map.json").status_code for _ in range(100)]
    assert statuses == [200] * 20 + [429] * 80
    assert api.good("GET", "/v1/vpcs")["items"], "the API is another matter"
    api.now += 10
    assert browser.get("/").status_code == 200
    assert worked == pytest.approx(21 * 0.05)


def test_what_a_router_has_said_of_shares_is_not_shown_for_ever(browser: Browser) -> None:
    api = browser.api
    router = api.join("a", "r", "10.1.0.2", "192.0.2.8", kind="router", ike_csr=None)
    api.beat(router, status={"ready": True, "gateways": [{"name": "a1", "share": 0.5}]})
    assert "50.0 %" in browser.get("/gateways/a1").text
    api.now += 60
    assert "50.0 %" not in browser.get("/gateways/a1").text


def test_a_gateways_page_shows_its_members_and_what_its_drops_mean(browser: Browser) -> None:
    api = browser.api
    told = api.join("a", "a2", "10.1.0.12", "192.0.2.9")
    row = {
        "index": 3,
        "state": "running",
        "path": "up",
        "spi_out": "0x1234",
        "mtu": 1400,
        "rekey_s": 1900,
        "restarts": 0,
    }
    api.beat(told, status={"ready": True, "peerings": [{"name": "a-b", "each": [row], "drops": {"replayed": 7}}]})
    text = browser.get("/gateways/a2").text
    for word in ("a-b 3", "0x1234", "1400", "31 min", "replayed", "Its sequence number was seen before."):
        assert word in text
    (member,) = browser.get("/gateways/a2.json").json()["members"]
    assert (member["member"]["mtu"], member["state"]) == (1400, "up")

    api.beat(told)  # one of a release before
    assert "It tells of none" in browser.get("/gateways/a2").text


def test_pages_of_what_is_not_there_say_so(browser: Browser) -> None:
    for path in ("/gateways/none", "/gateways/r", "/routers/a1", "/peerings/none", "/static/0/none.css"):
        assert browser.get(path).status_code == 404
    assert browser.get("/peerings/none.json").json()["detail"] == "there is no /peerings/none (any more)"


def test_what_pages_need_may_be_kept_and_is_found_without_a_session(api: Api) -> None:
    nobody = Browser(api)
    text = nobody.get("/sign-in").text
    found = [
        attributes.get("href", attributes.get("src"))
        for tag, attributes in Tags(text).tags
        if tag in ("link", "script")
    ]
    assert len(found) >= 2
    for path in found:
        answer = nobody.get(str(path))
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]


def test_pages_are_kept_by_nobody(browser: Browser) -> None:
    assert browser.get("/").headers["Cache-Control"] == "no-store"


def test_events_can_be_asked_of_one_host(browser: Browser) -> None:
    found = browser.get("/events.json").json()["events"]
    assert {one["host"] for one in found} == {"a1", "b1"}
    assert {one["host"] for one in browser.get("/events.json?host=a1").json()["events"]} == {"a1"}
    assert browser.get("/events.json?host=a1&what=none").json()["events"] == []
