"""`fwd path` on a gateway: what is made of its status, and what would stop the flow."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from fwd.model.trace import Trace
from fwd.proto.sample import Flow
from fwd.tools.at_gateway import follow

FLOW = Flow(ip_address("10.1.0.10"), ip_address("10.2.0.10"), 17, 5000, 53)
TOLD = {"name": "vpc2", "tun": "fwd0", "within": True, "bucket": 7, "member": 1, "parked": False}


def member(index: int, **fields: Any) -> dict[str, Any]:
    return {
        "index": index, "state": "running", "port": 4500 + index, "peer": f"192.0.2.9:{4500 + index}", "path": "up",
        "spi_out": f"0000000{index}",
    } | fields  # fmt: skip


def status(*, reasons: tuple[dict[str, str], ...] = (), narrower: Any = None, **fields: Any) -> dict[str, Any]:
    child = {"spi_out": "00000001", "ends_s": 3000}
    peering = {
        "name": "vpc2", "local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"], "remote_addrs": "192.0.2.9",
        "members": [member(0), member(1, **fields)], "far": [{"address": "192.0.2.9", "members": [0, 1]}],
        "ike_sas": [{"children": [child]}], "narrower": narrower or {},
    }  # fmt: skip
    return {"peerings": [peering], "reasons": reasons}


def followed(told: dict[str, Any], of: dict[str, Any]) -> Trace:
    found = Trace(FLOW.as_json())
    follow(found, FLOW, {**TOLD, **told}, of)
    return found


def test_bucket_member_and_sa_are_told() -> None:
    found = followed({}, status())
    assert found.there == [
        "peering vpc2, device fwd0, bucket 7",
        "member 1, port 4501, its path is up",
        "SA 00000001 to 192.0.2.9:4501, ends in 3000 s",
    ]
    assert (found.here, found.breaks, found.facts["far"]) == ("gateway", [], "192.0.2.9")


@pytest.mark.parametrize(
    ("told", "of", "why"),
    [
        ({"within": False}, status(), "outside the peering's subnets, 10.1.0.0/16 to 10.2.0.0/16"),
        ({"member": None}, status(), "no member is live"),
        ({"member": None, "parked": True}, status(), "the member that leaves"),
        ({"member": 5}, status(), "member 5 has just gone"),
        ({"name": "other"}, status(), "peering other has just gone"),
        ({}, status(path="down"), "does not answer member 1's echoes"),
        ({}, status(spi_out=None), "member 1 has no SA"),
        ({}, status(state="failed"), "member 1 is in failed"),
        ({}, status(reasons=({"peering": "vpc2", "text": "no IKE SA"},)), "no IKE SA"),
        ({}, status(reasons=({"peering": "", "text": "supervisor is frozen"},)), "supervisor is frozen"),
    ],
)
def test_what_would_stop_it_is_told(told: dict[str, Any], of: dict[str, Any], why: str) -> None:
    assert any(why in one for one in followed(told, of).breaks)


def test_another_peerings_trouble_is_not_this_flows() -> None:
    assert followed({}, status(reasons=({"peering": "vpc3", "text": "no IKE SA"},))).breaks == []


def test_an_sa_that_carries_less_is_noted() -> None:
    narrower = {"1": {"local": ["10.1.0.0/24"], "remote": ["10.2.0.0/24"], "not_wholly": []}}
    assert any("carries less" in one for one in followed({}, status(narrower=narrower)).notes)
