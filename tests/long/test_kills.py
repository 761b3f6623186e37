"""A member killed a hundred times under load: no nonce twice, no TCP connection lost, every silence short."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gwkit import PROBE_PORT, MakePair, Pair, ended, until

from fwd.lab import flows, traffic, verdict
from fwd.lab.topology import Topology

KILLS = int(os.environ.get("FWD_LONG_KILLS", "100"))
MEMBERS, STREAMS = 4, 8
GAP_MS_MAX, MEDIAN_MS_MAX = 1000.0, 200.0
LIFE_S = 0.6  # of a member before it is killed again: longer than what the watchdog calls a short life
RESULT = Path(__file__).parents[2] / "build" / "long-kill.json"


def start_streams(topology: Topology, seconds: float) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    source, to = topology.address("client1"), topology.address("client2")
    member = flows.member_of_flow(MEMBERS)
    first = flows.evenest_run(
        lambda port: member(source, port, to, traffic.SERVER_PORT, 6), MEMBERS, STREAMS, range(30000, 31000)
    )
    server = traffic.start_server(topology, "client2")
    client = traffic.start_client(topology, "client1", to, streams=STREAMS, seconds=seconds, first_source_port=first)
    return server, client


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


def gaps_ms(arrivals: Path, killed_ns: list[int]) -> list[float]:
    """The longest silence after each kill, before the next."""
    times = np.fromfile(arrivals, np.int64).reshape(-1, 2)[:, 1]
    edges = [*killed_ns, int(times[-1])]
    found = []
    for start, end in itertools.pairwise(edges):
        first = max(0, int(np.searchsorted(times, start)) - 1)
        window = times[first : int(np.searchsorted(times, end)) + 1]
        found.append(round(float(np.diff(window).max()) / 1e6, 3))
    return found


@pytest.mark.timeout(900)
def test_a_hundred_kills_under_load(pairs: MakePair, tmp_path: Path) -> None:
    pair = pairs([{"members": MEMBERS}])
    topology, magic = pair.topology, os.urandom(16)
    seconds = KILLS * 4.0 + 30
    port = pair.flow_ports(MEMBERS)[0]
    note = [sys.executable, str(Path(__file__).with_name("arrivals.py")), str(PROBE_PORT), magic.hex()]
    send = [sys.executable, "-P", "-m", "fwd.lab.probe", "send", "--to", f"{topology.address('client2')}:{PROBE_PORT}"]
    send += ["--from-port", str(port), "--magic", magic.hex(), "--seconds", str(seconds)]
    arrivals = tmp_path / "arrivals"
    with (
        pair.capture(marker=magic) as wire,
        ended(
            topology.popen("client2", [*note, str(arrivals)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ) as receiver,
    ):
        assert receiver.stdout is not None
        assert receiver.stdin is not None
        assert receiver.stdout.readline() == b"ready\n"
        resets = traffic.tcp_resets(topology)
        server, client = start_streams(topology, seconds)
        with ended(server), ended(client), ended(topology.popen("client1", send, stdout=subprocess.DEVNULL)):
            killed_ns = kill_again_and_again(pair, client)
            until(lambda: pair.ready("gw1") and pair.ready("gw2"), what="both ready after the last kill")
            resets = traffic.tcp_resets(topology) - resets
        receiver.stdin.close()
        assert receiver.wait(10) == 0
    gaps = gaps_ms(arrivals, killed_ns)
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
        "capture_drops": wire["capture_drops"],
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    assert result["repeated_nonces"] == 0
    assert result["tcp_resets"] == 0
    assert result["plaintext_packets_on_wire"] == 0
    assert max(gaps) < GAP_MS_MAX
    assert statistics.median(gaps) < MEDIAN_MS_MAX
