"""The number of members changes while traffic flows: new ones take what is idle, leaving ones keep what is busy."""

from __future__ import annotations

import os
import time

import pytest
from gwkit import MakePair, Pair, assert_books_balance, until
from test_reload import ONE

from fwd.lab.topology import GATEWAYS

pytestmark = pytest.mark.alone
DEADLINE_S = 3


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
    # Few flows: on a busy machine the TUN device's queue is to hold what comes while the demux waits for a core.
    before, ports = stay(pair), pair.flow_ports(6)
    with pair.capture() as seen:
        with pair.probes(ports[:1]) as got:
            owned = [(m["index"], m["pid"], m["spi_out"]) for m in pair.members("gw1")]
            resize(pair, 6)
            wait_carried_by(pair, 6)
        assert [(a.lost, a.inversions, a.duplicates) for a in got.values()] == [(0, 0, 0)]
        assert [(m["index"], m["pid"], m["spi_out"]) for m in pair.members("gw1")[:2]] == owned

        with pair.probes([ports[0], ports[5]]) as got:
            resize(pair, 3, "gw1")
            began = time.monotonic()
            busy = [m for m in pair.members("gw1") if m["draining"]]
            assert [m["index"] for m in busy] == [3, 4, 5]
            until(lambda: not any(m["buckets"] for m in pair.members("gw1")[3:]), 20.0, "busy buckets have moved")
            assert time.monotonic() - began > DEADLINE_S - 1.0, "a busy bucket moved before the deadline"
            until(lambda: len(pair.members("gw1")) == 3, 30.0, "three members are left")
            wait_carried_by(pair, 3)
            assert len(pair.members("gw2")) == 6, "the far gateway keeps its own, without partners"
            pair.wait_ready()
            resize(pair, 3, "gw2")
            until(lambda: len(pair.members("gw2")) == 3, 30.0, "three members are left")
        assert [(a.lost, a.inversions, a.duplicates) for a in got.values()] == [(0, 0, 0)] * 2
    assert seen["repeated_nonces"] == 0, seen
    assert stay(pair) == before, "keyd and demux are the same processes"
    for books in pair.wait_quiet():
        assert_books_balance(books)
    resize(pair, 2)
    until(lambda: all(len(pair.members(host)) == 2 for host in GATEWAYS), 30.0, "two members")


def test_what_has_left_leaves_nothing_behind(pair: Pair) -> None:
    wait_carried_by(pair, 2)
    held = {
        host: {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pair.pids(host).items()} for host in GATEWAYS
    }
    resize(pair, 4)
    wait_carried_by(pair, 4)
    assert mapped(pair, "gw1", "demux", 3)
    resize(pair, 2)
    until(lambda: all(len(pair.members(host)) == 2 for host in GATEWAYS), 30.0, "two members")
    for kind in ("demux", "keyd", "agent", "supervisor"):
        until(lambda kind=kind: not mapped(pair, "gw1", kind, 3), what=f"{kind} has let go of it")  # type: ignore[misc]
    wait_carried_by(pair, 2)
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
