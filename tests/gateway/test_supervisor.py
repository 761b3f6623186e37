"""The supervisor's own end: a clean stop leaves nothing, a crash the leak guards alone, and nothing leaks."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, inside, network_of, nft_packets, until
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from fwd.lab.processes import Process

MARKER = bytes.fromhex("b7c2d91e55a04f6c8d13e77042aa90bf")


@contextlib.contextmanager
def pinging(pair: Pair) -> Iterator[None]:
    """Pings with the marker from client1 to client2, all the while."""
    argv = ["ping", "-i", "0.02", "-p", MARKER.hex(), pair.topology.address("client2")]
    process = pair.topology.popen("client1", argv, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def crash(pair: Pair, host: str) -> None:
    """SIGKILL the supervisor, and see all its children die."""
    children = [Process.of(pid) for pid in pair.pids(host).values()]
    process = pair.running.pop(host)
    process.kill()
    process.wait()
    until(lambda: not any(child and child.alive() for child in children), what="every child dies with the supervisor")


def plant(pair: Pair, sender: str, dev: str, to_mac: str, source: str, to: str) -> None:
    """Put one clear packet on a wire, as if something there had sent it."""
    own = pair.topology.run(sender, ["cat", f"/sys/class/net/{dev}/address"]).stdout.strip()
    frame = bytes(Ether(src=own, dst=to_mac) / IP(src=source, dst=to) / ICMP() / Raw(MARKER))
    script = "import socket,sys;s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW);s.bind((sys.argv[1],0));"
    script += "s.send(bytes.fromhex(sys.argv[2]))"
    pair.topology.run(sender, [sys.executable, "-c", script, dev, frame.hex()])


def plant_inward(pair: Pair) -> None:
    """From gw2's wire to client1, with a source in the remote subnet: nothing of fwd has made it."""
    mac = pair.topology.run("gw1", ["cat", "/sys/class/net/wan/address"]).stdout.strip()
    plant(pair, "gw2", "wan", mac, pair.topology.address("client2"), pair.topology.address("client1"))


def guarded(pair: Pair, chain: str) -> int:
    """Packets that a chain of gw1's guard has dropped."""
    tables = pair.topology.run("gw1", ["nft", "list", "tables"]).stdout.split()
    name = next(table for table in tables if table.startswith("fwd_"))
    return sum(nft_packets(pair.topology.run("gw1", ["nft", "list", "chain", "inet", name, chain]).stdout))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_removes_all_that_was_made(pairs: MakePair, number: signal.Signals) -> None:
    pair = pairs(start=False)
    if number == signal.SIGINT:
        pair.nursery = None  # executed, and so to the end of its interpreter
    before = {host: network_of(pair.topology, host) for host in ("gw1", "gw2")}
    pair.start()
    assert pair.ping()
    for host in ("gw1", "gw2"):
        assert network_of(pair.topology, host) != before[host]
        assert pair.stop(host, number) == 0, pair.log(host)
        assert network_of(pair.topology, host) == before[host]
        assert not pair.control(host).exists()
        assert not inside(pair.topology, host)
        assert "Traceback" not in pair.log(host)


def test_a_clean_stop_under_load(pairs: MakePair) -> None:
    pair = pairs()
    with pair.flood(50, 1200, 20000):
        until(lambda: pair.peering("gw1")["demux"]["records"] > 1000, what="load")
        assert pair.stop("gw1") == 0
    assert "Traceback" not in pair.log("gw1")


def test_nothing_in_the_clear_when_the_supervisor_is_killed(pairs: MakePair) -> None:
    """Rule 4: the guards hold; the clients are told "unreachable"; a new start takes over."""
    pair = pairs(start=False)
    before = network_of(pair.topology, "gw1")
    pair.start()
    with pair.capture(marker=MARKER) as wire:
        with pinging(pair):
            until(lambda: pair.peering("gw1")["demux"]["records"] > 20, what="pings")
            crash(pair, "gw1")
            for host in ("client1", "client2"):
                assert not pair.ping(host=host)
        # IPv6, since the pings have used up what the kernel sends of ICMP errors to that client.
        far = pair.topology.address("client2", version=6)
        until(lambda: "nreachable" in pair.topology.ping_output(to=far).stdout, what="the client is told")
        crash(pair, "gw2")
        for host in ("client1", "client2"):
            assert not pair.ping(host=host)
    assert wire["esp_packets"] > 20
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    left = set(network_of(pair.topology, "gw1").splitlines()) - set(before.splitlines())
    routes = {line for line in left if line.startswith("unreachable ")}
    assert len(routes) == 2
    assert all("metric 1000000" in route for route in routes)
    rules = left - routes
    assert not [line for line in rules if "fwd0" in line and "ifname" not in line], rules
    assert "table inet fwd_to_gw2_0 {" in rules
    pair.start()
    assert pair.ping()
    for host in ("gw1", "gw2"):
        assert pair.stop(host) == 0
    assert network_of(pair.topology, "gw1") == before


def test_nothing_in_the_clear_while_a_peering_is_set_up_anew(pairs: MakePair) -> None:
    """Rule 4, on SIGHUP; also when the change cannot be made. The guards go with the peering, no sooner."""
    pair = pairs(start=False)
    before = network_of(pair.topology, "gw1")
    pair.start()

    def reload(peering: dict[str, object], words: str) -> None:
        pair.peerings = [peering]
        pair.write_config("gw1")
        pair.reload("gw1", words=words)

    with pair.capture(marker=MARKER) as wire, pinging(pair):
        for members in (3, 2, 3):
            reload({"members": members}, "configuration re-read: 1 changed, 1 in force")
        reload({"tun": "lan"}, "configuration re-read: 1 changed, 0 in force")  # which is no TUN device
        assert not pair.ping("-p", MARKER.hex(), count=3)
        reload({}, "configuration re-read: 0 changed, 1 in force")
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    reload({"tun": "lan"}, "configuration re-read: 1 changed, 0 in force")
    assert pair.stop("gw1") == 0
    assert network_of(pair.topology, "gw1") == before


@pytest.mark.parametrize("alive", [True, False], ids=["running", "crashed"])
def test_a_clear_packet_from_the_wire_goes_no_further(pairs: MakePair, alive: bool) -> None:
    pair = pairs()
    if not alive:
        crash(pair, "gw1")
    with pair.rule("client1", "prerouting", f"ip saddr {pair.topology.address('client2')} counter") as reached:
        dropped = guarded(pair, "from_wire")
        plant_inward(pair)
        until(lambda: guarded(pair, "from_wire") == dropped + 1, what="counted by the guard")
        assert reached() == [0]


def test_each_guard_holds_alone(pairs: MakePair) -> None:
    """After a crash: without the route the nftables rule counts and drops; without the rule the route refuses."""
    pair = pairs()
    crash(pair, "gw1")
    subnet = "10.2.0.0/24"
    with pair.capture(marker=MARKER) as wire:
        pair.topology.run("gw1", ["ip", "route", "del", "unreachable", subnet])
        before = guarded(pair, "to_wire")
        assert not pair.ping("-p", MARKER.hex(), count=3)
        assert guarded(pair, "to_wire") == before + 3
        pair.topology.run("gw1", ["ip", "route", "add", "unreachable", subnet, "metric", "1000000"])
        pair.topology.run("gw1", ["nft", "delete", "table", "inet", "fwd_to_gw2_0"])
        assert "nreachable" in pair.topology.ping_output("-p", MARKER.hex(), count=3).stdout
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]


def test_the_capture_would_see_a_leak(pairs: MakePair) -> None:
    """Without any guard the lab does leak: the two tests above would fail if the guards were gone."""
    pair = pairs()
    crash(pair, "gw1")
    crash(pair, "gw2")
    for host, subnet in (("gw1", "10.2.0.0/24"), ("gw2", "10.1.0.0/24")):
        pair.topology.run(host, ["ip", "route", "del", "unreachable", subnet])
        pair.topology.run(host, ["nft", "flush", "ruleset"])
    with pair.capture(marker=MARKER) as wire:
        assert pair.ping("-p", MARKER.hex(), count=3)
    assert wire["plaintext_packets"] == 6


def test_a_restarted_gateway_meets_a_running_one(pairs: MakePair) -> None:
    """Both get a new secret: an old one would use the same keys again."""
    pair = pairs()
    crash(pair, "gw2")
    assert pair.stop("gw1") == 0
    pair.start()
    assert pair.ping()
    assert pair.tcp() > TCP_MBPS_MIN
