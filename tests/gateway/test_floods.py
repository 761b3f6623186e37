"""Strangers' datagrams cost neither a process nor its memory, and keep nobody from connecting. tests/long measures what
they cost the tunnels."""

from __future__ import annotations

import time

import pytest
from floodkit import CONNECT_S, FLOODS, KEYD_MIB_MAX, Flood, flooded, peak_mib, restarts, time_to_connect
from gwkit import MakePair, Pair, until

pytestmark = pytest.mark.alone
SECONDS = 0.5


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs(keys={"source": "psk"})


@pytest.mark.parametrize("flood", FLOODS, ids=str)
def test_a_flood_kills_nothing_and_an_honest_peer_connects(pair: Pair, flood: Flood) -> None:
    until(pair.ping, 5.0, "first ping")
    keyd, restarted = pair.pids("gw1")["keyd"], restarts(pair.status("gw1"))
    with flooded(pair, flood, SECONDS + 30) as attack:
        time.sleep(SECONDS)
        assert pair.ping(count=3), "the tunnel carries"
        waited_s = time_to_connect(pair)
        assert attack.poll() is None, "the flood lasted until the peer had connected"
    assert restarts(pair.status("gw1")) == restarted, pair.log("gw1")
    assert pair.pids("gw1")["keyd"] == keyd
    assert peak_mib(keyd) < KEYD_MIB_MAX
    assert waited_s < CONNECT_S
