"""Minutes under load: the memory and the descriptors of every process stay where they are; loss does not add delay."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, assert_books_balance, ended, until

from fwd.lab import traffic

SECONDS = float(os.environ.get("FWD_LONG_SECONDS", "600"))
MEMORY_KIB_MAX = 40 * 1024
GROWTH_KIB_MAX = 512  # between the first and the last third of the run
DELAY_MS_MAX = 5.0
RESULT = Path(__file__).parents[2] / "build" / "long-soak.json"


def private_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", rollup, re.MULTILINE))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def processes(pair: Pair) -> dict[str, int]:
    found = {f"{host}/{name}": pid for host in ("gw1", "gw2") for name, pid in pair.pids(host).items()}
    return found | {f"{host}/supervisor": process.pid for host, process in pair.running.items()}


@pytest.mark.timeout(SECONDS + 240)
def test_memory_and_descriptors_are_flat_under_load(pairs: MakePair) -> None:
    pair = pairs([{"members": 4}])
    pids = processes(pair)
    memory: dict[str, list[int]] = defaultdict(list)
    held: dict[str, list[int]] = defaultdict(list)
    server = traffic.start_server(pair.topology, "client2")
    client = traffic.start_client(
        pair.topology, "client1", pair.topology.address("client2"), streams=8, seconds=SECONDS + 60
    )
    with ended(server), ended(client):
        until(lambda: pair.peering("gw1")["demux"]["records"] > 1000, what="load")
        start = time.monotonic()
        period = SECONDS / 60
        for sample in range(60):
            until(lambda sample=sample: time.monotonic() >= start + sample * period, period + 30)  # type: ignore[misc]
            assert client.poll() is None, "iperf3 has ended"
            for name, pid in pids.items():
                memory[name].append(private_kib(pid))
                held[name].append(descriptors(pid))
    assert processes(pair) == pids, "a process was replaced"
    result = {
        "seconds": SECONDS,
        "private_kib": {n: {"first": v[:20], "last": v[-20:], "highest": max(v)} for n, v in memory.items()},
        "descriptors": {n: sorted(set(v)) for n, v in held.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for name, kib in memory.items():
        assert max(kib) < MEMORY_KIB_MAX, (name, max(kib))
        # The first samples are of a process that still touches its memory for the first time.
        early, late = statistics.median(kib[10:30]), statistics.median(kib[-20:])
        assert late - early <= GROWTH_KIB_MAX, (name, early, late)
    for name, counts in held.items():
        # The agent and the supervisor hold one more while somebody asks for the status.
        assert max(counts) - min(counts) <= 1, (name, counts)
    for books in pair.wait_quiet():
        assert_books_balance(books)


@pytest.mark.timeout(300)
def test_loss_on_an_idle_tunnel_adds_no_delay(pairs: MakePair) -> None:
    """One packet a second, every fifth ESP packet lost: what arrives takes less than 5 ms longer than without loss."""
    pair = pairs()
    for host in ("gw1", "gw2"):
        pair.topology.ethtool(host, "wan", "tx-udp-segmentation", False)
    quiet = round_trips_ms(pair, count=20)
    with (
        pair.rule("gw2", "prerouting", "udp dport 4500-4501 numgen random mod 5 == 0 drop"),
        pair.rule("gw1", "prerouting", "udp dport 4500-4501 numgen random mod 5 == 0 drop"),
    ):
        lossy = round_trips_ms(pair, count=60)
    assert len(quiet) == 20
    assert 5 <= len(lossy) < 60
    assert statistics.median(lossy) - statistics.median(quiet) < DELAY_MS_MAX, (quiet, lossy)


def round_trips_ms(pair: Pair, count: int) -> list[float]:
    shown = pair.topology.ping_output("-i", "1", "-s", "3000", count=count).stdout
    return [float(ms) for ms in re.findall(r"time=([\d.]+) ms", shown)]
