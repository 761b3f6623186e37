"""A host that was built anew joins under its name again, by a token that an operator has made for that."""

from __future__ import annotations

from typing import Any

import pytest
from apikit import Api, host_key
from cakit import request
from cryptography import x509

from fwd.link.document import verify


def token(api: Api, **fields: str) -> str:
    text: str = api.good("POST", "/v1/tokens", {"vpc": "a", **fields})["token"]
    return text.split(".")[1]


def join(api: Api, secret: str, name: str = "a1", **fields: Any) -> Any:
    body = api.join_body("a", name, "10.1.0.11", "192.0.2.1", token=secret, **fields)
    return api.ask("POST", "/v1/join", body, token="")


def serial(certificate: str) -> int:
    return x509.load_pem_x509_certificate(certificate.encode()).serial_number


def test_without_such_a_token_it_is_refused_and_the_way_is_told(api: Api) -> None:
    api.peered()
    answer = join(api, token(api))
    assert answer.status_code == 409
    assert "`fwd token create vpc=a kind=gateway replaces=a1`" in answer.json()["detail"]


def test_with_it_all_that_it_had_is_revoked_and_it_stays_what_it_was(api: Api) -> None:
    before = api.peered()["a1"]
    api.good("PATCH", "/v1/gateways/a1", {"weight": 2.5})
    pairs = api.good("GET", "/v1/pairs")["items"]
    answer = join(api, token(api, replaces="a1"), members=9)
    assert answer.status_code == 201
    after = answer.json()

    assert api.beat(before).status_code == 403
    assert api.beat(after).status_code == 200
    one = api.good("GET", "/v1/gateways/a1")
    assert (one["weight"], one["members"]) == (2.5, 2)
    assert api.good("GET", "/v1/pairs")["items"] == pairs
    last = api.good("GET", "/v1/operations")["items"][0]
    assert (last["act"], last["name"], last["progress"]["hosts"]) == ("replace", "a1", 2)


def test_the_other_gateways_hear_that_its_old_certificates_are_revoked(api: Api) -> None:
    before = api.peered()["a1"]
    order = api.desk.newest
    join(api, token(api, replaces="a1"))

    document = verify(api.desk.document("b1"), api.desk.keys.document.public_key(), "b1")
    assert document.order > order
    lists = x509.load_pem_x509_crl(str(document.content["crl"]).encode())
    assert lists.get_revoked_certificate_by_serial_number(serial(before["ike_certificate"]))
    assert lists.get_revoked_certificate_by_serial_number(serial(before["link_certificate"]))


def test_an_answer_that_was_lost_is_given_again_and_nothing_more_is_revoked(api: Api) -> None:
    api.peered()
    secret, keys = token(api, replaces="a1"), {"link_csr": request(host_key()), "ike_csr": request(host_key())}
    first = join(api, secret, **keys).json()
    again = join(api, secret, **keys)
    assert again.status_code == 201
    assert api.beat(first).status_code == api.beat(again.json()).status_code == 200
    assert join(api, secret).status_code == 401, "and no other key"


def test_the_token_is_that_hosts_alone(api: Api) -> None:
    api.peered()
    answer = join(api, token(api, replaces="a1"), "a2")
    assert (answer.status_code, "for a1 alone" in answer.json()["detail"]) == (401, True)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"vpc": "a", "replaces": "a9"}, "there is no gateway a9"),
        ({"vpc": "a", "kind": "router", "replaces": "a1"}, "there is no router a1"),
        ({"role": "admin", "replaces": "a1"}, "a bearer's does not"),
    ],
)
def test_tokens_that_replace_nobody_are_refused(api: Api, body: dict[str, str], why: str) -> None:
    api.peered()
    answer = api.ask("POST", "/v1/tokens", body)
    assert (answer.status_code, why in answer.json()["detail"]) == (422, True)


def test_one_of_another_vpc_is_refused_and_nothing_is_revoked(api: Api) -> None:
    before = api.peered()["b1"]
    answer = join(api, token(api, replaces="b1"), "b1")
    assert (answer.status_code, "is in VPC b" in answer.json()["detail"]) == (422, True)
    assert api.beat(before).status_code == 200
