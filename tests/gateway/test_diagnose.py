"""`fwd diagnose` in a gateway's namespace: nothing where all is well, and what is wrong where it is."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from gwkit import MakePair, Pair


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs()


def diagnose(pair: Pair) -> tuple[int, list[dict[str, Any]]]:
    """The exit status and the findings, but for those that are this machine's affair."""
    argv = [sys.executable, "-m", "fwd", "diagnose", "--config", str(pair.config("gw1")), "--json"]
    done = pair.topology.run("gw1", argv, check=False)
    found = json.loads(done.stdout)["findings"]
    return done.returncode, [one for one in found if one["check"] not in ("kernel", "memory", "clock")]


def test_nothing_is_found_where_all_is_well(pair: Pair) -> None:
    assert pair.ping(count=3)
    assert diagnose(pair)[1] == []


def test_a_host_that_does_not_forward(pair: Pair) -> None:
    pair.wait_ready("gw1")
    pair.topology.run("gw1", ["sysctl", "-qw", "net.ipv4.ip_forward=0"])
    try:
        status, found = diagnose(pair)
    finally:
        pair.topology.run("gw1", ["sysctl", "-qw", "net.ipv4.ip_forward=1"])
    assert status == 1
    assert {one["check"] for one in found} == {"forwarding_off"}
    assert all(one["evidence"] and "net.ipv4.ip_forward=1" in one["remedy"] for one in found)


def test_a_filter_that_drops_all_that_is_forwarded(pair: Pair) -> None:
    pair.wait_ready("gw1")
    pair.nft("gw1", "table ip strange {\n chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}")
    try:
        status, found = diagnose(pair)
    finally:
        pair.nft("gw1", "delete table ip strange")
    assert status == 1
    assert {one["check"] for one in found} == {"filter_drops"}
    assert any("ip strange forward" in f"{one['what']} {one['evidence']}" for one in found)


def test_packets_that_come_past_the_tunnel(pair: Pair) -> None:
    pair.wait_ready("gw1")
    stranger = pair.topology.address("client2").rpartition(".")[0] + ".77"
    pair.topology.run("client1", ["ip", "address", "add", f"{stranger}/32", "dev", "lo"])
    to = pair.topology.address("gw1", "lan")
    try:
        pair.topology.run("client1", ["ping", "-c", "2", "-W", "1", "-I", stranger, to], check=False)
        status, found = diagnose(pair)
    finally:
        pair.topology.run("client1", ["ip", "address", "del", f"{stranger}/32", "dev", "lo"])
    assert status == 1
    (one,) = found
    assert (one["check"], one["severity"]) == ("past_the_tunnel", "warning")
    assert "the leak guard has dropped 2" in one["evidence"]


def test_a_path_that_takes_less(pair: Pair) -> None:
    """By echo requests that must not be fragmented; the far side takes less than this one's device."""
    script = (
        "import sys; from ipaddress import ip_address as a; from fwd.diagnose.echo import measure\n"
        "found = measure(a(sys.argv[1]), a(sys.argv[2]), 1500); print(found.answers, found.largest_bytes)"
    )
    argv = [sys.executable, "-c", script, pair.topology.outer("gw1"), pair.topology.outer("gw2")]
    assert pair.topology.run("gw1", argv).stdout.split() == ["True", "1500"]
    pair.topology.set_mtu("gw2", "wan", 1400)
    try:
        answers, largest = pair.topology.run("gw1", argv).stdout.split()
    finally:
        pair.topology.set_mtu("gw2", "wan", 1500)
    assert answers == "True"
    assert 1400 <= int(largest) <= 1404  # a veth takes a VLAN's tag more
