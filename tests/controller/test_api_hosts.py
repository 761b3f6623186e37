"""The API for hosts: join, renew, heartbeat, desired state; each sees what is its own."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from apikit import KEYS, Api, key_of
from cakit import DAY_S, MONTH_S, NOW, new_key, request
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.controller import ca, records
from fwd.controller.api.hosts import _documents
from fwd.controller.happened import EVENTS_EACH_MAX, EVENTS_MAX
from fwd.controller.roles import DeniedError, Host
from fwd.controller.sights import TABLES_MAX
from fwd.controller.store import StoreError
from fwd.controller.watch import Beat
from fwd.link.document import Document, verify


def certificate(pem: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem.encode())


# -- join -------------------------------------------------------------------------------------------------------------


def test_a_host_that_joins_gets_two_certificates_the_cas_and_the_key_of_documents(api: Api) -> None:
    api.make_vpc("a", "10.1")
    told = api.join("a", "a1", "10.1.0.11", "192.0.2.1")

    for pem in (told["link_certificate"], told["ike_certificate"]):
        certificate(pem).verify_directly_issued_by(KEYS.authority.certificate)
    assert told["identity"] == "a1.gateway.fwd"
    assert (told["kind"], told["name"], told["cluster_id"]) == ("gateway", "a1", api.desk.cluster_id)
    assert x509.load_pem_x509_certificates(told["ca_bundle"].encode()) == [KEYS.authority.certificate]
    raw = base64.b64decode(told["document_key"])
    assert Ed25519PublicKey.from_public_bytes(raw) == KEYS.document.public_key()


def test_a_gateway_that_joined_is_there_and_carries_nothing_yet(api: Api) -> None:
    api.make_vpc("a", "10.1")
    api.join("a", "a1", "10.1.0.11", "192.0.2.1")
    shown = api.good("GET", "/v1/gateways/a1")

    assert (shown["vpc"], shown["inner"], shown["outer"], shown["weight"]) == ("a", ["10.1.0.11"], "192.0.2.1", 1.0)
    assert shown["health"]["state"] == "joining"
    assert api.good("GET", "/v1/pairs")["items"] == []


def test_a_gateways_token_makes_no_router_and_a_routers_no_gateway(api: Api) -> None:
    """A router's word counts for all gateways of its VPC."""
    api.make_vpc("a", "10.1")
    for meant, kind in (("gateway", "router"), ("router", "gateway")):
        body = api.join_body("a", "h1", "10.1.0.2", "192.0.2.9", kind=meant) | {"kind": kind}
        if kind == "router":
            body["ike_csr"] = None
        answer = api.ask("POST", "/v1/join", body, token="")
        assert (answer.status_code, f"with kind={kind}" in answer.text) == (401, True), answer.text


def test_a_router_joins_with_its_link_alone(api: Api) -> None:
    api.make_vpc("a", "10.1")
    told = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    assert told["ike_certificate"] is None
    assert api.good("GET", "/v1/routers/ra")["inner"] == ["10.1.0.2"]


def test_a_token_serves_one_host_and_answers_it_again(api: Api) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")
    first, again = (api.ask("POST", "/v1/join", body, token="") for _ in range(2))
    other = api.ask("POST", "/v1/join", {**body, "name": "a2", "link_csr": request(new_key())}, token="")

    assert (first.status_code, again.status_code) == (201, 201)
    assert (other.status_code, "was used by a1" in other.json()["detail"]) == (401, True)


def test_a_token_of_a_deleted_host_brings_it_not_back(api: Api) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")
    api.ask("POST", "/v1/join", body, token="")
    api.good("DELETE", "/v1/gateways/a1")
    answer = api.ask("POST", "/v1/join", body, token="")

    assert (answer.status_code, "was deleted" in answer.json()["detail"]) == (401, True)
    assert api.good("GET", "/v1/gateways")["items"] == []


def test_a_gateway_that_an_operator_made_joins_as_it_was_made(api: Api) -> None:
    api.make_vpc("a", "10.1")
    made = {"name": "a1", "vpc": "a", "inner": ["10.1.0.11"], "outer": "192.0.2.1", "weight": 3}
    api.good("POST", "/v1/gateways", made)
    api.join("a", "a1", "10.1.0.99", "192.0.2.99")

    shown = api.good("GET", "/v1/gateways/a1")
    assert (shown["inner"], shown["weight"]) == (["10.1.0.11"], 3)


@pytest.mark.parametrize(
    ("fields", "status", "why"),
    [
        ({"token": "A" * 43}, 401, "not known here"),
        ({"token": ""}, 401, "not known here"),
        ({"name": "a1"}, 409, "there is a gateway a1 that has joined"),
        ({"name": "r1"}, 409, "r1 is a router here"),
        ({"kind": "host"}, 422, "kind"),
        ({"name": "../a"}, 422, "name"),
        ({"link_csr": "no request"}, 422, "no request for a certificate"),
        ({"ike_csr": None}, 422, "needs an ike_csr"),
        ({"kind": "router"}, 422, "has no ike_csr"),
        ({"inner": ["10.2.0.1"]}, 422, "is not in VPC a"),
        ({"inner": ["10.1.0.11"]}, 422, "the same inner address"),
        ({"inner": ["x"]}, 422, "inner"),
        ({"inner": []}, 422, "inner"),
        ({"outer": []}, 422, "outer address is needed"),
        ({"outer": ["192.0.2.1"]}, 422, "the same outer address"),
        ({"members": 0}, 422, "members"),
    ],
)  # fmt: skip
def test_who_cannot_join_is_told_why_and_changes_nothing(
    api: Api, fields: dict[str, Any], status: int, why: str
) -> None:
    api.make_vpc("a", "10.1")
    api.join("a", "a1", "10.1.0.11", "192.0.2.1")
    api.good("POST", "/v1/routers", {"name": "r1", "vpc": "a", "inner": ["10.1.0.2"]})
    body = api.join_body("a", "a2", "10.1.0.12", "192.0.2.2") | fields
    before = api.desk.kept
    answer = api.ask("POST", "/v1/join", body, token="")

    assert answer.status_code == status, answer.text
    assert why in answer.json()["detail"]
    assert api.desk.kept == before
    assert not [one for one in api.desk.records.tokens.values() if one.used_key and one.used_by != "a1"]


def test_a_token_that_could_not_be_looked_up_is_not_denied(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")

    async def fails(*_: object) -> int:
        raise StoreError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(api.store, "write", fails)
        answer = api.ask("POST", "/v1/join", body, token="")
    assert (answer.status_code, answer.json()["detail"]) == (503, "could not check: disk full")
    assert api.ask("POST", "/v1/join", body, token="").status_code == 201


# -- certificates -----------------------------------------------------------------------------------------------------


def renewing(told: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What a host asks for that renews what it was told: for its own keys."""
    link, ike = (request(key_of(told[name])) for name in ("link_certificate", "ike_certificate"))
    return {"link_csr": link, "ike_csr": ike} | fields


def test_a_renewed_certificate_holds_from_now_on_and_so_does_the_one_before(api: Api) -> None:
    told = api.peered()["a1"]
    api.now += MONTH_S / 2
    answer = api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told))
    fresh = answer.json()

    assert answer.status_code == 200
    assert certificate(fresh["link_certificate"]).not_valid_after_utc.timestamp() == api.now + MONTH_S
    for one in (told, fresh):
        assert api.beat(one).status_code == 200


def test_a_router_renews_its_link_alone(api: Api) -> None:
    api.make_vpc("a", "10.1")
    told = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    link, csr = told["link_certificate"], request(key_of(told["link_certificate"]))
    body = {"link_csr": csr, "ike_csr": None}
    assert api.as_host(link, "POST", "/v1/renew", body).status_code == 200
    assert api.as_host(link, "POST", "/v1/renew", body | {"ike_csr": csr}).status_code == 422


def test_a_certificate_renews_within_its_grace_and_not_after_it(api: Api) -> None:
    told = api.peered()["a1"]
    api.now = NOW + MONTH_S + 7 * DAY_S - 1
    assert api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told)).status_code == 200
    api.now += 2
    answer = api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told))
    assert (answer.status_code, "grace" in answer.json()["detail"]) == (403, True)


def test_a_deleted_gateway_is_refused_and_both_its_certificates_are_in_the_crl(api: Api) -> None:
    told = api.peered()["a1"]
    other = api.join("a", "a2", "10.1.0.12", "192.0.2.3")
    api.good("DELETE", "/v1/gateways/a1")
    assert api.good("GET", "/v1/operations")["items"][0]["progress"]["waiting"] == ["a2", "b1"]

    answer = api.beat(told)
    assert (answer.status_code, "revoked" in answer.json()["detail"]) == (403, True)
    assert api.beat(other).status_code == 200
    assert read(api, api.desk.document("a2"), "a2").content["crl"] == api.desk.crl.decode()
    crl = x509.load_pem_x509_crl(api.ask("GET", "/v1/crl", token="").content)
    wanted = {certificate(told[name]).serial_number for name in ("link_certificate", "ike_certificate")}
    assert {one.serial_number for one in crl} == wanted


def test_one_who_joins_under_a_deleted_ones_name_is_another(api: Api) -> None:
    before = api.peered()["a1"]
    api.good("DELETE", "/v1/gateways/a1")
    after = api.join("a", "a1", "10.1.0.11", "192.0.2.1")

    assert api.beat(before).status_code == 403
    assert api.beat(after).status_code == 200


def test_the_crl_is_made_anew_each_day_and_is_a_generation_of_its_own(api: Api) -> None:
    api.peered()
    before, lists = api.desk.newest, api.desk.crl
    api.now += DAY_S - 1
    api.run(api.desk.refresh())
    assert (api.desk.newest, api.desk.crl) == (before, lists)
    api.now += 2
    api.run(api.desk.refresh())
    assert api.desk.newest > before
    assert read(api, api.desk.document("a1"), "a1").content["crl"] == api.desk.crl.decode() != lists.decode()


def test_a_gateway_is_told_of_both_cas_while_one_replaces_the_other(api: Api) -> None:
    api.peered()
    document = read(api, api.desk.document("a1"), "a1")
    assert x509.load_pem_x509_certificates(document.content["ca_bundle"].encode()) == KEYS.trusted()


def test_what_is_over_is_forgotten(api: Api) -> None:
    told = api.peered()["a1"]
    api.good("DELETE", "/v1/gateways/a1")
    api.now = NOW + MONTH_S + 8 * DAY_S
    api.good("PATCH", "/v1/gateways/b1", {"weight": 2})
    assert certificate(told["link_certificate"]).serial_number not in api.desk.records.certificates


def serials(told: dict[str, Any]) -> tuple[int, int]:
    link, ike = (certificate(told[name]).serial_number for name in ("link_certificate", "ike_certificate"))
    return link, ike


def test_who_asks_again_and_again_is_given_few_certificates(api: Api) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")
    told = [api.ask("POST", "/v1/join", body, token="").json() for _ in range(50)]
    link = told[0]["link_certificate"]
    told += [api.as_host(link, "POST", "/v1/renew", renewing(told[0])).json() for _ in range(50)]

    assert len({serials(one) for one in told}) == 8
    assert len(api.desk.records.certificates) == 2 * 8


def test_whoever_renews_for_long_has_few_certificates_and_all_that_hold_are_revoked() -> None:
    api = Api(lifetime_s=60)
    try:
        told = api.peered()["a1"]
        for _ in range(70):
            api.now += 30
            told = api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told)).json()
        holding = api.desk.records.of_host("gateway", "a1")
        api.good("DELETE", "/v1/gateways/a1")
        crl = x509.load_pem_x509_crl(api.desk.crl)

        assert len(holding) == 2 * records.CERTIFICATES_MAX
        assert {one.serial_number for one in crl} == {one.serial for one in holding} >= set(serials(told))
    finally:
        api.close()


@pytest.mark.parametrize("use", ["link_csr", "ike_csr"])
def test_a_link_renews_for_the_keys_alone_that_it_has_joined_with(api: Api, use: str) -> None:
    told = api.peered()["a1"]
    answer = api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told, **{use: request(new_key())}))

    assert (answer.status_code, "another key" in answer.json()["detail"]) == (403, True)


def test_one_key_is_not_good_for_the_other_use(api: Api) -> None:
    told = api.peered()["a1"]
    good = renewing(told)
    swapped = {"link_csr": good["ike_csr"], "ike_csr": good["link_csr"]}

    assert api.as_host(told["link_certificate"], "POST", "/v1/renew", swapped).status_code == 403


@pytest.mark.parametrize("use", ["link_csr", "ike_csr"])
def test_a_token_is_used_up_by_both_keys(api: Api, use: str) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")
    api.ask("POST", "/v1/join", body, token="")

    assert api.ask("POST", "/v1/join", body | {use: request(new_key())}, token="").status_code == 401


def test_a_host_that_is_deleted_while_it_renews_gets_nothing(api: Api) -> None:
    told = api.peered()["a1"]
    body, link = renewing(told), Host("gateway", "a1", serials(told)[0], 0.0)
    api.now += MONTH_S / 2
    api.good("DELETE", "/v1/gateways/a1")

    with pytest.raises(DeniedError, match="was deleted"):
        api.run(api.desk.renew_certificates(link, body["link_csr"], body["ike_csr"], api.now))
    assert api.desk.records.of_host("gateway", "a1") == []


def test_each_ca_lists_its_own_certificates(api: Api) -> None:
    told = api.peered()["a1"]
    both = replace(KEYS, other=KEYS.authority, authority=ca.new_authority("next", NOW))
    api.desk.keys = both
    api.now += MONTH_S / 2
    fresh = api.as_host(told["link_certificate"], "POST", "/v1/renew", renewing(told)).json()
    api.good("DELETE", "/v1/gateways/a1")

    end = b"-----END X509 CRL-----"
    lists = [x509.load_pem_x509_crl(one + end) for one in api.desk.crl.split(end)[:-1]]
    assert [{one.serial_number for one in crl} for crl in lists] == [set(serials(fresh)), set(serials(told))]


def test_more_is_not_revoked_at_once_than_hosts_take(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwd.controller.desk.REVOKED_MAX", 3)
    api.peered()
    assert api.ask("DELETE", "/v1/gateways/a1").status_code == 200
    assert api.ask("DELETE", "/v1/gateways/b1").status_code == 409


def test_very_many_that_are_over_are_forgotten_bit_by_bit(api: Api) -> None:
    api.make_vpc("a", "10.1")
    for n in range(40):
        api.join("a", f"a{n}", f"10.1.0.{n + 11}", f"192.0.2.{n + 1}")
    api.now += MONTH_S + 8 * DAY_S
    for left in (16, 0):
        api.good("PATCH", "/v1/gateways/a0", {"weight": 2 + left})
        assert len(api.desk.records.certificates) == left


def test_a_join_that_changes_no_document_leaves_the_lists_as_they_are(api: Api) -> None:
    api.peered()
    api.good("POST", "/v1/gateways", {"name": "a2", "vpc": "a", "inner": ["10.1.0.12"], "outer": "192.0.2.7"})
    before = api.desk.newest, api.desk.crl
    api.now += 60
    api.join("a", "a2", "10.1.0.12", "192.0.2.7")

    assert (api.desk.newest, api.desk.crl) == before


def test_what_was_written_though_it_seemed_to_fail_is_known_a_turn_later(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = api.peered()["a1"]

    async def fails(prefix: str) -> Any:
        raise StoreError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(api.store, "read", fails)
        assert api.ask("DELETE", "/v1/gateways/a1").status_code == 503
    before = api.desk.newest
    assert api.run(api.desk.renew())

    assert api.desk.newest > before
    assert api.beat(told).status_code == 403
    assert api.good("GET", "/v1/operations")["items"][0]["act"] == "delete"


# -- heartbeats -------------------------------------------------------------------------------------------------------


def test_a_heartbeat_tells_the_time_and_the_newest_document(api: Api) -> None:
    told = api.peered()["a1"]
    answer = api.beat(told)
    assert answer.status_code == 200
    assert (answer.json()["time"], tuple(answer.json()["newest"])) == (api.now, api.desk.newest)


def test_a_gateway_is_up_by_its_own_word_and_what_its_partner_sees(api: Api) -> None:
    told = api.peered()
    peering = {"name": "a-b", "ready": True, "members": 2, "rtt_ms": 0.4, "loss": 0.0}
    for one in told.values():
        api.beat(one, status={"ready": True, "peerings": [peering]})
    api.control.turn()

    assert api.good("GET", "/v1/gateways/a1")["health"]["state"] == "up"
    assert api.good("GET", "/v1/peerings/a-b")["state"] == "up"
    (pair,) = api.good("GET", "/v1/pairs")["items"]
    assert (pair["state"], pair["rtt_ms"], pair["loss"]) == ("up", 0.4, 0.0)


@pytest.mark.parametrize("changed", [True, False])
def test_a_heartbeat_that_says_what_others_go_by_has_hosts_judged_at_once(api: Api, changed: bool) -> None:
    told, number = api.peered(), api.control.hurry.number
    api.beat(told["a1"], changed=changed)
    assert (api.control.hurry.number > number) is changed


def test_silence_alone_takes_nobody_down_and_a_partner_that_misses_it_does(api: Api) -> None:
    told = api.peered()
    for up, state in ((True, "unreachable"), (False, "down")):
        api.beat(told["a1"])
        api.now += 4
        api.beat(told["b1"], status={"ready": up, "peerings": [{"name": "a-b", "ready": up}]})
        api.control.turn()
        assert api.good("GET", "/v1/gateways/a1")["health"]["state"] == state
    whats = [one["what"] for one in api.good("GET", "/v1/events")["items"]]
    assert {"host.unreachable", "host.down"} <= set(whats)


def test_a_router_tells_which_gateways_it_reaches(api: Api) -> None:
    told = api.peered()
    router = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told["a1"])
    api.beat(router, status={"ready": True, "gateways": [{"name": "a1", "up": False}]})
    api.control.turn()
    health = api.good("GET", "/v1/gateways/a1")["health"]
    assert (health["state"], "no router reaches it (ra)" in health["reason"]) == ("down", True)


def test_a_gateway_that_is_down_takes_its_pairs_along_though_its_partner_does_not_notice(api: Api) -> None:
    """Nothing was sent to one that froze for the second time, so its line was green for 45 s while its node was red."""
    told = api.peered()
    router = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    for up, state in ((False, "down"), (True, "up")):
        api.beat(told["a1"])
        api.beat(told["b1"], status={"ready": True, "peerings": [{"name": "a-b", "ready": True}]})
        api.beat(router, status={"ready": True, "gateways": [{"name": "a1", "up": up}]})
        api.control.turn()
        assert [one["state"] for one in api.good("GET", "/v1/pairs")["items"]] == [state]
        assert api.good("GET", "/v1/peerings/a-b")["state"] == state


def test_only_a_router_of_its_vpc_is_believed_of_a_gateway(api: Api) -> None:
    told = api.peered()
    stranger = api.join("b", "rb", "10.2.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told["a1"])
    for one in (told["b1"], stranger):
        api.beat(one, status={"ready": True, "gateways": [{"name": "a1", "up": False}]})
    api.control.turn()
    assert api.good("GET", "/v1/gateways/a1")["health"]["state"] == "up"


def test_of_many_tables_few_are_looked_at_and_a_long_status_is_refused(api: Api) -> None:
    api.peered()
    router = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    tables = [{"name": "x", "up": False}] * 64 + [{"name": "a1", "up": False}]
    assert api.beat(router, status={"ready": True, "gateways": tables}).status_code == 200
    api.control.turn()
    assert api.good("GET", "/v1/gateways/a1")["health"]["state"] == "joining"
    assert api.beat(router, status={"gateways": tables * 100}).status_code == 413


def test_a_host_that_says_another_thing_each_second_is_an_event_a_minute(api: Api) -> None:
    told = api.peered()["a1"]
    for _ in range(100):
        api.now += 1
        api.beat(told, refused=f"for the reason {api.now}")
    found = [one for one in api.good("GET", "/v1/events")["items"] if one["what"] == "host.refuses"]
    assert [round(one["at"] - NOW) for one in found] == [1, 61]


def test_a_controller_that_began_just_now_judges_nobody_by_silence(api: Api) -> None:
    api.peered()
    api.control.begin()
    api.control.turn()
    shown = api.good("GET", "/v1/gateways/a1")["health"]
    assert (shown["state"], shown["reason"]) == ("unknown", "it is listened to for the first seconds")


@pytest.mark.parametrize("time", [1e308, -1e308])
def test_whatever_a_host_says_that_its_clock_is_is_told_in_few_words(api: Api, time: float) -> None:
    """It was a number of 308 digits, on pages, in events and to the webhook."""
    assert api.beat(api.peered()["a1"], time=time).status_code == 200
    (event,) = [one for one in api.good("GET", "/v1/events")["items"] if one["what"] == "host.clock"]
    assert len(event["text"]) < 50
    assert "0" * 30 not in api.ask("GET", "/gateways/a1").text


def test_who_leads_no_more_says_of_no_host_how_it_was(api: Api) -> None:
    """It said up, by a heartbeat of 0.0 s ago, hours later."""
    api.beat(api.peered()["a1"])
    api.control.turn()
    assert api.good("GET", "/v1/gateways/a1")["health"]["state"] == "up"

    api.desk.step_down()
    api.now += 3600
    one = api.good("GET", "/v1/gateways/a1")
    assert (one["health"]["state"], one["health"]["evidence"], one["version"]) == ("unknown", [], None)
    assert "does not lead" in one["health"]["reason"]
    for path in ("/", "/gateways/a1"):
        text = api.ask("GET", path).text
        assert "gateway a1, up" not in text
        assert "unknown" in text


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"held": {"order": [9, 1], "why": "it leaves 0 of 2"}}, "host.holds"),
        ({"refused": "a path in it"}, "host.refuses"),
        ({"seen": [9, 9]}, "host.ahead"),
        ({"time": NOW - 600}, "host.clock"),
    ],
)
def test_what_is_wrong_at_a_host_is_an_event_once(api: Api, fields: dict[str, Any], what: str) -> None:
    told = api.peered()["a1"]
    for _ in range(3):
        assert api.beat(told, **fields).status_code == 200
    found = [one for one in api.good("GET", "/v1/events")["items"] if one["what"] == what]
    assert [one["host"] for one in found] == ["a1"]


@pytest.mark.parametrize(
    "fields",
    [
        {"applied": [1]},
        {"applied": [-1, 0]},
        {"seen": [2**63, 0]},
        {"status": 7},
        {"time": "now"},
        {"held": {"order": 1}},
    ],
)
def test_a_heartbeat_of_another_form_is_refused(api: Api, fields: dict[str, Any]) -> None:
    assert api.beat(api.peered()["a1"], **fields).status_code == 422


@pytest.mark.parametrize(
    "status",
    [
        {"peerings": 7, "gateways": [7], "reasons": {"a": [1]}, "ready": "yes"},
        {"peerings": [{"name": "a-b", "ready": True, "rtt_ms": 1e400, "loss": "much", "far": 3}]},
        {
            "peerings": [{"name": "a-b", "ready": True, "rtt_ms": 10**400, "loss": 10**400}],
            "gateways": [{"name": "a1", "up": True, "loss": 10**400, "rtt_ms": -(10**400)}],
        },
        {"ready": False, "reasons": [{"text": "\ud800"}, None, 7], "draining": {}},
        {"ready": False, "reasons": {"\x1b[2J": "\x9b2J \u202e"}},
        {"gateways": [{"name": "a1", "up": True, "use": "down", "why": "\ud800 \x1b[2J"}]},
        {"gateways": [{"name": ["\ud800"], "up": True, "use": "down", "why": {"\x1b": ["\ud800"]}}]},
    ],
)
@pytest.mark.parametrize("who", ["a1", "ra"])
def test_a_status_of_any_content_harms_nobody_who_reads_it(api: Api, who: str, status: dict[str, Any]) -> None:
    told = api.peered()
    told["ra"] = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told["a1"])
    newest = list(api.desk.newest)
    body = {
        "applied": newest, "seen": newest, "status": status, "time": api.now, "version": "0.1\x1b[2J",
        "refused": "\x1b]0;hello\x07",
    }  # fmt: skip
    api.peer = certificate(told[who]["link_certificate"]).public_bytes(Encoding.DER)
    headers = {"Content-Type": "application/json"}
    answer = api.ask("POST", "/v1/heartbeat", token="", content=json.dumps(body), headers=headers)
    assert answer.status_code == 200, answer.text
    api.control.turn()
    for path in ("gateways", "gateways/a1", "routers", "pairs", "peerings", "events", "operations"):
        answer = api.ask("GET", f"/v1/{path}")
        assert answer.status_code == 200
        assert all(text.isprintable() for text in texts_in(answer.json()))


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from texts_in(one)
    elif isinstance(value, str):
        yield value


def health_of(api: Api, name: str) -> str:
    state = api.good("GET", f"/v1/gateways/{name}")["health"]["state"]
    assert isinstance(state, str)
    return state


@pytest.mark.parametrize("who", ["b1", "rb"])
def test_what_a_host_says_of_those_that_it_does_not_send_to_changes_nothing(api: Api, who: str) -> None:
    told = api.peered()
    told["rb"] = api.join("b", "rb", "10.2.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told["a1"])
    api.beat(told[who], status={"ready": True, "gateways": [{"name": "a1", "up": False}]})
    api.control.turn()

    assert health_of(api, "a1") == "up"


def test_of_very_much_that_a_host_says_a_little_is_looked_at(api: Api) -> None:
    told = api.peered()
    router = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    api.beat(told["a1"])
    api.beat(router, status={"gateways": [{"name": "a1", "up": True}] * 1000})
    api.control.turn()
    assert len(api.good("GET", "/v1/gateways/a1")["health"]["evidence"]) == 1 + TABLES_MAX

    answer = api.beat(router, status={"gateways": [{"name": "a1", "up": True}] * 10000})
    assert answer.status_code == 413


def test_a_pair_of_one_with_several_partners_is_as_the_link_says_of_each(api: Api) -> None:
    told = api.peered()
    told["b2"] = api.join("b", "b2", "10.2.0.12", "192.0.2.12")
    api.good("PATCH", "/v1/clusters/b", {"gateways": ["b1", "b2"]})
    far = [{"identity": "b1.gateway.fwd", "up": True, "loss": 0.0}, {"address": "192.0.2.12", "up": False}]
    api.beat(told["a1"], status={"ready": True, "peerings": [{"name": "a-b", "ready": True, "far": far}]})
    api.control.turn()

    states = {one["b"]: one["state"] for one in api.good("GET", "/v1/pairs")["items"]}
    assert states == {"b1": "up", "b2": "down"}


def test_events_of_one_host_take_no_room_of_anothers(api: Api) -> None:
    told = api.peered()
    api.beat(told["b1"], seen=[9, 9])
    for n in range(300):
        api.now += 61
        api.beat(told["a1"], refused=f"reason {n}")
    whats = [(one["host"], one["what"]) for one in api.good("GET", "/v1/events")["items"]]
    assert ("b1", "host.ahead") in whats
    assert len([host for host, _ in whats if host == "a1"]) <= EVENTS_EACH_MAX


def test_a_router_that_lies_of_many_gateways_takes_no_room_of_anothers_events(api: Api) -> None:
    told = api.peered()
    told["ra"] = api.join("a", "ra", "10.1.0.2", "192.0.2.9", kind="router", ike_csr=None)
    near = [f"a{n}" for n in range(2, 32)]
    for n, name in enumerate(near):
        told[name] = api.join("a", name, f"10.1.1.{n}", f"192.0.2.{n + 20}")
    api.beat(told["b1"], seen=[9, 9])
    newest = api.desk.newest
    for n in range(60):
        api.now += 10
        for name in (*near, "ra"):
            gateways = [{"name": one, "up": bool(n % 2)} for one in near] if name == "ra" else []
            beat = Beat(api.now, newest, newest, status={"ready": True, "gateways": gateways})
            api.control.watch.hear(name, beat, newest, api.now)
        api.control.turn()
    items = api.good("GET", "/v1/events")["items"]
    assert len(items) == EVENTS_MAX
    assert "host.ahead" in [one["what"] for one in items if one["host"] == "b1"]


def test_a_host_that_is_up_and_down_each_second_is_told_of_seldom_and_its_last_state_in_the_end(api: Api) -> None:
    told = api.peered()
    for n in range(100):
        api.now += 1
        api.beat(told["a1"], status={"ready": bool(n % 2)})
        api.control.turn()
    for _ in range(40):
        api.now += 1
        api.beat(told["a1"], status={"ready": False})
        api.control.turn()
    found = [one["what"] for one in api.good("GET", "/v1/events")["items"] if one["host"] == "a1"]
    assert 20 < len(found) < 30
    assert found[-1] == "host.degraded"


def test_what_is_wrong_in_ever_other_words_is_an_event_a_minute(api: Api) -> None:
    told = api.peered()["a1"]
    for n in range(59):
        api.now += 1
        api.beat(told, refused=f"reason {n}", time=api.now - 100 - 7 * n)
    found = [one["what"] for one in api.good("GET", "/v1/events")["items"]]
    assert sorted(found) == ["host.clock", "host.refuses"]


def test_a_host_that_the_store_does_not_have_is_an_event_and_is_not_called_deleted(api: Api) -> None:
    told = api.peered()["a1"]
    other = Api()
    try:
        answer = other.beat(told)
        assert (answer.status_code, "in this controller's store" in answer.json()["detail"]) == (403, True)
        assert [one["what"] for one in other.good("GET", "/v1/events")["items"]] == ["host.unknown"]
    finally:
        other.close()


def test_without_a_certificate_no_host_is_heard(api: Api) -> None:
    api.peered()
    for method, path in (("POST", "renew"), ("POST", "heartbeat"), ("GET", "desired")):
        assert api.as_host(None, method, f"/v1/{path}", {}).status_code == 401


# -- desired state ----------------------------------------------------------------------------------------------------


def read(api: Api, line: bytes, host: str) -> Document:
    return verify(line, KEYS.document.public_key(), host)


def test_a_host_gets_its_own_document_and_each_newer_one(api: Api) -> None:
    api.peered()

    async def stream() -> list[bytes]:
        documents = _documents(api.control, Host("gateway", "a1", 0, 0.0), (0, 0))
        first = await anext(documents)
        following = asyncio.ensure_future(anext(documents))
        headers = {"Authorization": f"Bearer {api.admin}"}
        await api.http.post("/v1/gateways/a1/drain", headers=headers)
        return [first, await following]

    first, second = (read(api, line, "a1") for line in api.run(stream()))
    assert [one["name"] for one in first.content["peering"]] == ["a-b"]
    assert (first.content["draining"], second.content["draining"]) == (False, True)
    assert second.order > first.order
    assert second.order == api.desk.newest


def test_who_has_the_newest_one_gets_an_empty_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fwd.controller.api.hosts.EMPTY_LINE_S", 0.01)
    api.peered()
    documents = _documents(api.control, Host("gateway", "a1", 0, 0.0), api.desk.newest)
    assert api.run(anext(documents)) == b"\n"  # type: ignore[arg-type]


@pytest.mark.parametrize("end", ["deleted", "no leader", "stopping"])
def test_the_stream_ends_with_the_hosts_right_to_it(api: Api, end: str) -> None:
    api.peered()

    async def stream() -> list[bytes]:
        documents = _documents(api.control, Host("gateway", "a1", 0, 0.0), (0, 0))
        got = [await anext(documents)]
        if end == "deleted":
            await api.http.delete("/v1/gateways/a1", headers={"Authorization": f"Bearer {api.admin}"})
        elif end == "no leader":
            api.desk.step_down()
        else:
            api.control.stopping = True
        return got + [one async for one in documents]

    assert len(api.run(stream())) == 1


def test_a_peering_that_is_deleted_is_named_in_the_document(api: Api) -> None:
    api.peered()
    api.good("DELETE", "/v1/peerings/a-b")
    document = read(api, api.desk.document("a1"), "a1")
    assert (document.content["peering"], document.removed) == ([], (("a-b", document.generation),))


# -- an older store ---------------------------------------------------------------------------------------------------


def test_recovery_begins_above_all_that_hosts_have_seen(api: Api) -> None:
    told = api.peered()["a1"]
    before = api.desk.cluster_id
    api.beat(told, seen=[41, 7])
    api.good("POST", "/v1/recover")

    assert api.desk.newest > (41, 7)
    assert api.desk.cluster_id != before
    assert read(api, api.desk.document("a1"), "a1").order == api.desk.newest
    assert api.beat(told).status_code == 200


def test_recovery_is_not_disturbed_by_the_controllers_own_turns(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """They lead if nobody does, and it leads anew: the second one would end the first one's term."""
    api.peered()
    resign = api.store.resign

    async def slowly() -> None:
        await resign()
        await asyncio.sleep(0.05)

    async def beside() -> httpx.Response:
        asked = asyncio.create_task(api.http.post("/v1/recover", headers={"Authorization": f"Bearer {api.admin}"}))
        while api.desk.term is not None:
            await asyncio.sleep(0)
        assert await api.desk.lead("turn")
        return await asked

    monkeypatch.setattr(api.store, "resign", slowly)
    answer = api.run(beside())
    assert answer.status_code == 200, answer.text
    assert api.run(api.store.leader()) == "test"
    api.good("POST", "/v1/vpcs", {"name": "after", "cidrs": ["10.77.0.0/16"]})


def test_a_recovery_whose_answer_was_lost_is_made_again_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The controller went on under the term before, and whoever asked for anything next was refused, too."""
    api.beat(api.peered()["a1"])
    begin = api.store.begin_epoch

    async def lost(term: int, above: int) -> None:
        await begin(term, above)
        raise StoreError("no answer")

    with monkeypatch.context() as broken:
        broken.setattr(api.store, "begin_epoch", lost)
        assert api.ask("POST", "/v1/recover").status_code == 503
    assert api.desk.term is None
    assert api.run(api.desk.lead("turn"))
    api.good("POST", "/v1/recover")
    api.good("POST", "/v1/vpcs", {"name": "after", "cidrs": ["10.77.0.0/16"]})


def test_recovery_does_not_believe_a_host_of_a_term_that_cannot_be(api: Api) -> None:
    """It would be the last one: a term beyond it is none that hosts take."""
    told, before = api.peered()["a1"], api.desk.newest
    api.beat(told, seen=[2**63 - 1, 0])
    answer = api.ask("POST", "/v1/recover")

    assert (answer.status_code, "a1 says it has seen term" in answer.json()["detail"]) == (409, True)
    assert api.desk.newest == before


def test_recovery_begins_above_the_terms_of_an_etcd_that_has_lived_for_years(api: Api) -> None:
    """Its terms are its revisions, which each look at /healthz raises; one that is made anew begins at 1."""
    told = api.peered()["a1"]
    api.beat(told, seen=[30_000_000_000, 7])
    api.good("POST", "/v1/recover")
    assert api.desk.newest > (30_000_000_000, 7)


def test_a_term_that_cannot_be_is_not_begun_above_and_its_host_is_named(api: Api) -> None:
    told = api.peered()["a1"]
    before = api.desk.cluster_id
    api.beat(told, seen=[2**40, 0])
    answer = api.ask("POST", "/v1/recover")
    assert (answer.status_code, "a1 says it has seen" in answer.json()["detail"]) == (409, True)
    assert api.desk.cluster_id == before


# -- strangers --------------------------------------------------------------------------------------------------------


def test_who_joins_with_a_token_that_nobody_knows_has_no_request_looked_at(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1", token="A" * 43)
    monkeypatch.setattr("fwd.controller.issuing.ca.key_in", lambda csr: pytest.fail("looked at"))
    assert api.ask("POST", "/v1/join", body, token="").status_code == 401


@pytest.mark.parametrize("body", [{"token": "A" * 43, "kind": "gateway", "name": "a1", "link_csr": ""}, {}, 7])
def test_who_joins_with_nonsense_is_soon_not_listened_to(api: Api, body: Any) -> None:
    statuses = [api.ask("POST", "/v1/join", body, token="").status_code for _ in range(25)]
    assert set(statuses[:20]) <= {401, 422}
    assert set(statuses[20:]) == {429}
    api.now += 60
    assert api.ask("POST", "/v1/join", body, token="").status_code in (401, 422)


@pytest.mark.parametrize(
    ("path", "status"), [("vpcs", 401), ("tokens", 401), ("recover", 401), ("renew", 401), ("heartbeat", 401)]
)
def test_the_body_of_one_who_may_not_is_not_read(api: Api, path: str, status: int) -> None:
    async def body() -> Any:
        pytest.fail("read")
        yield b""

    assert api.ask("POST", f"/v1/{path}", token="", content=body()).status_code == status


def test_the_writer_is_not_tried_again_and_again_while_it_fails(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    async def fails(*_: object) -> int:
        tries.append(1)
        raise StoreError("locked")

    monkeypatch.setattr(api.store, "write", fails)
    assert [api.ask("GET", "/healthz", token="").status_code for _ in range(5)] == [503] * 5
    assert len(tries) == 1


def test_before_anything_was_read_nobody_is_a_stranger(api: Api) -> None:
    api.desk.has_read = False
    assert [api.ask("GET", "/v1/vpcs").status_code for _ in range(30)] == [503] * 30
