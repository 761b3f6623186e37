"""Whatever is asked: a status that the OpenAPI names for it, and of an error one line; no fault of the server's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from apikit import Api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fwd.controller.rates import Rates

METHODS = ("get", "post", "patch", "delete")
WORDS = st.one_of(
    st.sampled_from(["a", "b", "a1", "b1", "a-b", "root", "none", "10.1.0.9", "10.9.0.0/16", "join", "admin", "esp"]),
    st.text(max_size=6),
)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), WORDS)
VALUES = st.recursive(
    PLAIN, lambda one: st.lists(one, max_size=3) | st.dictionaries(WORDS, one, max_size=3), max_leaves=6
)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    api = Api()
    api.told = api.peered()["a1"]["link_certificate"]  # type: ignore[attr-defined]
    yield api
    api.close()


@pytest.fixture(scope="module")
def described(api: Api) -> dict[str, Any]:
    found = api.ask("GET", "/v1/openapi.json").json()
    assert isinstance(found, dict)
    return found


def operations(described: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, one)
        for path, methods in described["paths"].items()
        for method, one in methods.items()
        if method in METHODS and path not in ("/v1/desired", "/v1/recover")
    ]


def fields_of(one: dict[str, Any], described: dict[str, Any]) -> list[str]:
    """The names of a body's fields."""
    schema = one.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return list(schema.get("properties", {}))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
@given(data=st.data())
def test_any_request_has_a_documented_answer(api: Api, described: dict[str, Any], data: st.DataObject) -> None:
    known = operations(described)
    method, path, one = known[data.draw(st.integers(0, len(known) - 1))]
    name = quote(data.draw(WORDS.filter(lambda text: text not in ("", ".", "..") and "/" not in text)), safe="")
    fields = fields_of(one, described)
    keys = st.one_of(st.sampled_from(fields), WORDS) if fields else WORDS
    body = data.draw(st.one_of(st.dictionaries(keys, VALUES, max_size=6), VALUES))
    params = data.draw(
        st.dictionaries(st.sampled_from(["dry_run", "after"]), st.sampled_from(["1", "0", "-1", "x", ""]))
    )
    if data.draw(st.booleans()):
        params["dry_run"] = "1"  # most requests change nothing, so that there is something to ask for

    api.control.strangers = Rates(20, 1)
    api.now += 1
    headers = {"Content-Type": "application/json", "If-Match": data.draw(st.sampled_from(["*", '"1"', "x"]))}
    how: dict[str, Any] = {"content": json.dumps(body), "headers": headers, "params": params}
    if one.get("tags") == ["hosts"]:
        answer = api.as_host(api.told, method, path.replace("{name}", name), **how)  # type: ignore[attr-defined]
    else:
        token = data.draw(st.sampled_from([api.admin, api.admin, api.viewer, "", "fwdb.x"]))
        answer = api.ask(method, path.replace("{name}", name).replace("{id}", name), token=token, **how)

    assert str(answer.status_code) in one["responses"], (answer.status_code, answer.text)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert isinstance(answer.json()["detail"], str)
        assert "\n" not in answer.json()["detail"]


def test_an_unknown_path_and_method_are_the_callers_fault(api: Api) -> None:
    assert api.ask("GET", "/v1/nothing").status_code == 404
    assert api.ask("PUT", "/v1/vpcs").status_code == 405
