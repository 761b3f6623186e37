"""A LAN whose hosts send IPv6 packets of more than 64 KiB (BIG TCP), which no TUN device takes.

The kernel cuts each into single packets, which costs much; every octet comes all the same, fwd drops none, and
`fwd diagnose` says what to do.
"""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys

import pytest
from gwkit import MakePair, Pair, assert_books_balance, ended

OCTETS = 8 << 20
BIG_BYTES = 185_000
SERVER = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 5400), family=socket.AF_INET6) as listening:
    print("ready", flush=True)
    with listening.accept()[0] as s:
        got = hashlib.sha256()
        while data := s.recv(1 << 18):
            got.update(data)
    print(got.hexdigest(), flush=True)
"""
CLIENT = """
import random, socket, sys
data = random.Random(1).randbytes(int(sys.argv[2]))
with socket.create_connection((sys.argv[1], 5400), 30) as s:
    s.sendall(data)
"""


@pytest.fixture(params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, pairs: MakePair) -> Pair:
    pair = pairs([{"payload": request.param}])
    for host, device in (("client1", "eth0"), ("gw1", "lan"), ("gw2", "lan"), ("client2", "eth0")):
        most = str(BIG_BYTES)
        pair.topology.run(host, ["ip", "link", "set", device, "gso_max_size", most, "gro_max_size", most])
    return pair


def test_every_octet_of_big_tcp_comes(pair: Pair) -> None:
    topology, address = pair.topology, pair.topology.address("client2", version=6)
    argv = [sys.executable, "-c", SERVER, address]
    with ended(topology.popen("client2", argv, stdout=subprocess.PIPE, text=True)) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        topology.run("client1", [sys.executable, "-c", CLIENT, address, str(OCTETS)], timeout=120)
        expected = hashlib.sha256(random.Random(1).randbytes(OCTETS)).hexdigest()
        assert server.stdout.readline().strip() == expected
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_diagnose_says_what_slows_it(pair: Pair) -> None:
    argv = [sys.executable, "-m", "fwd", "diagnose", "--config", str(pair.config("gw1"))]
    said = pair.topology.run("gw1", argv, check=False, timeout=60).stdout
    assert "ip link set dev lan gro_max_size 65536" in said
