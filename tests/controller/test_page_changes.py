"""Changes from the dashboard: the plan first, then what was asked for, and nothing for who may not."""

from __future__ import annotations

import asyncio
import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from apikit import Api
from pagekit import ORIGIN, Browser
from test_spawn import program

from fwd.controller import changes
from fwd.controller.acts import Acts, Rules
from fwd.controller.api.asked import COOKIE
from fwd.controller.desk import Asked
from fwd.controller.page.forms import ACTS
from fwd.controller.restarts import Restarts
from fwd.model.fleet import Fleet


@pytest.fixture
def admin(api: Api) -> Browser:
    """An admin's."""
    browser = Browser(api)
    browser.sign_in(api.admin)
    return browser


def plan(browser: Browser, **values: str) -> str:
    answer = browser.get(f"/plan?{urlencode(values)}")
    assert answer.status_code == 200, answer.text
    return html.unescape(answer.text)


def hidden(text: str) -> dict[str, str]:
    """The fields that a plan's form has by itself."""
    form = text[text.index('method="post" action="/plan"') :]
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))


def do(browser: Browser, confirm: str = "", **values: str) -> str:
    """Plan something, and do it: where one is sent to."""
    fields = hidden(plan(browser, **values)) | ({"confirm": confirm} if confirm else {})
    answer = browser.send("/plan", fields)
    assert answer.status_code == 303, answer.text
    return answer.headers["Location"]


def test_a_fleet_is_made_changed_and_taken_apart_in_the_browser(api: Api, admin: Browser) -> None:
    for name, net in (("a", "10.1"), ("b", "10.2")):
        do(admin, act="create", kind="vpc", name=name, cidrs=f"{net}.0.0/16")
        api.join(name, f"{name}1", f"{net}.0.11", f"192.0.2.{ord(name)}")
        do(admin, act="create", kind="cluster", name=name, vpc=name, gateways=f"{name}1")
    done = do(admin, act="create", kind="peering", name="a-b", a="a", b="b", path="internet")
    assert "peering a-b: a1 and b1 are joined" in admin.get(done).text
    assert admin.get(f"{done}.json").json()["act"] == "create"

    api.join("a", "a2", "10.1.0.12", "192.0.2.9")
    assert "a2 and b1 are joined" in plan(admin, act="set", kind="cluster", name="a", gateways="a1,a2")
    do(admin, act="set", kind="cluster", name="a", gateways="a1,a2")
    do(admin, act="drain", kind="gateway", name="a2")
    assert api.good("GET", "/v1/gateways/a2")["state"] == "draining"
    do(admin, act="undrain", kind="gateway", name="a2")
    assert api.good("GET", "/v1/gateways/a2")["state"] == "active"

    for kind, name in (("peering", "a-b"), ("cluster", "a"), ("gateway", "a1"), ("gateway", "a2"), ("vpc", "a")):
        do(admin, name, act="delete", kind=kind, name=name)
    assert [one["name"] for one in api.good("GET", "/v1/vpcs")["items"]] == ["b"]
    assert "delete vpc a" in admin.get("/operations").text


def test_a_plan_changes_nothing(api: Api, admin: Browser) -> None:
    api.peered()
    before = api.run(api.store.read(""))[0]
    for act, kinds in ACTS.items():
        for kind in kinds:
            admin.get(f"/plan?{urlencode({'act': act, 'kind': kind, 'name': 'a1', 'cidrs': '10.9.0.0/16'})}")
    assert api.run(api.store.read(""))[0] == before


def test_what_is_destructive_asks_for_the_name(api: Api, admin: Browser) -> None:
    api.peered()
    text = plan(admin, act="delete", kind="gateway", name="a1")
    assert "peering a-b: a1 and b1 are joined no more" in text
    for confirm in ("", "a2", "A1"):
        answer = admin.send("/plan", hidden(text) | {"confirm": confirm})
        assert answer.status_code == 422
        assert "type a1 to do this" in answer.text
    assert api.ask("GET", "/v1/gateways/a1").status_code == 200


def test_a_plan_that_is_no_longer_true_is_shown_anew(api: Api, admin: Browser) -> None:
    api.peered()
    fields = hidden(plan(admin, act="drain", kind="gateway", name="a1"))
    api.good("PATCH", "/v1/gateways/a1", {"weight": 2})
    answer = admin.send("/plan", fields)
    assert answer.status_code == 412
    assert api.good("GET", "/v1/gateways/a1")["state"] == "active"
    assert admin.send("/plan", hidden(answer.text)).status_code == 303


def test_a_plan_that_would_do_something_else_now_is_shown_anew(api: Api, admin: Browser) -> None:
    """The peering is as it was; the tunnels that would go with it are others."""
    api.peered()
    fields = hidden(plan(admin, act="delete", kind="peering", name="a-b")) | {"confirm": "a-b"}
    creates = hidden(plan(admin, act="create", kind="cluster", name="c", vpc="a", gateways="a1"))
    api.join("a", "a2", "10.1.0.12", "192.0.2.9")
    api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})

    answer = admin.send("/plan", fields)
    assert (answer.status_code, "nothing was changed" in answer.text) == (412, True)
    assert "a2 and b1 are joined no more" in answer.text
    assert api.ask("GET", "/v1/peerings/a-b").status_code == 200
    assert admin.send("/plan", hidden(answer.text) | {"confirm": "a-b"}).status_code == 303
    assert admin.send("/plan", creates).status_code == 303, "nothing of that plan is another"


def test_what_the_api_refuses_is_refused_with_the_same_words(api: Api, admin: Browser) -> None:
    api.peered()
    text = plan(admin, act="delete", kind="vpc", name="a")
    assert "vpc a is used by cluster a, gateway a1" in text
    assert "is there already" in plan(admin, act="create", kind="vpc", name="a", cidrs="10.9.0.0/16")
    assert "(multicast addresses)" in plan(admin, act="create", kind="vpc", name="c", cidrs="224.0.0.0/4")
    assert "this controller upgrades nothing" in plan(admin, act="upgrade", kind="gateway", name="a1")
    assert "gateway: expected 1 to 32 small letters" in plan(admin, act="upgrade", kind="gateway", name="A 1")
    assert "this controller restarts nothing" in plan(admin, act="restart", kind="gateway", name="a1")
    form_key = admin.form_key()
    fields = {"form_key": form_key, "act": "delete", "kind": "vpc", "name": "a", "confirm": "a", "seen": "1"}
    assert admin.send("/plan", fields | {"seen": str(api.good("GET", "/v1/vpcs/a")["revision"])}).status_code == 409
    for odd in ("", "x", "-1", "9" * 30):
        assert admin.send("/plan", fields | {"seen": odd}).status_code == 412


def test_a_host_is_restarted_by_the_same_operation(api: Api, admin: Browser, tmp_path: Path) -> None:
    told = api.peered()
    acts = Acts(api.control, Rules((program(tmp_path / "restart", "echo booting"),)))
    api.control.restarting = restarts = Restarts(api.control, acts)
    api.now += 5.0
    for one in told.values():
        api.beat(one)
    api.control.turn()
    assert "nobody else of cluster a carries" in plan(admin, act="restart", kind="gateway", name="a1")

    do(admin, act="drain", kind="gateway", name="a1")
    api.control.turn()
    fields = hidden(plan(admin, act="restart", kind="gateway", name="a1"))
    api.good("PATCH", "/v1/gateways/a1", {"weight": 2})
    assert admin.send("/plan", fields).status_code == 412
    done = do(admin, act="restart", kind="gateway", name="a1")
    shown = admin.get(f"{done}.json").json()
    assert (shown["act"], shown["name"], shown["reason"]) == ("restart", "a1", "asked for by root")
    assert "its command runs" in admin.get(done).text
    assert "act=restart" in admin.get("/gateways/a1").text
    api.run(restarts.close())


def test_a_token_is_shown_once_with_the_line_to_paste(api: Api, admin: Browser) -> None:
    api.make_vpc("a", "10.1")
    text = plan(admin, act="create", kind="token", name="t", role="join", vpc="a", host="gateway")
    answer = admin.send("/plan", hidden(text))
    assert answer.status_code == 200
    assert "fwd join https://c.example --token-file" in answer.text
    found = re.search(r"fwd1\.[A-Za-z0-9_-]{43}\.[0-9a-f]+", answer.text)
    assert found is not None
    for path in ("/", "/operations"):
        assert found[0].split(".")[1] not in admin.get(path).text
    assert api.good("GET", "/v1/tokens/t")["state"] == "good"


@pytest.mark.parametrize(("act", "kind"), [(act, kind) for act, kinds in ACTS.items() for kind in kinds])
def test_a_viewer_may_neither_plan_nor_change_anything(api: Api, act: str, kind: str) -> None:
    api.peered()
    viewer = Browser(api)
    viewer.sign_in(api.viewer)
    before = api.run(api.store.read(""))[0]
    fields = {"act": act, "kind": kind, "name": "a1", "confirm": "a1", "form_key": viewer.form_key()}
    assert viewer.get(f"/plan?{urlencode(fields)}").status_code == 403
    assert viewer.send("/plan", fields).status_code == 403
    assert "/plan?" not in viewer.get("/").text
    assert api.run(api.store.read(""))[0] == before


def test_nobody_changes_anything_from_elsewhere_or_without_a_session(api: Api, admin: Browser) -> None:
    api.peered()
    fields = hidden(plan(admin, act="drain", kind="gateway", name="a1"))
    before = api.run(api.store.read(""))[0]
    assert admin.send("/plan", fields, "https://evil.example").status_code == 403
    assert admin.send("/plan", {**fields, "form_key": "0" * 64}).status_code == 403
    assert Browser(api).send("/plan", fields).status_code == 401
    bearer = {"Origin": ORIGIN}
    assert api.ask("POST", "/plan", headers=bearer, data=fields).status_code == 401
    assert api.run(api.store.read(""))[0] == before


def test_there_are_no_other_changes(admin: Browser) -> None:
    for values in (
        {},
        {"act": "delete"},
        {"act": "recover", "kind": "vpc", "name": "a"},
        {"act": "set", "kind": "vpc"},
    ):
        assert admin.get(f"/plan?{urlencode(values)}").status_code == 404


@pytest.mark.parametrize("query", ["act=drain&kind=gateway&name=a1", "act=delete&kind=gateway&name=a1"])
def test_a_plan_waits_for_nobody_who_writes_to_a_store_that_hangs(
    api: Api, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    api.peered()
    browser = Browser(api)
    browser.sign_in(api.admin)

    async def hangs(term: int, changes: Any) -> int:
        await asyncio.Event().wait()
        return 0

    async def both() -> tuple[int, int]:
        writing = asyncio.create_task(api.desk.change(Asked("t", "set", "vpc", "a", api.now), widen))
        while not api.desk._lock.locked():
            await asyncio.sleep(0)
        headers = {"Cookie": f"{COOKIE}={browser.cookie}"}
        shown = await asyncio.wait_for(api.http.get(f"/plan?{query}", headers=headers), 20)
        dry = await asyncio.wait_for(api.http.delete("/v1/peerings/a-b?dry_run=1", headers=admin), 20)
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        return shown.status_code, dry.status_code

    def widen(fleet: Fleet) -> Fleet:
        return changes.change(fleet, "gateway", "a1", {"weight": 2.0})

    admin = {"Authorization": f"Bearer {api.admin}"}
    with monkeypatch.context() as broken:
        broken.setattr(api.store, "write", hangs)
        assert api.run(both()) == (200, 200)
