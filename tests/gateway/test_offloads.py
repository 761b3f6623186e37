"""The same traffic when the wire is not the comfortable one of veth: no segmentation offload below, or GRO above."""

from __future__ import annotations

import pytest
from gwkit import TCP_MBPS_MIN, MakePair, Pair, assert_books_balance

PAYLOADS = ["superpacket", "esp"]


@pytest.fixture(scope="module", params=PAYLOADS)
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Pair:
    return module_pairs([{"payload": request.param}])


@pytest.fixture(params=["tx-udp-segmentation off", "gro on", "both"])
def wire(request: pytest.FixtureRequest, pair: Pair) -> None:
    """How both WAN devices are set."""
    for host in ("gw1", "gw2"):
        pair.topology.ethtool(host, "wan", "tx-udp-segmentation", request.param == "gro on")
        pair.topology.ethtool(host, "wan", "gro", request.param != "tx-udp-segmentation off")


@pytest.mark.usefixtures("wire")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_tcp_and_pings(pair: Pair, reverse: bool) -> None:
    host = "client2" if reverse else "client1"
    assert pair.tcp(reverse=reverse) > TCP_MBPS_MIN
    pair.wait_quiet()  # what the streams left in full queues would cost one of the ping's many fragments
    assert pair.ping("-s", "65000", host=host), [
        {reason: n for reason, n in pair.drops(gateway).items() if n} for gateway in ("gw1", "gw2")
    ]
    assert pair.ping(host=host, count=3)
    for books in pair.wait_quiet():
        assert_books_balance(books)


def test_an_egress_without_checksum_offload(pairs: MakePair) -> None:
    """Older kernels refuse UDP_SEGMENT there (EIO), and the member sends one by one; newer ones sum themselves."""
    pair = pairs()
    pair.topology.ethtool("gw1", "wan", "tx-checksumming", False)
    assert pair.ping("-s", "65000")
    assert pair.tcp() > TCP_MBPS_MIN
    assert pair.drops("gw1")["send_failed"] == 0
    assert pair.drops("gw2")["bad_icv"] == 0
