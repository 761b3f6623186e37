"""The leak guards as nft reads them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.supervise import guards
from fwd.supervise.guards import table_name

V4, V6 = ["10.2.0.0/16", "10.3.0.0/24"], ["fd02::/48"]
SUBNETS = [V4, V6, [*V4, *V6]]
NUMBER = 201


def peering(remote_ts: list[str], **changes: object) -> Peering:
    values = {
        "name": "far-side", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2",
        "local_ts": ["10.1.0.0/16", "fd01::/48"], "remote_ts": remote_ts, "tun": "fwd7",
        "keys": LabKeys(source="lab", secret=Path("x")), **changes,
    }  # fmt: skip
    return Peering.model_validate(values)


def ruleset(peering: Peering, *, closed: bool = False) -> str:
    return guards.ruleset(peering, NUMBER, closed=closed)


def rules(text: str, chain: str) -> list[str]:
    body = re.search(rf"chain {chain} \{{(.*?)\n\}}", text, re.DOTALL)
    assert body
    return body[1].strip().splitlines()[1:]


@pytest.mark.parametrize("remote_ts", SUBNETS)
def test_every_remote_subnet_is_guarded_both_ways(remote_ts: list[str]) -> None:
    text = ruleset(peering(remote_ts))
    for chain, way, side in (("from_wire", "iifname", "saddr"), ("to_wire", "oifname", "daddr")):
        lines = rules(text, chain)
        assert len(lines) == len({":" in subnet for subnet in remote_ts}), "a rule without subnets, or too few"
        for subnet in remote_ts:
            family = "ip6" if ":" in subnet else "ip"
            (line,) = (x for x in lines if f" {family} {side} " in x)
            assert subnet in line
            assert line.startswith(f'{way} != {{ "fwd7", "lo" }}')
            assert line.endswith("counter drop")


def test_outer_packets_of_a_far_gateway_inside_pass_and_nothing_else_of_it() -> None:
    native = peering(V4, remote_addrs="10.2.0.9", native=True)
    far = "ip saddr { 10.2.0.9 } ip daddr 192.0.2.1 udp dport { 4500-4503 }"
    here = "ip daddr { 10.2.0.9 } ip saddr 192.0.2.1 udp sport { 4500-4503 }"
    text = ruleset(native)
    assert rules(text, "from_wire")[:2] == [f'iifname "fwd7" {far} counter drop', f"{far} accept"]
    assert rules(text, "to_wire")[:2] == [f'oifname "fwd7" {here} counter drop', f"{here} accept"]
    for closed_or_elsewhere in (ruleset(native, closed=True), ruleset(peering(V4, native=True))):
        assert "accept\n" not in closed_or_elsewhere.replace("policy accept", "").replace(";", "")
        assert "udp" not in closed_or_elsewhere


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="nft --check needs root and nft")
@pytest.mark.parametrize(
    "addresses", [("192.0.2.1", ["10.2.0.9"]), ("fd01::1", ["fd02::9", "fd02::a"])], ids=["IPv4", "IPv6"]
)
def test_nft_takes_that_too(addresses: tuple[str, list[str]]) -> None:
    local, far = addresses
    keys = {"source": "psk", "secret": "/x", "local_id": "a", "remote_id": ["b", "c"][: len(far)]}
    one = peering([*V4, *V6], local_addrs=local, remote_addrs=far, native=True, keys=keys)
    done = subprocess.run(["nft", "-c", "-f", "-"], input=ruleset(one), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_replaces_what_an_earlier_run_left() -> None:
    name = table_name(peering(V4))
    assert re.fullmatch(r"[a-z0-9_]+", name)
    lines = ruleset(peering(V4)).splitlines()
    assert lines[:3] == [f"table inet {name}", f"delete table inet {name}", f"table inet {name} {{"]


@pytest.mark.parametrize(
    ("payload", "wanted", "clamps"), [("esp", True, 2), ("esp", False, 0), ("superpacket", True, 0)]
)
def test_mss_is_clamped_where_packets_cannot_be_split(payload: str, wanted: bool, clamps: int) -> None:
    assert len(rules(ruleset(peering(V4, payload=payload, mss_clamp=wanted)), "clamp")) == clamps


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("nft"), reason="nft --check needs root and nft")
@pytest.mark.parametrize("payload", ["esp", "superpacket"])
@pytest.mark.parametrize("remote_ts", SUBNETS)
def test_nft_takes_it(remote_ts: list[str], payload: str) -> None:
    one = peering(remote_ts, payload=payload)
    text = guards.ruleset(one, NUMBER, outside={"wan": one.local_ts})
    done = subprocess.run(["nft", "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
