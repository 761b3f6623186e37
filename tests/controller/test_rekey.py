"""New keys for a peering's tunnels, as an operation: what it says to its gateways, and when it is refused."""

from __future__ import annotations

from typing import Any

import pytest
from apikit import Api
from pagekit import Browser
from test_page_changes import do, plan

from fwd.controller import changes
from fwd.controller.rekeys import BOUND_S, Rekeys
from fwd.link.document import verify
from fwd.model.fleet import Fleet
from fwd.model.linked import REKEYS_MAX

PLAN = [f"gateway {name}: peering a-b has new keys, and loses no packet" for name in ("a1", "b1")]
PATH = "/v1/peerings/a-b"


def peered(api: Api) -> dict[str, Any]:
    told = api.peered()
    for one in told.values():
        api.beat(one, status={"ready": True, "rekeys": True})
    return told


def numbers(api: Api, host: str) -> Any:
    return verify(api.desk.document(host), api.desk.keys.document.public_key(), host).content.get("rekeys")


def test_the_next_number_goes_to_both_ends(api: Api) -> None:
    peered(api)
    assert api.good("POST", f"{PATH}/rekey", params={"dry_run": "1"})["plan"] == PLAN
    assert numbers(api, "a1") is None
    for count in (1, 2):
        made = api.good("POST", f"{PATH}/rekey")
        assert made["plan"] == PLAN
        assert numbers(api, "a1") == numbers(api, "b1") == {"a-b": count}
        operation = api.good("GET", f"/v1/operations/{made['operation']}")
        assert (operation["act"], operation["kind"], operation["name"]) == ("rekey", "peering", "a-b")
        assert operation["progress"] == {"hosts": 2, "waiting": ["a1", "b1"]}


def said(api: Api, told: dict[str, Any], **keys_s: int | None) -> dict[str, Any]:
    """Have each gateway say that it has heard, and how old its oldest key is; what the operation's end is then."""
    for host, age_s in keys_s.items():
        table = {"name": "a-b", "ready": True, **({} if age_s == -1 else {"keys_s": age_s})}
        status = {"ready": True, "rekeys": True, "peerings": [table]}
        api.beat(told[host], status=status, applied=list(api.desk.newest))
    api.run(api.control.end_rekeys())
    (found,) = (one for one in api.good("GET", "/v1/operations")["items"] if one["act"] == "rekey")
    return dict(found)


def test_it_is_done_when_all_send_on_keys_that_are_younger(api: Api) -> None:
    told = peered(api)
    api.now += 1000.0
    api.good("POST", f"{PATH}/rekey")
    api.now += 5.0
    heard = said(api, told, a1=500, b1=500)
    assert (heard["result"], heard["progress"]["waiting"]) == ("in progress", ["a1", "b1"])
    half = said(api, told, a1=3, b1=None)
    assert (half["result"], half["progress"]["waiting"]) == ("in progress", ["b1"])
    done = said(api, told, a1=3, b1=4)
    assert (done["result"], done["progress"]["waiting"]) == ("done", [])
    assert said(api, told, a1=500, b1=500)["result"] == "done", "that was so"


def test_it_has_failed_with_what_is_missing_after_a_while(api: Api) -> None:
    told = peered(api)
    api.good("POST", f"{PATH}/rekey")
    api.now += BOUND_S - 1
    assert said(api, told, a1=700)["result"] == "in progress"
    api.now += 2.0
    assert said(api, told, a1=702)["result"] == (
        "failed: not all keys are new after 180 s: a1 has a member whose key is 702 s old; b1 has not heard of it"
    )
    assert said(api, told, a1=3, b1=3)["result"].startswith("failed"), "nobody waits for it any more"


def test_an_older_gateway_tells_only_that_it_has_heard(api: Api) -> None:
    told = peered(api)
    api.good("POST", f"{PATH}/rekey")
    api.now += 5.0
    assert said(api, told, a1=-1, b1=60)["progress"]["waiting"] == ["b1"]
    assert said(api, told, a1=-1, b1=2)["result"] == "done"


def test_whoever_leads_next_goes_on_with_it(api: Api) -> None:
    told = peered(api)
    api.good("POST", f"{PATH}/rekey")
    api.now += 100.0
    api.run(api.desk.lead("another"))
    api.control.begin()
    api.control.rekeys = Rekeys()
    assert said(api, told, a1=200, b1=99)["result"] == "in progress"
    api.now += BOUND_S - 100.0
    assert said(api, told, a1=400, b1=99)["result"].startswith("failed")


def test_another_peering_is_left_alone(api: Api) -> None:
    peered(api)
    api.make_vpc("c", "10.3")
    api.beat(api.join("c", "c1", "10.3.0.11", "192.0.2.3"), status={"ready": True, "rekeys": True})
    api.good("POST", "/v1/clusters", {"name": "c", "vpc": "c", "gateways": ["c1"]})
    api.good("POST", "/v1/peerings", {"name": "a-c", "clusters": ["a", "c"]})
    assert len(api.good("POST", f"{PATH}/rekey")["plan"]) == 2
    assert (numbers(api, "a1"), numbers(api, "b1"), numbers(api, "c1")) == ({"a-b": 1}, {"a-b": 1}, None)


def test_it_is_refused_to_who_may_not_and_for_another_revision_and_cannot_be_set(api: Api) -> None:
    peered(api)
    seen = api.ask("GET", PATH).headers["ETag"]
    api.good("POST", f"{PATH}/rekey")
    assert api.ask("POST", f"{PATH}/rekey", headers={"If-Match": seen}).status_code == 412
    assert api.ask("POST", f"{PATH}/rekey", token=api.viewer).status_code == 403
    assert api.ask("POST", "/v1/peerings/x/rekey").status_code == 404
    answer = api.ask("PATCH", PATH, {"rekey_number": 5})
    assert (answer.status_code, "rekey_number is the controller's to choose" in answer.text) == (422, True)
    assert numbers(api, "a1") == {"a-b": 1}


def test_gateways_that_would_not_understand_it_are_not_told(api: Api) -> None:
    """A document with a word that it does not know would be refused there, whole."""
    told = api.peered()
    answers = [api.ask("POST", f"{PATH}/rekey")]
    api.beat(told["a1"], status={"ready": True, "rekeys": True})
    api.beat(told["b1"])
    answers.append(api.ask("POST", f"{PATH}/rekey"))
    api.good("PATCH", "/v1/clusters/b", {"gateways": []})
    answers.append(api.ask("POST", f"{PATH}/rekey"))
    assert [(one.status_code, one.json()["detail"]) for one in answers] == [
        (409, "gateway a1 has not reported yet: `fwd rekey a-b` on each host does it"),
        (409, "gateway b1 runs a fwd that does not know of this: `fwd rekey a-b` on each host does it"),
        (409, "peering a-b has no pair: there is nothing to rekey"),
    ]


def test_a_page_has_the_same(api: Api) -> None:
    peered(api)
    admin = Browser(api)
    admin.sign_in(api.admin)
    assert "act=rekey" in admin.get("/peerings/a-b").text
    text = plan(admin, act="rekey", kind="peering", name="a-b")
    assert all(line in text for line in PLAN)
    done = do(admin, act="rekey", kind="peering", name="a-b")
    assert admin.get(f"{done}.json").json()["act"] == "rekey"
    assert numbers(api, "a1") == {"a-b": 1}


@pytest.mark.parametrize(("before", "after"), [(0, 1), (REKEYS_MAX, 0)])
def test_after_the_last_number_comes_the_first(api: Api, before: int, after: int) -> None:
    peered(api)
    data = api.desk.kept.fleet.model_dump(mode="json")
    data["peerings"][0]["rekey_number"] = before
    (found,) = changes.rekey(Fleet.model_validate(data), "a-b").peerings
    assert found.rekey_number == after
