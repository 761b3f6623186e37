"""Trouble stays with its child or its peering: whatever call of the supervisor's loop fails, the gateway lives."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from gwkit import Json, MakePair, Pair, until

ONE = {"subnets": {"gw1": ["10.1.0.0/24"], "gw2": ["10.2.0.0/24"]}, "payload": "esp", "drain_deadline": 1}
TWO = {"subnets": {"gw1": ["10.11.0.0/24"], "gw2": ["10.12.0.0/24"]}, "tun": "fwd1", "port": 4600}
INJECTING = Path(__file__).with_name("injecting.py")
NUMBERS = (signal.SIGKILL, 35, signal.SIGSTOP, signal.SIGABRT)  # a signal without a name among them
LONG = [pytest.mark.long, pytest.mark.timeout(600)]
LIMIT_S = 120.0
# Where calls fail, for how long at least, and how many at least. The long form reaches every place.
FORMS = [
    ("turns", 0.0, 50),
    ("changes", 0.0, 50),
    pytest.param("turns", 200.0, 100, marks=LONG),
    pytest.param("changes", 300.0, 150, marks=LONG),
]


def two_peerings(pairs: MakePair) -> Pair:
    pair = pairs(start=False)
    pair.add_second_subnets()
    pair.peerings = [ONE, TWO]
    return pair


def guards(pair: Pair) -> tuple[list[str], list[str]]:
    """gw1's tables and guard routes."""
    tables = pair.topology.run("gw1", ["nft", "list", "tables"]).stdout.splitlines()
    routes = pair.topology.run("gw1", ["ip", "route", "show", "type", "unreachable"]).stdout.splitlines()
    return sorted(line for line in tables if "fwd_" in line), sorted(line.split()[1] for line in routes)


def places(record: Path) -> list[str]:
    """Where calls have failed."""
    return record.read_text().splitlines()


def of(status: Json, tun: str) -> Json:
    found: Json = next(p for p in status["peerings"] if p["tun"] == tun)
    return found


def lives(peering: Json) -> list[int]:
    return [peering["demux"]["pid"], *(m["pid"] for m in peering["members"])]


@pytest.mark.parametrize(("where", "seconds", "places_min"), FORMS)
def test_whatever_call_of_the_loop_fails(pairs: MakePair, where: str, seconds: float, places_min: int) -> None:
    """One peering is killed, hung and changed all the while, as every call fails in turn; the other one carries on."""
    pair = two_peerings(pairs)
    pair.secret = os.urandom(32)
    pair.launch("gw2")
    pair.write_config("gw1")
    pair.write_secret("gw1")
    record = pair.topology.run_dir / "injected"
    with (pair.topology.run_dir / "gw1.log").open("wb") as log:
        argv = [sys.executable, str(INJECTING), str(record), str(pair.config("gw1")), "to-gw2-1", where]
        pair.running["gw1"] = pair.topology.popen("gw1", argv, stdout=log, stderr=log)
    pair.wait_ready(seconds=30.0)
    untouched, standing = lives(of(pair.status("gw1"), "fwd1")), guards(pair)
    assert len(standing[0]) == len(standing[1]) == 2

    record.touch()
    began = time.monotonic()
    turn = 0
    while time.monotonic() < began + seconds or len(places(record)) < places_min:
        assert time.monotonic() < began + seconds + LIMIT_S, places(record)
        assert pair.running["gw1"].poll() is None, pair.log("gw1")[-3000:]
        with contextlib.suppress(StopIteration, ProcessLookupError):
            for n, pid in enumerate(lives(of(pair.status("gw1"), "fwd0"))):
                if pid:
                    os.kill(pid, NUMBERS[(turn + n) % len(NUMBERS)])
        if turn % 4 == 3 or where == "changes":
            pair.peerings[0] = {**ONE, "members": 1 + turn % 3}
            pair.write_config("gw1")
            pair.running["gw1"].send_signal(signal.SIGHUP)
        assert guards(pair) == standing
        until(lambda: pair.ping("-W", "10", "-I", "10.11.0.10", to="10.12.0.10"), 15.0, "the other peering carries on")
        turn += 1
        time.sleep(0.1)

    # What it is told last is in force in the end, whatever has failed, and nothing of the other peering has ended.
    record.unlink()
    pair.peerings[0] = ONE
    pair.write_config("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)

    def as_told() -> bool:
        status = pair.status("gw1")
        members = {one["tun"]: len(one["members"]) for one in status["peerings"]}
        if members != {"fwd0": 2, "fwd1": 2}:
            return False
        return lives(of(status, "fwd1")) == untouched and bool(status["ready"])

    until(as_told, 40.0, "all is well again")
    until(lambda: pair.ping("-I", "10.1.0.10", to="10.2.0.10"), 40.0, "the peering carries again")
    assert pair.stop("gw1") == 0
    assert guards(pair) == ([], [])
