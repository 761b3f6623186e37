"""Keys under load for minutes: rekeyed every 2 s, members and keyd killed, a flood of attempts to begin IKE.

Load is paced below what the machine carries, so that nothing is dropped for want of room: then every numbered probe
that is lost was lost to what is tested. Should a machine that is busy with other things drop some all the same, they
stand in the books as such (CONGESTION), and no more than those may be missing.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from gwkit import MakePair, Pair, ended, until
from test_soak import descriptors, private_kib

from fwd.lab import traffic, verdict
from fwd.lab.topology import GATEWAYS
from fwd.proto.ike.limits import HALF_OPEN_COOKIES

SECONDS = int(os.environ.get("FWD_LONG_KEYS_S", "60"))
KEYD_KILLS = int(os.environ.get("FWD_LONG_KEYD_KILLS", "20"))
MEMBER_KILLS = int(os.environ.get("FWD_LONG_KILLS", "100"))
MEMBERS, STREAMS, MBPS = 4, 8, 20
SPARES = 2
CHILDREN = (1 + SPARES) * MEMBERS
GROWTH_KIB_MAX = 512
NEW_SPARE_S = 1.0
FLOOD_S, FLOOD_PER_S, ROUNDS = 10, 1000, 3
BUILD = Path(__file__).parents[2] / "build"


@contextmanager
def load(pair: Pair, seconds: float) -> Iterator[None]:
    """Paced TCP streams that outlast the block."""
    topology = pair.topology
    server = traffic.start_server(topology, "client2")
    to = topology.address("client2")
    client = traffic.start_client(topology, "client1", to, streams=STREAMS, seconds=seconds, mbps=MBPS)
    with ended(server), ended(client):
        yield
        assert client.poll() is None, "iperf3 has ended"


def make(pairs: MakePair, **peering: Any) -> Pair:
    return pairs([{"members": MEMBERS, **peering}], keys={"source": "psk"})


def children(pair: Pair, host: str) -> list[str]:
    """Inbound SPIs of a gateway's Child SAs."""
    return [child["spi_in"] for sa in pair.peering(host)["ike_sas"] for child in sa["children"]]


def out_spis(pair: Pair, host: str) -> list[str]:
    return [child["spi_out"] for sa in pair.peering(host)["ike_sas"] for child in sa["children"]]


def spares(pair: Pair, host: str, index: int) -> int:
    """Child SAs of a member on which it has never sent."""
    used = {entry["spi"] for entry in pair.member(host, index)["ledger"]}
    held = [child for sa in pair.peering(host)["ike_sas"] for child in sa["children"] if child["member"] == index]
    return sum(child["spi_out"] not in used for child in held)


def nonce_conflicts(pair: Pair) -> int:
    return sum(verdict.ledger_conflicts(pair.peering(host)["members"]) for host in GATEWAYS)


def sizes(pair: Pair) -> dict[str, tuple[int, int]]:
    """Private memory in KiB, and descriptors, of keyd and the members."""
    pids = {f"{host}/{name}": pid for host in GATEWAYS for name, pid in pair.pids(host).items()}
    wanted = {name: pid for name, pid in pids.items() if "keyd" in name or "member" in name}
    return {name: (private_kib(pid), descriptors(pid)) for name, pid in wanted.items()}


def write(name: str, result: dict[str, Any]) -> None:
    BUILD.mkdir(exist_ok=True)
    (BUILD / name).write_text(json.dumps(result, indent=1) + "\n")


@pytest.mark.timeout(SECONDS + 180)
def test_rekeying_every_two_seconds_loses_nothing_and_nothing_grows(pairs: MakePair) -> None:
    pair = make(pairs, rekey_time=2)
    until(pair.ping, 5.0, "first ping")
    with pair.probes(pair.flow_ports(MEMBERS), seconds=SECONDS + 60) as got, load(pair, SECONDS + 60):
        time.sleep(SECONDS / 3)
        early = sizes(pair)
        time.sleep(SECONDS * 2 / 3)
        late = sizes(pair)
        held = {host: len(children(pair, host)) for host in GATEWAYS}
    used = {host: [len(m["ledger"]) for m in pair.peering(host)["members"]] for host in GATEWAYS}
    growth = {name: late[name][0] - early[name][0] for name in early}
    lost = {port: arrived.lost for port, arrived in got.items()}
    congested = pair.congested()
    result = {
        "seconds": SECONDS,
        "lost": lost,
        "congestion_drops": congested,
        "probes": {port: arrived.received for port, arrived in got.items()},
        "sas_used": used,
        "children_held": held,
        "growth_kib": growth,
        "key_drops": pair.key_drops(),
    }
    write("long-rekey.json", result)
    assert sum(lost.values()) <= congested, result
    assert not pair.key_drops(), result
    assert nonce_conflicts(pair) == 0
    assert all(count > SECONDS / 4 for counts in used.values() for count in counts), result
    # Beside the pairs that there always are, those of the last seconds, which are still accepted.
    assert all(CHILDREN <= count <= 2 * CHILDREN for count in held.values()), result
    assert all(kib <= GROWTH_KIB_MAX for kib in growth.values()), result
    assert all(late[name][1] == early[name][1] for name in early), result


@pytest.mark.timeout(MEMBER_KILLS * 5 + 120)
def test_members_killed_a_hundred_times_have_new_spares_within_a_second(pairs: MakePair) -> None:
    pair = make(pairs)
    until(pair.ping, 5.0, "first ping")
    waits = []
    with load(pair, MEMBER_KILLS * 4 + 60):
        for i in range(MEMBER_KILLS):
            host, index = GATEWAYS[i % 2], i // 2 % MEMBERS
            sent = pair.member(host, index)["spi_out"]
            pid = pair.kill(host, f"member-{index}")
            killed = time.monotonic()
            pair.wait_replaced(host, f"member-{index}", pid)

            def restored(host: str = host, index: int = index, sent: str = sent) -> bool:
                return pair.member(host, index)["spi_out"] != sent and spares(pair, host, index) >= SPARES

            until(restored, 5.0, "a new spare")
            waits.append(time.monotonic() - killed)
            time.sleep(max(0.0, killed + 0.7 - time.monotonic()))  # longer than what the watchdog calls a short life
        until(
            lambda: all(len(children(pair, host)) <= CHILDREN + MEMBERS for host in GATEWAYS), 20.0, "old SAs deleted"
        )
        assert sorted(children(pair, "gw1")) == sorted(out_spis(pair, "gw2")), "both have the same"
    write("long-spares.json", {"kills": MEMBER_KILLS, "median_s": statistics.median(waits), "longest_s": max(waits)})
    assert max(waits) < NEW_SPARE_S
    assert not pair.key_drops()
    assert nonce_conflicts(pair) == 0


@pytest.mark.timeout(KEYD_KILLS * 10 + 300)
def test_keyd_killed_and_then_away_for_a_minute_is_not_noticed(pairs: MakePair) -> None:
    pair = make(pairs, rekey_time=10)
    until(pair.ping, 5.0, "first ping")
    seconds = KEYD_KILLS * 4 + 180
    with pair.probes(pair.flow_ports(MEMBERS), seconds=seconds) as got, load(pair, seconds):
        for i in range(KEYD_KILLS):
            host = GATEWAYS[i % 2]
            pid = pair.kill(host, "keyd")
            pair.wait_replaced(host, "keyd", pid)
            time.sleep(1.5)
        away_until = time.monotonic() + 60
        while time.monotonic() < away_until:
            if pid := pair.pids("gw1")["keyd"]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        old = {host: {m["spi_out"] for m in pair.peering(host)["members"]} for host in GATEWAYS}

        def all_renewed() -> bool:
            now = {host: {m["spi_out"] for m in pair.peering(host)["members"]} for host in GATEWAYS}
            return all(not old[host] & now[host] for host in GATEWAYS)

        start = time.monotonic()
        until(all_renewed, 60.0, "rekeys made up for")
        took = time.monotonic() - start
    lost = {port: arrived.lost for port, arrived in got.items()}
    congested = pair.congested()
    result = {"kills": KEYD_KILLS, "lost": lost, "congestion_drops": congested, "made_up_after_s": round(took, 1)}
    write("long-keyd.json", result)
    assert sum(lost.values()) <= congested, result
    assert not pair.key_drops()
    assert nonce_conflicts(pair) == 0


def flood(pair: Pair, port: int, sources: list[str]) -> subprocess.Popen[str]:
    """Attempts to begin IKE with gw1 for FLOOD_S."""
    argv = [
        sys.executable,
        "-P",
        "-m",
        "fwd.lab.flood",
        "begin",
        "--to",
        pair.topology.outer("gw1"),
        "--port",
        str(port),
    ]
    argv += ["--rate", str(FLOOD_PER_S), "--count", str(FLOOD_PER_S * FLOOD_S)]
    argv += ["--sources", *sources] if sources else []
    found: subprocess.Popen[str] = pair.topology.popen("gw2", argv, stdout=subprocess.PIPE, text=True)
    return found


def connecting(pair: Pair) -> int:
    """Half-open IKE SAs of gw1."""
    found: int = pair.peering("gw1")["ike_half_open"]
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("whose", ["anybody's", "the peer's"])
def test_a_flood_of_attempts_leaves_no_state_and_tunnels_carry_on(pairs: MakePair, whose: str) -> None:
    """1,000 a second from many addresses, or from many ports of the peer's own, which are answered with cookies."""
    pair = make(pairs)
    until(pair.ping, 5.0, "first ping")
    sources = [pair.topology.outer("gw2")] if whose == "the peer's" else []
    keyd = pair.pids("gw1")["keyd"]
    before = private_kib(keyd)
    carried: dict[str, list[float]] = {"IKE": [], "closed": []}
    half_open: dict[str, list[int]] = {"IKE": [], "closed": []}
    for _ in range(ROUNDS):
        for name, port in (("IKE", 500), ("closed", 501)):
            with ended(flood(pair, port, sources)) as attack:
                carried[name].append(traffic.run(pair.topology, streams=4, seconds=FLOOD_S - 2).received_mbps)
                half_open[name].append(connecting(pair))
                assert int(attack.communicate(timeout=30)[0]) == FLOOD_PER_S * FLOOD_S
    kept = statistics.median(carried["IKE"]) / statistics.median(carried["closed"])
    growth = private_kib(keyd) - before
    result = {"kept": round(kept, 3), "mbps": carried, "half_open": half_open, "growth_kib": growth}
    write(f"long-flood-{'peer' if sources else 'anybody'}.json", result)
    assert pair.pids("gw1")["keyd"] == keyd
    assert max(half_open["IKE"]) == (HALF_OPEN_COOKIES if sources else 0), result
    assert growth <= GROWTH_KIB_MAX, result
    assert kept > 0.8, result
    assert not pair.key_drops()
