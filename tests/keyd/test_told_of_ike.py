"""What keyd tells of IKE always fits, and says what is left out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fwd.keyd.report import Reports
from fwd.keyd.shown import together
from fwd.model.pairing import ALONE


def told(children: int, sas: int = 1) -> dict[str, Any]:
    child = {"member": 0, "state": "installed", "spi_in": "0x00000100", "spi_out": "0x00000200", "proposal": "aes"}
    sa = {"state": "established", "children": [child] * children}
    return {"sas": [sa] * sas, "half_open": 7, "error": "", "refused": {"1": "NO_ADDITIONAL_SAS"}}


def report(each: dict[str, dict[str, Any]], octets_max: int) -> bytes:
    return Reports(octets_max).encode({name: {ALONE: of} for name, of in each.items()})


def whole(each: dict[str, dict[str, Any]]) -> Any:
    return json.loads(json.dumps({name: together({ALONE: of}) for name, of in each.items()}))


def test_what_fits_is_told_as_it_is() -> None:
    all_of_it = {"a": told(3), 'b"': told(0)}
    text = report(all_of_it, 10_000)
    assert json.loads(text) == whole(all_of_it)
    assert report(all_of_it, len(text)) == text


def test_a_peering_that_is_too_long_says_so_and_the_others_stay() -> None:
    small = {f"peering {i}": told(3) for i in range(10)}
    text = report({"much": told(1024, sas=3), **small}, 256 * 1024)
    found = json.loads(text)
    assert {name: of for name, of in found.items() if name != "much"} == whole(small)
    assert found["much"]["sas"] == []
    assert found["much"]["half_open"] == 7
    assert found["much"]["error"].startswith("3 IKE SAs with 3072 Child SAs (")


def test_as_many_are_shortened_as_must_be() -> None:
    found = json.loads(report({"a": told(1000), "b": told(1001), "c": told(1002)}, 256 * 1024))
    assert [bool(of["error"]) for of in found.values()] == [False, False, True]


def test_it_never_is_too_long() -> None:
    assert report({str(i): told(1) for i in range(1000)}, 1000) == b"{}"


def test_a_peering_of_which_nothing_else_is_told_is_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = told(1), told(2)
    reports, encoded = Reports(), list[Any]()

    def counted(of: Any) -> Any:
        encoded.append(of[ALONE])
        return together(of)

    monkeypatch.setattr("fwd.keyd.report.together", counted)
    first = reports.encode({"a": {ALONE: one}, "b": {ALONE: other}})
    assert reports.encode({"a": {ALONE: one}, "b": {ALONE: other}}) == first
    assert encoded == [one, other]

    changed = told(3)
    found = json.loads(reports.encode({"a": {ALONE: changed}, "b": {ALONE: other}}))
    assert encoded == [one, other, changed]
    assert [len(found[name]["sas"][0]["children"]) for name in ("a", "b")] == [3, 2]
    assert json.loads(reports.encode({"b": {ALONE: other}})).keys() == {"b"}


def test_what_was_shortened_is_whole_again_when_there_is_room() -> None:
    much, small = told(1000), told(1)
    reports = Reports(150_000)
    assert len(json.loads(reports.encode({"a": {ALONE: much}, "b": {ALONE: small}}))["a"]["sas"]) == 1
    assert json.loads(reports.encode({"a": {ALONE: much}, "b": {ALONE: told(500)}}))["a"]["sas"] == []
    assert len(json.loads(reports.encode({"a": {ALONE: much}, "b": {ALONE: small}}))["a"]["sas"]) == 1
