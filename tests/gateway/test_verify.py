"""`fwd verify` with real gateways: packets go over each member's SA, and what does not come back is told."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping

import pytest
from farkit import FORK, Fan
from gwkit import Json, MakePair, Pair, until

from fwd.proto.check import ECHOES


def verify(pair: Pair, host: str, *options: str) -> tuple[int, Json]:
    """Its exit status, and what it tells."""
    argv = [sys.executable, "-P", "-m", "fwd", "verify", "--json", "--control", str(pair.control(host)), *options]
    done = pair.topology.run(host, argv, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def claimed(pair: Pair, host: str) -> Mapping[str, int]:
    """By the SPI that a member sends on, the last number that it has claimed there."""
    return {
        entry["spi"]: entry["last"]
        for member in pair.members(host)
        for entry in member["ledger"]
        if entry["spi"] == member["spi_out"]
    }


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_each_member_sends_on_its_sa_and_all_comes_back(pairs: MakePair, payload: str) -> None:
    pair = pairs(({"payload": payload, "members": 3},), keys={"source": "psk"})
    pair.wait_quiet()
    before, answered = claimed(pair, "gw1"), [one["echoes_answered"] for one in pair.members("gw2")]
    status, told = verify(pair, "gw1")
    assert (status, told["passed"], told["reasons"]) == (0, True, []), told
    (row,) = told["pairs"]
    assert [(one["sent"], one["back"], one["fault"]) for one in row["members"]] == [(ECHOES, ECHOES, "")] * 3
    assert {one["spi"] for one in row["members"]} == set(before)
    assert all(0 < one["rtt_ms"] < 5000 for one in row["members"])

    # They were packets on these SAs, and the far members have answered them.
    after = claimed(pair, "gw1")
    assert all(after[spi] >= last + ECHOES for spi, last in before.items())
    now = [one["echoes_answered"] for one in pair.members("gw2")]
    assert all(later >= earlier + ECHOES for earlier, later in zip(answered, now, strict=True))


def test_a_member_whose_packets_are_lost_is_told(pairs: MakePair) -> None:
    pair = pairs(({"members": 3},), keys={"source": "psk"})
    member = pair.members("gw1")[1]
    with pair.rule("gw2", "prerouting", f"udp dport {member['port']} drop"):
        status, told = verify(pair, "gw1")
    assert (status, told["passed"]) == (1, False)
    (row,) = told["pairs"]
    assert row["faults"] == ["member 1: nothing came back"]
    assert [one["back"] for one in row["members"]] == [ECHOES, 0, ECHOES]
    until(lambda: verify(pair, "gw1")[0] == 0, 60.0, "it passes again")

    # One peering may be named, and one that is not there is a line.
    name = pair.peering("gw1")["name"]
    assert verify(pair, "gw1", name)[0] == 0
    status, told = verify(pair, "gw1", "another")
    assert status == 2
    assert told["error"].count("\n") == 1
    assert "no peering 'another'" in told["error"]


def test_each_far_gateway_is_a_pair(pairs: MakePair) -> None:
    fan = pairs(kind=Fan, **FORK)
    assert isinstance(fan, Fan)
    assert verify(fan, "gw1")[0] == 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(fan.gw3_gone("cut"))
        status, told = verify(fan, "gw1")
    assert status == 1
    outer = {host: fan.topology.outer(host) for host in ("gw2", "gw3")}
    faults = {row["far"]: row["faults"] for row in told["pairs"]}
    assert faults[outer["gw2"]] == []
    assert faults[outer["gw3"]]
