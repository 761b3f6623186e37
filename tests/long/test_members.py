"""Members 2 → 6 → 3 → 2 again and again under TCP streams and numbered probes: nothing is lost, reordered or reset."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, assert_books_balance, until
from streamkit import streams

from fwd.lab import traffic
from fwd.lab.topology import GATEWAYS

TIMES = int(os.environ.get("FWD_LONG_MEMBERS", "20"))
DEADLINE_S = 8
BUILD = Path(__file__).parents[2] / "build"


def write(pair: Pair, members: int) -> None:
    pair.peerings[0]["members"] = members
    for host in GATEWAYS:
        pair.write_config(host)
        pair.reload(host)


def wait_for(pair: Pair, count: int) -> None:
    """So many members carry, and there are no others."""

    def carry(host: str) -> bool:
        there = pair.members(host)
        return len(there) == count and all(m["buckets"] and m["spi_out"] for m in there)

    for host in GATEWAYS:
        until(lambda host=host: carry(host), 60.0, f"{host}: {count} members carry")  # type: ignore[misc]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_members_come_and_go_again_and_again(pairs: MakePair, payload: str) -> None:
    peering = {"payload": payload, "members": 2, "drain_deadline": DEADLINE_S}
    pair = pairs([peering], keys={"source": "psk"})
    wait_for(pair, 2)
    keyds, said = [pair.pids(host)["keyd"] for host in GATEWAYS], list[str]()
    with pair.capture() as wire, pair.probes(pair.flow_ports(2)[:1], seconds=3500.0) as got, streams(pair, said):
        resets = traffic.connections_reset(pair.topology)
        for _ in range(TIMES):
            write(pair, 6)
            wait_for(pair, 6)
            write(pair, 3)
            wait_for(pair, 3)
            write(pair, 2)
            wait_for(pair, 2)
        resets = traffic.connections_reset(pair.topology) - resets

    lost, inversions = sum(one.lost for one in got.values()), sum(one.inversions for one in got.values())
    result = {
        "changes": TIMES * 3, "lost": lost, "inversions": inversions, "resets": resets,
        "repeated_nonces": wire["repeated_nonces"], "streams": said.count("done"),
        "wrong": [one for one in said if one != "done"],
        "drops": [{why: count for why, count in pair.drops(host).items() if count} for host in GATEWAYS],
    }  # fmt: skip
    BUILD.mkdir(exist_ok=True)
    (BUILD / f"long-members.{payload}.json").write_text(json.dumps(result, indent=1) + "\n")
    assert (lost, inversions, resets, wire["repeated_nonces"], result["wrong"]) == (0, 0, 0, 0, [])
    assert said.count("done") > 0
    assert [pair.pids(host)["keyd"] for host in GATEWAYS] == keyds
    for books in pair.wait_quiet():
        assert_books_balance(books)
