"""What goes through: every kind of traffic, over both payloads and outer IP versions, with and without offloads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, ended, until

SETUPS = {
    "superpacket": ({}, {}, ()),
    "esp": ({"payload": "esp"}, {}, ()),
    "superpacket-outer-ipv6": ({}, {"ipv6": True}, ()),
    "esp-outer-ipv6": ({"payload": "esp", "esn": False}, {"ipv6": True}, ()),
    "no-offload": ({}, {}, ("--no-offload",)),
}


@pytest.fixture(scope="module", params=SETUPS)
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Iterator[Pair]:
    peering, lab, arguments = SETUPS[request.param]
    pair = module_pairs([peering], lab=lab, arguments=arguments)
    yield pair
    pair.close()


def test_offloads_in_force_are_those_asked_for(pair: Pair, request: pytest.FixtureRequest) -> None:
    in_force = pair.peering("gw1")["offloads"]["in_force"]
    payload, off = pair.peering("gw1")["payload"], bool(pair.arguments)
    assert ("tso" in in_force) == (not off)
    assert ("uso" in in_force) <= (payload == "superpacket" and not off)  # the kernel may not know it
    assert ("udp-gso" in in_force) == (not off)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_tcp(pair: Pair, reverse: bool) -> None:
    assert pair.tcp(reverse=reverse) > TCP_MBPS_MIN


def test_tcp_over_inner_ipv6(pair: Pair) -> None:
    assert pair.tcp(version=6) > TCP_MBPS_MIN


@pytest.mark.parametrize("host", ["client1", "client2"])
@pytest.mark.parametrize("version", [4, 6])
def test_ping(pair: Pair, host: str, version: int) -> None:
    to = pair.topology.address("client2" if host == "client1" else "client1", version=version)  # type: ignore[arg-type]
    assert pair.ping(host=host, to=to, count=3)


@pytest.mark.parametrize("version", [4, 6])
def test_ping_of_64_kilobytes(pair: Pair, version: int) -> None:
    address = pair.topology.address("client2", version=version)  # type: ignore[arg-type]
    learn_path_mtu(pair, address)
    assert pair.ping("-s", "65000", to=address)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("octets", [1, 1200, 8000])
def test_udp(pair: Pair, octets: int, version: int) -> None:
    """8,000 octets travel as fragments."""
    address = pair.topology.address("client2", version=version)  # type: ignore[arg-type]
    learn_path_mtu(pair, address)
    assert udp_echoes(pair, address, octets, count=20) == 20


def test_the_gateways_own_packets_go_through(pair: Pair) -> None:
    """From an inner address, which the TUN route names."""
    for host, far in (("gw1", "client2"), ("gw2", "client1")):
        assert pair.ping(host=host, to=pair.topology.address(far))


def test_nothing_was_dropped(pair: Pair) -> None:
    """After all of the above, but for what full queues drop under TCP, and the TUN device's own link-local packets."""
    pair.wait_quiet()
    allowed = {"ring_full", "queue_stands", "tun_queue_full", "socket_overflow", "hole", "selector_out"}
    for host in ("gw1", "gw2"):
        dropped = {reason: count for reason, count in pair.drops(host).items() if count}
        assert set(dropped) <= allowed, dropped
        assert dropped.get("selector_out", 0) < 50


def learn_path_mtu(pair: Pair, address: str) -> None:
    """In IPv6 the sender fragments; over esp its first long packet is what "packet too big" tells it about."""
    until(lambda: pair.ping("-s", "1452", to=address), what="client1 knows the path MTU")
    far = pair.topology.address("client1", version=6 if ":" in address else 4)
    until(lambda: pair.ping("-s", "1452", host="client2", to=far), what="client2 knows the path MTU")


def udp_echoes(pair: Pair, address: str, octets: int, count: int) -> int:
    """Datagrams sent one after another from client1, sent back by client2, and come back whole."""
    family = "AF_INET6" if ":" in address else "AF_INET"
    serve = (
        f"import socket\ns=socket.socket(socket.{family},socket.SOCK_DGRAM);s.bind(('',9000))\n"
        "print('ready',flush=True)\nwhile True:\n    d,a=s.recvfrom(65536);s.sendto(d,a)\n"
    )
    ask = (
        f"import os,socket\ns=socket.socket(socket.{family},socket.SOCK_DGRAM);s.settimeout(2);n=0\n"
        f"for _ in range({count}):\n    d=os.urandom({octets});s.sendto(d,('{address}',9000))\n"
        "    try: n+=s.recv(65536)==d\n    except TimeoutError: pass\nprint(n)\n"
    )
    with ended(pair.topology.popen("client2", [sys.executable, "-c", serve], stdout=subprocess.PIPE)) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        return int(pair.topology.run("client1", [sys.executable, "-c", ask]).stdout)
