"""A gateway that answers routers: what it says, and where and by which key it does, while it runs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from gwkit import Json, MakePair, Pair, until

from fwd.proto.probe import peering_id

ASK = """
import json, os, socket, sys
from fwd.proto.probe import decode_answer, encode_request
key, nonce = bytes.fromhex(sys.argv[2]), os.urandom(16)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
sock.connect((sys.argv[1], int(sys.argv[3])))
try:
    sock.send(encode_request(nonce, key))
    answer = decode_answer(sock.recv(2048), key)
except OSError:
    answer = None
if answer is not None and answer.nonce == nonce:
    print(json.dumps({"passes": {k.hex(): v.passes for k, v in answer.peerings.items()}, "draining": answer.draining}))
"""


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    pair = module_pairs(start=False)
    pair.answer_routers()
    return pair.start()


def ask(pair: Pair, *, port: int = 4790, key: bytes | None = None) -> Json:
    """What gw1 answers to a router in its VPC; empty: nothing."""
    argv = [sys.executable, "-c", ASK, pair.topology.address("gw1", "lan"), (key or pair.probe_key).hex(), str(port)]
    found: Json = json.loads(pair.topology.run("client1", argv).stdout or "{}")
    return found


def passes(pair: Pair) -> bool | None:
    found: bool | None = ask(pair).get("passes", {}).get(peering_id("to-gw2-0").hex())
    return found


def others(pair: Pair) -> dict[str, int]:
    return {name: pid for name, pid in pair.pids("gw1").items() if name != "beacon"}


def key_file(pair: Pair) -> Path:
    return Path(pair.gateway["probe_key"])


def test_routers_are_told_whether_packets_pass_and_who_has_no_key_is_not(pair: Pair) -> None:
    assert until(lambda: passes(pair), 30.0)
    assert ask(pair, key=os.urandom(32)) == {}
    seen = pair.status("gw1")["beacon"]
    assert seen["answered"] >= 1
    assert seen["refused"] >= 1


def test_routers_hear_of_a_drain(pair: Pair) -> None:
    control = str(pair.control("gw1"))
    for command, drains in (("drain", True), ("undrain", False)):
        pair.topology.run("gw1", [sys.executable, "-m", "fwd", command, "--control", control])
        until(lambda wanted=drains: ask(pair).get("draining") is wanted, 30.0)  # type: ignore[misc]


def test_another_key_then_another_port_then_none_while_it_runs(pair: Pair) -> None:
    """And all other processes go on."""
    before, old = others(pair), pair.probe_key

    # The file has another key: it holds after SIGHUP, and the old one no more.
    pair.probe_key = os.urandom(32)
    key_file(pair).write_text(pair.probe_key.hex())
    pair.reload("gw1")
    until(lambda: passes(pair), 30.0, "an answer by the new key")
    assert ask(pair, key=old) == {}

    # Half a key is refused, and the one before stays.
    key_file(pair).write_text("01" * 20)
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: "needs 64 or more" in pair.log("gw1"), 30.0, "the refusal")
    until(lambda: passes(pair), 30.0, "an answer by the key before")
    key_file(pair).write_text(pair.probe_key.hex())
    pair.reload("gw1")

    gateway = dict(pair.gateway)
    pair.gateway["beacon"] = "0.0.0.0:4791"
    pair.write_config("gw1")
    pair.reload("gw1")
    until(lambda: ask(pair, port=4791), 30.0, "an answer at the new port")
    assert ask(pair) == {}

    # Without it there is no such process; and it comes back.
    pair.gateway = {}
    pair.write_config("gw1")
    pair.reload("gw1")
    until(lambda: "beacon" not in pair.pids("gw1"), 30.0, "no beacon")
    assert pair.status("gw1")["beacon"] is None
    assert ask(pair, port=4791) == {}
    pair.gateway = gateway
    pair.write_config("gw1")
    pair.reload("gw1")
    until(lambda: passes(pair), 30.0, "an answer once it is back")
    assert others(pair) == before


def test_a_beacon_that_dies_is_replaced_and_answers(pair: Pair) -> None:
    pid = pair.kill("gw1", "beacon")
    pair.wait_replaced("gw1", "beacon", pid)
    until(lambda: passes(pair), 30.0)


def test_routers_are_told_when_no_packet_passes_any_more(pair: Pair) -> None:
    with pair.rule("gw1", "prerouting", "iifname wan drop"):
        pair.ping()  # a path is asked only while there is traffic
        until(lambda: not pair.ping() and passes(pair) is False, 60.0, "the path is down")
    until(lambda: pair.ping() and passes(pair), 60.0, "the path is up")
