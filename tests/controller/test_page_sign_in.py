"""To sign in to the dashboard and out, and what is refused."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from apikit import Api
from pagekit import ORIGIN, Browser

from fwd.controller.sessions import LIFETIME_S, SESSIONS_MAX, Sessions
from fwd.controller.store import StoreError


@pytest.fixture
def browser(api: Api) -> Browser:
    """A viewer's."""
    browser = Browser(api)
    assert browser.sign_in(api.viewer).status_code == 303
    return browser


def test_a_page_sends_a_stranger_to_sign_in_and_then_back(api: Api) -> None:
    browser = Browser(api)
    sent = browser.get("/?open=a-b")
    assert (sent.status_code, sent.headers["Location"]) == (303, "/sign-in?to=/%3Fopen%3Da-b")
    assert 'name="to" value="/?open=a-b"' in browser.get(sent.headers["Location"]).text

    back = browser.sign_in(api.viewer, "/?open=a-b")
    assert (back.status_code, back.headers["Location"]) == (303, "/?open=a-b")
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", "/\n/x", ""]
)
def test_nobody_is_sent_elsewhere(api: Api, to: str) -> None:
    assert Browser(api).sign_in(api.viewer, to).headers["Location"] == "/"


def test_the_cookie_is_for_this_host_over_tls_and_no_scripts(api: Api) -> None:
    answer = Browser(api).sign_in(api.viewer)
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-fwd=")
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert word in cookie
    assert "Domain" not in cookie


def test_the_store_has_no_cookie_that_somebody_could_use(browser: Browser) -> None:
    entries, _ = browser.api.run(browser.api.store.read(""))
    kept = b"".join(one.key.encode() + one.value for one in entries)
    assert b"session/" in kept
    assert browser.cookie.encode() not in kept


@pytest.mark.parametrize("token", ["", "nonsense", "fwdb.x", "fwd1.x.y"])
def test_who_has_no_token_is_refused_by_a_page_that_says_so(api: Api, token: str) -> None:
    answer = Browser(api).sign_in(token)
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "Set-Cookie" not in answer.headers


def test_who_guesses_is_not_listened_to_for_long(api: Api) -> None:
    browser = Browser(api)
    statuses = [browser.sign_in("nonsense").status_code for _ in range(30)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert browser.sign_in(api.viewer).status_code == 429

    browser = Browser(api, "x" * 43)
    api.now += 60
    assert [browser.get("/map.json").status_code for _ in range(30)][-1] == 429


def test_a_stolen_cookie_is_worth_nothing_after_sign_out(browser: Browser) -> None:
    thief = Browser(browser.api, browser.cookie)
    assert thief.get("/map.json").status_code == 200

    answer = browser.send("/sign-out", {"form_key": browser.form_key()})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/sign-in")
    assert thief.get("/map.json").status_code == 401


@pytest.mark.parametrize("origin", [None, "null", "https://evil.example", "http://c.example", "https://c.example:444"])
def test_a_form_from_elsewhere_is_refused_and_noted(
    browser: Browser, origin: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    fields = {"form_key": browser.form_key()}
    with caplog.at_level(logging.INFO):
        assert browser.send("/sign-out", fields, origin).status_code == 403
        assert browser.send("/sign-in", {"token": browser.api.viewer}, origin).status_code == 403
    assert "POST /sign-out: 403" in caplog.text
    assert browser.get("/").status_code == 200


def test_a_form_without_its_key_or_with_anothers_is_refused(browser: Browser) -> None:
    other = Browser(browser.api)
    other.sign_in(browser.api.viewer)
    for fields in ({"x": "1"}, {"form_key": ""}, {"form_key": "é"}, {"form_key": other.form_key()}):
        assert browser.send("/sign-out", fields).status_code == 403
    assert browser.get("/").status_code == 200


def test_a_session_ends_with_its_time_and_with_its_token(api: Api) -> None:
    browser = Browser(api)
    browser.sign_in(api.viewer)
    api.now += LIFETIME_S - 1
    assert browser.get("/map.json").status_code == 200
    api.now += 2
    assert browser.get("/map.json").status_code == 401

    browser.sign_in(api.viewer)
    assert browser.get("/map.json").status_code == 200
    api.good("DELETE", "/v1/tokens/page")
    assert browser.get("/map.json").status_code == 401


def test_a_session_outlives_the_controller_that_began_it(browser: Browser) -> None:
    browser.api.control.sessions = Sessions(browser.api.desk)
    assert browser.get("/map.json").status_code == 200


def test_a_store_that_does_not_answer_signs_nobody_out(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    assert browser.get("/map.json").status_code == 200

    async def fail(prefix: str) -> None:
        raise StoreError("the store is away")

    monkeypatch.setattr(browser.api.store, "read", fail)
    browser.api.now += 60
    assert browser.get("/map.json").status_code == 200
    stranger = Browser(browser.api, "y" * 43).get("/map.json")
    assert (stranger.status_code, stranger.json()["detail"]) == (503, "could not check who asks: the store is away")


def test_sessions_are_bounded_and_the_oldest_go(api: Api) -> None:
    token = api.desk.records.tokens["page"]
    first = api.run(api.control.sessions.begin(token, api.now))
    for n in range(SESSIONS_MAX):
        api.run(api.control.sessions.begin(token, api.now + 1 + n / 1000))
    entries, _ = api.run(api.store.read("session/"))
    assert len(entries) == SESSIONS_MAX
    assert Browser(api, first).get("/map.json").status_code == 401


def test_who_signs_in_without_end_signs_nobody_else_out(api: Api) -> None:
    """With a viewer's token nobody could have kept an admin's session."""
    admin, viewer = Browser(api), api.desk.records.tokens["page"]
    assert admin.sign_in(api.admin).status_code == 303
    for n in range(SESSIONS_MAX):
        api.run(api.control.sessions.begin(viewer, api.now + 1 + n / 1000))
    api.now += 3  # what was seen a moment ago is not believed any more
    assert admin.get("/map.json").status_code == 200
    assert len(api.run(api.store.read("session/"))[0]) == SESSIONS_MAX


@pytest.mark.parametrize(
    ("method", "path", "status", "why"),
    [
        ("POST", "/plan", 401, "nobody has signed in with this cookie"),
        ("POST", "/nowhere", 401, "nobody has signed in"),
        ("GET", "/nowhere", 404, "there is nothing at /nowhere"),
        ("GET", "/sign-out", 405, "there is no GET at /sign-out"),
        ("GET", f"/sign-in?to=/{'x' * 501}", 422, "to: "),
    ],
)
def test_what_a_browser_is_refused_is_said_by_a_page(api: Api, method: str, path: str, status: int, why: str) -> None:
    """As when a form is sent whose time is over: there was JSON in its place."""
    browser = Browser(api)
    answer = browser.get(path) if method == "GET" else browser.send(path, {"act": "drain"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert why in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert 'href="/"' in answer.text


def test_what_a_program_is_refused_is_said_as_json(api: Api) -> None:
    answer = api.ask("GET", "/v1/nothing%0a")
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json")
    assert "there is nothing at /v1/nothing" in answer.json()["detail"]
    assert Browser(api).send("/map.json", {}).json()["detail"]


def test_what_is_no_form_is_not_read_as_one(browser: Browser) -> None:
    headers = {"Cookie": f"__Host-fwd={browser.cookie}", "Origin": ORIGIN}
    for kind, content in (("application/json", b"{}"), ("text/plain", b"form_key=x"), ("", b"form_key=x")):
        how = {"content": content, "headers": {**headers, "Content-Type": kind}}
        assert browser.api.ask("POST", "/sign-out", token="", **how).status_code == 422


def test_a_session_that_ends_while_it_is_looked_up_is_not_believed(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had stolen the cookie, and asked at the moment of the sign-out, had it for two seconds more."""
    api, sessions = browser.api, browser.api.control.sessions
    read = api.store.read

    async def slow(prefix: str) -> Any:
        found = await read(prefix)
        monkeypatch.setattr(api.store, "read", read)
        await sessions.end(browser.cookie)
        return found

    api.now += 10
    monkeypatch.setattr(api.store, "read", slow)
    assert browser.get("/").status_code == 303
    assert browser.get("/").status_code == 303


def test_who_was_known_a_moment_ago_does_not_wait_for_a_store_that_hangs(
    browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An etcd that hung kept each page waiting, each time, and those that were open said that there are no data."""
    api, reads = browser.api, []

    async def hangs(prefix: str) -> Any:
        reads.append(prefix)
        await asyncio.Event().wait()

    assert browser.get("/").status_code == 200
    api.now += 10
    monkeypatch.setattr(api.store, "read", hangs)
    for _ in range(3):
        assert browser.get("/").status_code == 200
    assert len(reads) == 1, "and it is not asked each time"
