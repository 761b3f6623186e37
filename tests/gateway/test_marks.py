"""DSCP and ECN across the tunnels (RFC 6040): what the outer header says of the inner one, and back."""

from __future__ import annotations

import pytest
from gwkit import MakePair, Pair

ESP = "udp dport 4500-4501"
AF41, NOT_ECT, ECT0, CE = 0x88, 0, 2, 3


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Pair:
    return module_pairs([{"payload": request.param}])


@pytest.fixture(scope="module")
def esp(module_pairs: MakePair) -> Pair:
    return module_pairs([{"payload": "esp"}])


def test_dscp_is_copied_to_the_outer_header(pair: Pair) -> None:
    with pair.rule("gw2", "prerouting", f"{ESP} ip dscp af41 counter", f"{ESP} ip dscp cs0 counter") as counted:
        assert pair.ping("-Q", hex(AF41), count=5)
        marked = counted()[0]
        assert marked >= 5
        assert pair.ping("-Q", "0", count=5)
        assert counted()[0] == marked
        assert counted()[1] >= 5


def test_inner_dscp_and_ecn_arrive_as_sent(pair: Pair) -> None:
    with pair.rule("client2", "input", "icmp type echo-request ip dscp af41 ip ecn ect0 counter") as counted:
        assert pair.ping("-Q", hex(AF41 | ECT0), count=5)
        assert counted() == [5]


def test_outer_ecn_is_copied_in_esp_and_absent_in_superpacket(pair: Pair) -> None:
    rules = [f"{ESP} ip dscp af41 ip ecn {word} counter" for word in ("not-ect", "ect0")]
    with pair.rule("gw2", "prerouting", *rules) as counted:
        assert pair.ping("-Q", hex(AF41 | ECT0), count=5)
        bare, ect0 = counted()
    assert (bare, ect0) == ((0, 5) if pair.peering("gw1")["payload"] == "esp" else (5, 0))


def test_a_congestion_mark_on_the_wire_reaches_the_inner_packet_in_esp(esp: Pair) -> None:
    with (
        esp.rule("gw2", "prerouting", f"{ESP} ip ecn ect0 ip ecn set ce"),
        esp.rule("client2", "input", "icmp type echo-request ip ecn ce counter") as counted,
    ):
        assert esp.ping("-Q", hex(ECT0), count=5)
        assert counted() == [5]


def test_a_congestion_mark_on_a_packet_that_cannot_carry_it_drops_it(esp: Pair) -> None:
    """RFC 6040 §4.2: outer CE, inner Not-ECT."""
    before = esp.drops("gw2")["ecn_ce_lost"]
    with esp.rule("gw2", "prerouting", f"{ESP} ip ecn not-ect ip ecn set ce"):
        assert not esp.ping()
    assert esp.drops("gw2")["ecn_ce_lost"] > before
    assert esp.ping()


def test_superpacket_does_not_suffer_from_marks(module_pairs: MakePair) -> None:
    """The outer header is Not-ECT; a mark that somebody sets nevertheless changes no inner packet."""
    pair = module_pairs()
    with (
        pair.rule("gw2", "prerouting", f"{ESP} ip ecn set ce"),
        pair.rule("client2", "input", "icmp type echo-request ip ecn not-ect counter") as counted,
    ):
        assert pair.ping("-Q", "0", count=5)
        assert counted() == [5]
