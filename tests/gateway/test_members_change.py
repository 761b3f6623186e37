"""The number of members changes while traffic flows: new ones take what is idle, leaving ones keep what is busy."""

from __future__ import annotations

import os
import time

import pytest
from gwkit import MakePair, Pair, assert_books_balance, until
from test_reload import ONE

from fwd.lab.topology import GATEWAYS

DEADLINE_S = 3
IDLE_MS = 800.0  # a bucket without a packet for a second may move
RATE_HZ = 200.0  # so few that the TUN device's queue holds two seconds of them: nothing is lost to a busy machine


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Pair:
    pair = module_pairs(start=False, keys={"source": "psk", "grace": 30})
    pair.peerings = [{**ONE, "payload": request.param, "members": 2, "drain_deadline": DEADLINE_S}]
    return pair.start()


def resize(pair: Pair, members: int, *hosts: str) -> None:
    pair.peerings[0]["members"] = members
    for host in hosts or GATEWAYS:
        pair.write_config(host)
        pair.reload(host)


def carry(pair: Pair, host: str) -> set[int]:
    """The members that have buckets and an SA to send on."""
    return {m["index"] for m in pair.members(host) if m["buckets"] and m["spi_out"]}


def wait_carried_by(pair: Pair, count: int, *hosts: str) -> None:
    for host in hosts or GATEWAYS:
        until(lambda host=host: carry(pair, host) == set(range(count)), 30.0, f"{host}: {count} members carry")  # type: ignore[misc]


def stay(pair: Pair) -> list[tuple[int, int]]:
    return [(pair.pids(host)["keyd"], pair.peering(host)["demux"]["pid"]) for host in GATEWAYS]


def mapped(pair: Pair, host: str, kind: str, index: int) -> list[str]:
    """Maps that a process has of a member's memory."""
    peering = pair.peering(host)
    pid = {**pair.pids(host), "demux": peering["demux"]["pid"], "supervisor": pair.running[host].pid}[kind]
    with open(f"/proc/{pid}/maps", encoding="ascii") as file:
        return [line for line in file if f"fwd/{peering['name']}/" in line and f"-{index} " in line]


def test_members_come_and_go_beside_busy_flows(pair: Pair) -> None:
    before, ports = stay(pair), pair.flow_ports(6)
    with pair.capture() as seen:
        with pair.probes(ports[:1], rate_hz=RATE_HZ) as got:
            owned = [(m["index"], m["pid"], m["spi_out"]) for m in pair.members("gw1")]
            resize(pair, 6)
            wait_carried_by(pair, 6)
        assert [(a.lost, a.inversions, a.duplicates) for a in got.values()] == [(0, 0, 0)]
        assert [(m["index"], m["pid"], m["spi_out"]) for m in pair.members("gw1")[:2]] == owned

        with pair.probes([ports[0], ports[5]], rate_hz=RATE_HZ / 2) as got:
            resize(pair, 3, "gw1")
            began = time.monotonic()
            busy = [m for m in pair.members("gw1") if m["draining"]]
            assert [m["index"] for m in busy] == [3, 4, 5]
            until(lambda: not any(m["buckets"] for m in pair.members("gw1")[3:]), 20.0, "busy buckets have moved")
            moved_after_s = time.monotonic() - began
            until(lambda: len(pair.members("gw1")) == 3, 30.0, "three members are left")
            wait_carried_by(pair, 3)
            assert len(pair.members("gw2")) == 6, "the far gateway keeps its own, without partners"
            pair.wait_ready()
            resize(pair, 3, "gw2")
            until(lambda: len(pair.members("gw2")) == 3, 30.0, "three members are left")
        assert [(a.lost, a.inversions, a.duplicates) for a in got.values()] == [(0, 0, 0)] * 2
        if got[ports[5]].longest_gap_ms < IDLE_MS:  # else a busy machine has let the bucket fall idle
            assert moved_after_s > DEADLINE_S - 1.0, "a busy bucket moved before the deadline"
    assert seen["repeated_nonces"] == 0, seen
    assert stay(pair) == before, "keyd and demux are the same processes"
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_what_has_left_leaves_nothing_behind(pair: Pair) -> None:
    members = len(pair.members("gw1"))
    wait_carried_by(pair, members)
    held = {
        host: {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pair.pids(host).items()} for host in GATEWAYS
    }
    last = members + 1
    resize(pair, members + 2)
    wait_carried_by(pair, members + 2)
    assert mapped(pair, "gw1", "demux", last)
    resize(pair, members)
    until(lambda: all(len(pair.members(host)) == members for host in GATEWAYS), 30.0, "as many members as before")
    for kind in ("demux", "keyd", "agent", "supervisor"):
        until(lambda kind=kind: not mapped(pair, "gw1", kind, last), what=f"{kind} has let go of it")  # type: ignore[misc]
    wait_carried_by(pair, members)
    until(
        lambda: (
            {
                host: {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pair.pids(host).items()}
                for host in GATEWAYS
            }
            == held
        ),
        what="descriptors as before",
    )
