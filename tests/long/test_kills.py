"""A member killed a hundred times under load: no nonce twice, no TCP connection lost, every silence short."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, ended, until

from fwd.lab import probe, probing, traffic, verdict

KILLS = int(os.environ.get("FWD_LONG_KILLS", "100"))
MEMBERS, STREAMS = 4, 8
GAP_MS_MAX, MEDIAN_MS_MAX = 1000.0, 200.0
LIFE_S = 0.6  # of a member before it is killed again: longer than what the watchdog calls a short life
WITHIN_NS = int(LIFE_S * 1e9)  # of a kill its silence begins, before the next kill makes another
RESULT = Path(__file__).parents[2] / "build" / "long-kill.json"


def kill_again_and_again(pair: Pair, client: subprocess.Popen[str]) -> list[int]:
    """Member 0 of gw1 and of gw2 in turn; the times of the kills in ns."""
    killed_ns = []
    for i in range(KILLS):
        host = ("gw1", "gw2")[i % 2]
        records = pair.member("gw2", 0)["in"]["records"]
        start = time.monotonic()
        until(
            lambda records=records, start=start: (  # type: ignore[misc]
                time.monotonic() - start > LIFE_S and pair.member("gw2", 0)["in"]["records"] > records + 100
            ),
            what="member 0 carries traffic",
        )
        assert client.poll() is None, "iperf3 has ended"
        killed_ns.append(time.time_ns())
        pid = pair.kill(host, "member-0")
        until(lambda host=host, pid=pid: pair.pids(host)["member-0"] not in (0, pid))  # type: ignore[misc]
    return killed_ns


@pytest.mark.timeout(900)
def test_a_hundred_kills_under_load(pairs: MakePair, tmp_path: Path) -> None:
    pair = pairs([{"members": MEMBERS}])
    topology, magic = pair.topology, os.urandom(16).hex()
    seconds = KILLS * 4.0 + 30
    port = pair.flow_ports(MEMBERS)[0]
    with (
        pair.capture(marker=bytes.fromhex(magic)) as wire,
        probing.probing(topology, tmp_path, [port], seconds, magic=magic) as probes,
    ):
        resets = traffic.tcp_resets(topology)
        server = traffic.start_server(topology, "client2")
        client = traffic.start_even(topology, members=MEMBERS, streams=STREAMS, seconds=seconds)
        with ended(server), ended(client):
            killed_ns = kill_again_and_again(pair, client)
            until(lambda: pair.ready("gw1") and pair.ready("gw2"), what="both ready after the last kill")
            resets = traffic.tcp_resets(topology) - resets
            end_ns = time.time_ns()
        probes.end()
        times_ns = probes.arrivals[port][1]
    gaps = probe.silences_ms(times_ns, killed_ns, WITHIN_NS, end_ns)
    conflicts = sum(verdict.ledger_conflicts(pair.peering(host)["members"]) for host in ("gw1", "gw2"))
    result = {
        "kills": KILLS,
        "median_gap_ms": statistics.median(gaps),
        "longest_gap_ms": max(gaps),
        "gaps_ms": gaps,
        "tcp_resets": resets,
        "repeated_nonces": wire["repeated_nonces"] + conflicts,
        "plaintext_packets_on_wire": wire["plaintext_packets"],
        "esp_packets": wire["esp_packets"],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    assert result["repeated_nonces"] == 0
    assert result["tcp_resets"] == 0
    assert result["plaintext_packets_on_wire"] == 0
    assert max(gaps) < GAP_MS_MAX
    assert statistics.median(gaps) < MEDIAN_MS_MAX
