"""`fwd diagnose` of a router: one fact that is wrong, one finding."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from fwd.model.router import RouterConfig
from fwd.tools.router_checks import Direct, RouterFacts, findings
from fwd.tools.router_look import chosen, diagnose, is_router

CONFIG = RouterConfig.model_validate(
    {
        "router": {"probe_key": "/p", "hash_seed": 7},
        "spread": [
            {
                "name": "s",
                "remote_ts": ["10.2.0.0/16"],
                "gateway": [{"name": "a1", "addresses": ["10.1.0.11"]}, {"name": "a2", "addresses": ["10.1.0.12"]}],
            }
        ],
    }
)
GOOD = {"name": "a1", "use": "up", "why": "", "heard_s": 0.05, "loss": 0.0}


def status(*reasons: str, **fields: Any) -> dict[str, Any]:
    return {"reasons": list(reasons), "spreads": [{"name": "s", "gateways": [GOOD, {**GOOD, "name": "a2", **fields}]}]}


FINE = RouterFacts(CONFIG, status())


def gateway(**fields: Any) -> Callable[[RouterFacts], RouterFacts]:
    return lambda facts: replace(facts, status=status(**fields))


WRONG: list[tuple[Callable[[RouterFacts], RouterFacts], str, str, str]] = [
    (lambda f: replace(f, status=None, absent="/s: no router answers"), "not_running", "fault", "no router answers"),
    (lambda f: replace(f, status=status("links: no device has a2")), "router", "fault", "no device has a2"),
    (lambda f: replace(f, probe_key="/p: too short"), "keys", "fault", "/p: too short"),
    (gateway(use="down", why="does not answer probes", heard_s=None), "gateway", "warning", "never answered"),
    (gateway(use="down", why="does not answer probes", heard_s=9.0, loss=1.0), "gateway", "warning", "100.0% of the"),
    (gateway(use="down", why="does not answer probes"), "gateway", "warning", "UDP to port 4790"),
    (gateway(use="down", why="has no peering s"), "gateway", "warning", "give the peering there the spread's name"),
    (gateway(use="down", why="cannot reach the far side"), "gateway", "warning", "`fwd verify` there"),
    (gateway(use="down", why="no device of this router has it on its link"), "gateway", "warning", "VXLAN"),
    (gateway(use="down", why="something new"), "gateway", "warning", "`fwd status` there"),
    (gateway(use="up", why="loses packets"), "gateway", "warning", "is in use (up), for less"),
    (
        lambda f: replace(f, direct=[Direct(ip_network("10.2.7.0/24"), "by eth0 to 10.1.0.1")]),
        "direct_route", "fault", "by eth0 to 10.1.0.1",
    ),
    (lambda f: replace(f, has_seed=False), "hash_seed", "warning", "Linux 6.11"),
    (lambda f: replace(f, hashing=["eth0", "eth1"]), "receive_hash", "warning", "ethtool -K eth0 rxhash off"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "check", "severity", "words"), WRONG)
def test_what_is_wrong_is_one_finding(
    change: Callable[[RouterFacts], RouterFacts], check: str, severity: str, words: str
) -> None:
    (found,) = findings(change(FINE))
    assert (found.check, found.severity) == (check, severity)
    assert words in f"{found.what}\n{found.evidence}\n{found.remedy}"
    assert found.evidence
    assert found.remedy


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f,
        gateway(use="draining", why="is being drained"),
        gateway(use="leaving", why="drained"),
        lambda f: replace(f, config=_without_seed(), hashing=["eth0"], has_seed=False),
    ],
)
def test_what_is_fine_is_no_finding(change: Callable[[RouterFacts], RouterFacts]) -> None:
    assert findings(change(FINE)) == []


def _without_seed() -> RouterConfig:
    return CONFIG.model_copy(update={"router": CONFIG.router.model_copy(update={"hash_seed": None})})


def test_a_routers_file_is_told_from_a_gateways(tmp_path: Path) -> None:
    path = tmp_path / "some.toml"
    for text, expected in (("[router]\n", True), ("[gateway]\n", False), ("no toml", False)):
        path.write_text(text)
        assert is_router(path) is expected
    assert not is_router(tmp_path / "none")
    assert chosen(path, path) == path
    assert chosen(tmp_path / "none", path) == tmp_path / "none"


def test_a_routers_file_that_is_none_is_the_only_finding(tmp_path: Path) -> None:
    path = tmp_path / "router.toml"
    path.write_text("[router]\nspeed = 9\n")
    text, exit_status = diagnose(path, None, as_json=True)
    (found,) = json.loads(text)["findings"]
    assert (found["check"], found["severity"], exit_status) == ("config", "fault", 1)
    assert diagnose(path, None, as_json=False)[0].endswith("6 checks: 1 faults, 0 warnings")
