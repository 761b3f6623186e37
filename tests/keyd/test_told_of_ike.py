"""What keyd tells of IKE always fits, and says what is left out."""

from __future__ import annotations

import json
from typing import Any

from fwd.keyd.report import report


def told(children: int, sas: int = 1) -> dict[str, Any]:
    child = {"member": 0, "state": "installed", "spi_in": "0x00000100", "spi_out": "0x00000200", "proposal": "aes"}
    sa = {"state": "established", "children": [child] * children}
    return {"sas": [sa] * sas, "half_open": 7, "error": "", "refused": {"1": "NO_ADDITIONAL_SAS"}}


def test_what_fits_is_told_as_it_is() -> None:
    all_of_it = {"a": told(3), 'b"': told(0)}
    text = report(all_of_it, 10_000)
    assert json.loads(text) == all_of_it
    assert report(all_of_it, len(text)) == text


def test_a_peering_that_is_too_long_says_so_and_the_others_stay() -> None:
    small = {f"peering {i}": told(3) for i in range(10)}
    text = report({"much": told(1024, sas=3), **small}, 256 * 1024)
    found = json.loads(text)
    assert {name: of for name, of in found.items() if name != "much"} == small
    assert found["much"]["sas"] == []
    assert found["much"]["half_open"] == 7
    assert found["much"]["error"].startswith("3 IKE SAs with 3072 Child SAs (")


def test_as_many_are_shortened_as_must_be() -> None:
    found = json.loads(report({"a": told(1000), "b": told(1001), "c": told(1002)}, 256 * 1024))
    assert [bool(of["error"]) for of in found.values()] == [False, False, True]


def test_it_never_is_too_long() -> None:
    assert report({str(i): told(1) for i in range(1000)}, 1000) == b"{}"
