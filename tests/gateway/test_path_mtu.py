"""What a path takes: whole inner packets in superpacket, "fragmentation needed" in esp, and narrow paths."""

from __future__ import annotations

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, until

NARROW = {"router": True, "router_mtu_bytes": 1400}
NO_ICMP = "ip protocol icmp icmp type destination-unreachable drop"


def narrow(pair: Pair, host: str) -> bool:
    """Every member that has sent something knows the path now."""
    members = [m for m in pair.peering(host)["members"] if m["out"]["records"]]
    return bool(members) and all(m["path_mtu"] <= 1400 for m in members)


def test_superpacket_takes_a_full_inner_packet_over_an_equal_path(module_pairs: MakePair) -> None:
    pair = module_pairs()
    assert pair.peering("gw1")["tun_mtu"] == 1500
    assert pair.ping("-M", "do", "-s", "1472")
    assert not pair.ping("-M", "do", "-s", "1473")


def test_esp_says_fragmentation_needed_and_clamps_tcp(module_pairs: MakePair) -> None:
    pair = module_pairs([{"payload": "esp"}])
    mtu = pair.peering("gw1")["tun_mtu"]
    assert 1400 < mtu < 1472
    refused = pair.topology.ping_output("-M", "do", "-s", "1472")
    assert refused.returncode != 0
    assert f"mtu = {mtu}" in refused.stdout
    assert pair.ping("-M", "do", "-s", str(mtu - 28))
    # The client's own cache must not help TCP: only the clamp makes its segments fit at once.
    pair.topology.run("client1", ["ip", "route", "flush", "cache"])
    with pair.rule("client2", "input", f"tcp flags syn tcp option maxseg size {mtu - 40} counter") as clamped:
        assert pair.tcp(seconds=1) > TCP_MBPS_MIN
        assert clamped()[0] > 0
    assert pair.drops("gw1")["record_too_big"] == 0


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_a_narrow_path_that_says_so(pairs: MakePair, payload: str) -> None:
    """ICMP arrives: the kernel answers EMSGSIZE from then on, and chunks (or the TUN device's MTU) shrink."""
    pair = pairs([{"payload": payload}], lab=NARROW)
    until(lambda: pair.ping("-W", "0.3", "-s", "1400") and narrow(pair, "gw1"), what="path MTU learned")
    assert pair.peering("gw1")["members"][0]["path"] == "up"
    if payload == "superpacket":
        assert pair.ping("-M", "do", "-s", "1472", count=3)
    else:
        until(lambda: pair.peering("gw1")["tun_mtu"] < 1400, what="MTU of the TUN device follows")
        refused = pair.topology.ping_output("-M", "do", "-s", "1400")
        assert "mtu" in refused.stdout + refused.stderr  # from the gateway, or from the client's own cache
    for reverse in (False, True):
        until(lambda: pair.tcp(seconds=1, reverse=reverse) > TCP_MBPS_MIN, 20.0, f"TCP, {reverse=}")  # noqa: B023


def test_a_narrow_path_that_is_silent_is_found_by_echoes(pairs: MakePair) -> None:
    """Full-size echoes go unanswered, small ones do not: superpacket shrinks its chunks and traffic flows."""
    pair = pairs(lab=NARROW, start=False)
    with pair.rule("gw1", "prerouting", NO_ICMP), pair.rule("gw2", "prerouting", NO_ICMP):
        pair.start()
        until(lambda: pair.ping("-W", "0.3", "-s", "1400") and narrow(pair, "gw1"), 10.0, "path MTU found")
        assert pair.ping("-M", "do", "-s", "1472", count=3)
        until(lambda: pair.tcp(seconds=1) > TCP_MBPS_MIN, 20.0, "TCP forward")
        until(lambda: pair.tcp(seconds=1, reverse=True) > TCP_MBPS_MIN, 20.0, "TCP reverse")
        until(lambda: narrow(pair, "gw2"), 20.0, "path MTU found by those that sent last")
        assert [m["path"] for m in pair.peering("gw1")["members"]] == ["up", "up"]


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_what_icmp_told_before_the_start_is_no_limit(pairs: MakePair, payload: str) -> None:
    """The kernel forgets it after 10 minutes: the path may be wider then, and is not only after a restart."""
    pair = pairs([{"payload": payload}], lab=NARROW)
    until(lambda: pair.ping("-W", "0.3", "-s", "1400") and narrow(pair, "gw1"), what="path MTU learned")
    far = pair.topology.outer("gw2")
    told = pair.topology.run("gw1", ["ip", "route", "get", far], check=False).stdout
    if "mtu 1400" not in told:
        pair.topology.run("gw1", ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", far], check=False)
    pair.stop("gw1")
    assert "mtu 1400" in pair.topology.run("gw1", ["ip", "route", "get", far]).stdout

    pair.launch("gw1")
    pair.wait_ready("gw1", "gw2")
    until(lambda: pair.ping("-W", "0.3", "-s", "1300"), what="a ping")
    if payload == "superpacket":
        assert pair.peering("gw1")["tun_mtu"] == 1500
        return
    until(lambda: pair.peering("gw1")["tun_mtu"] < 1400, what="the path that ICMP tells of")
    pair.topology.run("gw1", ["ip", "route", "flush", "cache"])
    until(lambda: pair.peering("gw1")["tun_mtu"] > 1400, what="the device's size")
