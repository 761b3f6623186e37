"""The API for people and programs: objects, their plans, and who may do what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from apikit import KEYS, Api
from cakit import NOW

from fwd.controller import ca

# -- objects ----------------------------------------------------------------------------------------------------------


def test_what_is_created_is_listed_and_shown_with_its_revision(api: Api) -> None:
    answer = api.ask("POST", "/v1/vpcs", {"name": "a", "cidrs": ["10.1.0.0/16"]})
    shown = api.ask("GET", "/v1/vpcs/a")

    assert answer.status_code == 200
    assert shown.json() == answer.json()["object"]
    assert shown.headers["ETag"] == f'"{shown.json()["revision"]}"' == answer.headers["ETag"]
    assert api.good("GET", "/v1/vpcs")["items"] == [shown.json()]


def test_a_request_has_no_thread_of_its_own(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty gateways that report once a second would have as many."""

    def thread(*_: object) -> None:
        raise AssertionError("a part of it runs in a thread")

    monkeypatch.setattr("anyio.to_thread.run_sync", thread)
    told = api.peered()
    api.beat(told["a1"])
    api.good("GET", "/v1/pairs")


def test_the_references_workflow_in_its_order(api: Api) -> None:
    """Gateways, a cluster of them for each VPC, a peering; a gateway more; all deleted again."""
    api.peered()
    assert [(one["a"], one["b"]) for one in api.good("GET", "/v1/pairs")["items"]] == [("a1", "b1")]

    api.join("a", "a2", "10.1.0.12", "192.0.2.3")
    added = api.good("PATCH", "/v1/clusters/a", {"gateways": ["a1", "a2"]})
    assert "peering a-b: a2 and b1 are joined" in added["plan"]
    assert len(api.good("GET", "/v1/pairs")["items"]) == 2

    for path in ("peerings/a-b", "clusters/a", "clusters/b", "gateways/a1", "gateways/a2", "gateways/b1", "vpcs/a"):
        assert api.good("DELETE", f"/v1/{path}")["object"] is None
    assert [one["name"] for one in api.good("GET", "/v1/vpcs")["items"]] == ["b"]


def test_a_dry_run_shows_the_plan_and_changes_nothing(api: Api) -> None:
    api.peered()
    tried = api.good("DELETE", "/v1/gateways/a1?dry_run=1")

    assert "peering a-b: a1 and b1 are joined no more" in tried["plan"]
    assert (tried["dry_run"], tried["operation"]) == (True, None)
    assert api.ask("GET", "/v1/gateways/a1").status_code == 200


def test_who_has_seen_another_revision_changes_nothing(api: Api) -> None:
    api.peered()
    seen = api.ask("GET", "/v1/gateways/a1").headers["ETag"]
    api.good("PATCH", "/v1/gateways/a1", {"weight": 2}, headers={"If-Match": seen})

    for tag in (seen, '"0"', "nonsense", '"' + "9" * 40 + '"'):
        for method in ("PATCH", "DELETE"):
            body = {"weight": 3} if method == "PATCH" else None
            answer = api.ask(method, "/v1/gateways/a1", body, headers={"If-Match": tag})
            assert answer.status_code == 412
    assert api.good("GET", "/v1/gateways/a1")["weight"] == 2
    api.good("PATCH", "/v1/gateways/a1", {"weight": 3}, headers={"If-Match": "*"})


def test_a_drained_gateway_is_drained_until_it_is_undrained(api: Api) -> None:
    api.peered()
    assert api.good("POST", "/v1/gateways/a1/drain")["object"]["state"] == "draining"
    assert api.good("POST", "/v1/gateways/a1/undrain")["object"]["state"] == "active"
    assert api.ask("POST", "/v1/clusters/a/drain").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "why"),
    [
        ("GET", "gateways/none", None, 404, "there is no gateway none"),
        ("PATCH", "gateways/none", {}, 404, "there is no gateway none"),
        ("DELETE", "peerings/none", None, 404, "there is no peering none"),
        ("POST", "vpcs", {"name": "a", "cidrs": ["10.9.0.0/16"]}, 409, "vpc a is there already"),
        ("DELETE", "vpcs/a", None, 409, "is used by cluster a, gateway a1"),
        ("DELETE", "clusters/a", None, 409, "is used by peering a-b"),
        ("POST", "vpcs", {"name": "A B", "cidrs": ["10.9.0.0/16"]}, 422, "name: expected"),
        ("POST", "vpcs", {"name": "c", "cidrs": ["10.9.0.1/16"]}, 422, "did you mean 10.9.0.0/16"),
        ("POST", "vpcs", {"name": "c", "cidrs": ["0.0.0.0/0"]}, 422, "0.0.0.0/0 is no VPC's own"),
        ("PATCH", "vpcs/a", {"cidrs": ["10.1.0.0/16", "ff00::/8"]}, 422, "multicast addresses"),
        ("POST", "vpcs", {"name": "c"}, 422, "cidrs: missing"),
        ("POST", "vpcs", {"name": "c", "cidrs": ["10.9.0.0/16"], "color": "red"}, 422, "color: unknown key"),
        ("POST", "vpcs", ["c"], 422, "body: expected a JSON object"),
        ("PATCH", "gateways/a1", {"vpc": "b"}, 422, "vpc cannot be changed"),
        ("PATCH", "gateways/a1", {"inner": ["10.2.0.1"]}, 422, "is not in VPC a"),
        ("PATCH", "clusters/a", {"gateways": ["b1"]}, 422, "gateway b1 in b"),
        ("PATCH", "clusters/a", {"gateways": [7]}, 422, "expected a text"),
        ("POST", "peerings", {"name": "x", "clusters": ["a", "b"], "number": 3}, 422, "number is the controller's"),
        ("POST", "peerings", {"name": "x", "clusters": ["a", "b"]}, 422, "both join VPCs"),
        ("GET", "tokens/none", None, 404, "there is no token none"),
        ("DELETE", "tokens/none", None, 404, "there is no token none"),
        ("POST", "tokens", {"vpc": "none"}, 422, "there is no VPC none"),
        ("POST", "tokens", {"role": "join"}, 422, "give a vpc for a host"),
        ("POST", "tokens", {"role": "admin", "vpc": "a"}, 422, "not both"),
        ("POST", "tokens", {"role": "king"}, 422, "role"),
        ("POST", "tokens", {"name": "root", "role": "admin"}, 409, "is there already"),
        ("GET", "operations/none", None, 404, "there is no operation none"),
        ("GET", "events?after=x", None, 422, "after"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(
    api: Api, method: str, path: str, body: object, status: int, why: str
) -> None:
    api.peered()
    before = api.desk.kept
    answer = api.ask(method, f"/v1/{path}", body)

    assert answer.status_code == status, answer.text
    assert why in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert api.desk.kept == before


@pytest.mark.parametrize("body", [b"{", b'"\xff"', b"[" * 100_000, b'{"name": ' + b"9" * 5000 + b"}"])
def test_a_body_that_cannot_be_read_is_the_callers_fault(api: Api, body: bytes) -> None:
    answer = api.ask("POST", "/v1/vpcs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    assert isinstance(answer.json()["detail"], str)


def test_a_body_that_is_too_long_is_not_read_to_its_end(api: Api) -> None:
    answer = api.ask("POST", "/v1/vpcs", content=b" " * (1 << 20) + b"{}", headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


# -- who may ----------------------------------------------------------------------------------------------------------


def test_a_viewer_reads_and_changes_nothing(api: Api) -> None:
    assert api.ask("GET", "/v1/vpcs", token=api.viewer).status_code == 200
    answer = api.ask("POST", "/v1/vpcs", {"name": "a", "cidrs": ["10.1.0.0/16"]}, token=api.viewer)
    assert (answer.status_code, "an admin's is needed" in answer.json()["detail"]) == (403, True)
    assert not api.desk.kept.fleet.vpcs


def test_without_a_token_nothing_is_told(api: Api) -> None:
    for path in ("vpcs", "gateways", "tokens", "pairs", "events", "operations"):
        answer = api.ask("GET", f"/v1/{path}", token="")
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert api.ask("GET", "/metrics", token="").status_code == 401


def test_who_is_refused_too_often_has_to_wait(api: Api) -> None:
    answers = [api.ask("GET", "/v1/vpcs", token="fwdb." + "A" * 43).status_code for _ in range(25)]
    assert answers == [401] * 20 + [429] * 5
    assert api.ask("GET", "/v1/vpcs").status_code == 200, "who has a good token does not wait for others there"
    api.now += 1
    assert api.ask("GET", "/v1/vpcs", token="fwdb." + "A" * 43).status_code == 401


def test_a_tokens_text_is_shown_once_and_a_deleted_one_is_worth_nothing(api: Api) -> None:
    made = api.good("POST", "/v1/tokens", {"name": "robot", "role": "viewer"})
    secret = made["token"].partition(".")[2]

    assert api.ask("GET", "/v1/vpcs", token=made["token"]).status_code == 200
    assert secret not in api.ask("GET", "/v1/tokens").text + api.ask("GET", "/v1/tokens/robot").text
    entries, _ = api.run(api.store.read(""))
    assert not [entry for entry in entries if secret.encode() in entry.value]
    api.good("DELETE", "/v1/tokens/robot")
    assert api.ask("GET", "/v1/vpcs", token=made["token"]).status_code == 401


def test_the_last_admins_token_stays(api: Api) -> None:
    answer = api.ask("DELETE", "/v1/tokens/root")
    assert (answer.status_code, "last admin's" in answer.json()["detail"]) == (409, True)


# -- operations and health --------------------------------------------------------------------------------------------


def test_each_change_is_an_operation_with_who_plan_and_progress(api: Api) -> None:
    told = api.peered()
    last = api.good("GET", "/v1/operations")["items"][0]
    assert (last["who"], last["act"], last["kind"], last["name"]) == ("root", "create", "peering", "a-b")
    assert "peering a-b: a1 and b1 are joined" in last["plan"]
    assert (last["progress"], last["result"]) == ({"hosts": 2, "waiting": ["a1", "b1"]}, "in progress")

    for one in told.values():
        api.beat(one)
    shown = api.good("GET", f"/v1/operations/{last['id']}")
    assert (shown["progress"]["waiting"], shown["result"]) == ([], "done")


def test_a_change_that_changes_nothing_is_no_operation(api: Api) -> None:
    api.peered()
    newest = api.desk.newest
    assert api.good("PATCH", "/v1/gateways/a1", {"weight": 1})["operation"] is None
    assert api.desk.newest == newest


def test_a_controller_that_does_not_lead_answers_that_it_could_not_check(api: Api) -> None:
    api.peered()
    api.desk.step_down()
    for method, path, body in (
        ("POST", "/v1/vpcs", {"name": "c", "cidrs": ["10.3.0.0/16"]}),
        ("GET", "/healthz", None),
    ):
        answer = api.ask(method, path, body)
        assert (answer.status_code, answer.json()["detail"][:15]) == (503, "could not check")
    assert api.ask("GET", "/v1/vpcs").status_code == 200


def test_another_one_who_leads_is_noticed_at_the_next_write(api: Api) -> None:
    api.run(api.store.lead("another"))
    assert api.ask("POST", "/v1/vpcs", {"name": "c", "cidrs": ["10.3.0.0/16"]}).status_code == 503
    assert api.desk.term is None


def test_it_tells_its_cas_and_who_has_yet_to_hear_of_them(api: Api) -> None:
    told = api.peered()
    mine = ca.pin(KEYS.authority.certificate)
    assert api.good("GET", "/v1/authorities") == {"trusted": [mine], "waiting": ["a1", "b1"], "old": []}
    api.beat(told["a1"])
    assert api.good("GET", "/v1/authorities")["waiting"] == ["b1"]

    api.desk.keys = replace(KEYS, other=KEYS.authority, authority=ca.new_authority("next", NOW))
    found = api.good("GET", "/v1/authorities")
    assert (found["trusted"][1], found["old"]) == (mine, ["a1", "b1"])


def test_health_is_that_of_the_writer(api: Api) -> None:
    assert api.ask("GET", "/healthz", token="").status_code == 200
    api.now += 2
    api.run(api.store.close())
    assert api.ask("GET", "/healthz", token="").status_code == 503
    api.store = type(api.store)()


def test_metrics_tell_what_became_of_the_webhooks_events(api: Api) -> None:
    from fwd.controller.webhook import Receiver, Webhook

    assert "webhook" not in api.ask("GET", "/metrics").text
    hook = Webhook(Receiver("http://127.0.0.1:1", b""), dict)
    hook.counts.update(delivered=3, failed=2, lost=1)
    api.control.webhook = hook
    text = api.ask("GET", "/metrics").text
    for line in ("delivered_total 3.0", "failed_total 2.0", "lost_total 1.0", "waiting 0.0"):
        assert f"fwd_controller_webhook_{line}" in text


def test_metrics_tell_hosts_and_pairs_by_their_state(api: Api) -> None:
    told = api.peered()
    peering = {"name": "a-b", "ready": True, "members": 2, "rtt_ms": 0.4, "loss": 0.0}
    for one in told.values():
        api.beat(one, status={"ready": True, "peerings": [peering]})
    api.control.turn()
    text = api.ask("GET", "/metrics", token=api.viewer).text

    assert 'fwd_controller_hosts{health="up",kind="gateway"} 2.0' in text
    assert 'fwd_controller_pairs{peering="a-b",state="up"} 1.0' in text
    assert "fwd_controller_leading 1.0" in text


def test_the_openapi_names_every_route_and_each_kinds_fields(api: Api) -> None:
    found = api.ask("GET", "/v1/openapi.json").json()
    gateway = found["paths"]["/v1/gateways"]["post"]["requestBody"]["content"]["application/json"]["schema"]

    assert {"/v1/vpcs", "/v1/peerings/{name}", "/v1/join", "/v1/desired", "/v1/operations/{id}"} <= found[
        "paths"
    ].keys()
    assert gateway["properties"].keys() == {"name", "vpc", "outer", "inner", "members", "weight", "state"}
    assert gateway["required"] == ["name", "vpc", "outer", "inner"]
