"""Far gateways come and go while traffic flows: whose members stay keeps its SAs and flows, others come and drain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from gwkit import Json, MakePair, Pair, assert_books_balance, until
from streamkit import streams

from fwd.lab import traffic
from fwd.lab.world import Pairing

DEADLINE_S = 3
RATE_HZ = 200.0  # so few that the TUN device's queue holds two seconds of them: nothing is lost to a busy machine
EACH = 2  # members for each far gateway


class Changing(Pair):
    """gw1, and as its far gateways some of the others, which share a LAN. client2 answers by way of gw2."""

    far: tuple[str, ...] = ("gw2",)

    def _peering(self, host: str, pairing: Pairing, index: int, table: Mapping[str, Any]) -> Mapping[str, Any]:
        made = super()._peering(host, pairing, index, table)
        if host != "gw1":
            return made
        return {**made, "remote_addrs": [self.topology.outer(far) for far in self.far], "members": EACH * len(self.far)}

    def wait_ready(self, *hosts: str, seconds: float = 60.0) -> None:
        """Wait until gw1 is, and who it has; others wait for it."""
        super().wait_ready(*(hosts or ("gw1", *self.far)), seconds=seconds)

    def wants(self, *far: str) -> None:
        self.far = far
        self.write_config("gw1")
        self.reload("gw1")

    def wait_for(self, *far: str, seconds: float = 60.0) -> None:
        """gw1 has members with all these, and no others."""

        def there() -> bool:
            members = {member["index"]: member for member in self.members("gw1")}
            ends = self.peering("gw1")["far"]
            wanted = [(self.topology.outer(one), "up", EACH) for one in far]
            carry = [members[i]["buckets"] for end in ends for i in end["members"] if i in members]
            return [(end["address"], end["state"], len(end["members"])) for end in ends] == wanted and all(carry)

        until(there, seconds, f"gw1 with {far}")

    def with_far(self, far: str) -> dict[int, Json]:
        """The members of gw1 that are paired with it."""
        (one,) = [one for one in self.peering("gw1")["far"] if one["address"] == self.topology.outer(far)]
        members = {member["index"]: member for member in self.members("gw1")}
        return {index: members[index] for index in one["members"]}

    def kept(self, far: str) -> dict[int, tuple[Any, ...]]:
        """What those of its members that stay must not change."""
        ike = [
            sa["spi_i"]
            for sa in self.peering("gw1")["ike_sas"]
            if sa["remote"].startswith(self.topology.outer(far) + ":")
        ]
        return {index: (one["pid"], one["port"], one["spi_out"], *ike) for index, one in self.with_far(far).items()}


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Changing:
    pair = module_pairs(
        [{"payload": request.param, "drain_deadline": DEADLINE_S}], kind=Changing, keys={"source": "psk"},
        lab={"sites": {"vpc1": 1, "vpc2": 3}},
    )  # fmt: skip
    assert isinstance(pair, Changing)
    return pair


def test_far_gateways_come_and_go_beside_busy_flows(pair: Changing) -> None:
    pair.wait_for("gw2")
    until(lambda: pair.peering("gw1")["ike_sas"], what="it is shown whose keys they are")
    kept, pids = pair.kept("gw2"), pair.pids("gw1")
    flows, said = pair.flow_ports(8)[:6], list[str]()
    with pair.capture() as seen, pair.probes(flows, rate_hz=RATE_HZ / 2) as got, streams(pair, said):
        resets = traffic.connections_reset(pair.topology)
        for far in [("gw2", "gw3"), ("gw2", "gw3", "gw4"), ("gw2", "gw4"), ("gw2", "gw4", "gw3"), ("gw2",)]:
            pair.wants(*far)
            pair.wait_for(*far)
            assert pair.kept("gw2") == kept
        resets = traffic.connections_reset(pair.topology) - resets
    assert [(a.lost, a.inversions, a.duplicates) for a in got.values()] == [(0, 0, 0)] * 6
    assert (resets, seen["repeated_nonces"], set(said)) == (0, 0, {"done"})
    assert {name: pid for name, pid in pair.pids("gw1").items() if name in pids} == pids
    until(lambda: len(pair.members("gw1")) == EACH, 20.0, "nothing is left of the others")
    (books,) = pair.wait_quiet("gw1")
    assert_books_balance(books)
