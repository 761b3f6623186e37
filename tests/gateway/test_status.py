"""What a running gateway says of itself: `fwd status`, its JSON, and Prometheus metrics over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from gwkit import MakePair, Pair, until
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter

from fwd.model.status import Status

ADDRESS = "127.0.0.1:9595"


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs(gateway={"metrics": ADDRESS})


def http(pair: Pair, path: str) -> tuple[int, str]:
    """Status code and body, asked from inside the gateway's namespace."""
    script = (
        "import sys,urllib.request,urllib.error\n"
        "try: r=urllib.request.urlopen(sys.argv[1],timeout=5)\n"
        "except urllib.error.HTTPError as e: r=e\n"
        "print(r.status);print(r.read().decode())\n"
    )
    done = pair.topology.run("gw1", [sys.executable, "-c", script, f"http://{ADDRESS}{path}"])
    code, _, body = done.stdout.partition("\n")
    return int(code), body


def fwd_status(pair: Pair, *options: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "fwd", "status", "--control", str(pair.control("gw1")), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)


def test_json_shows_the_first_authenticated_packets(pair: Pair) -> None:
    assert pair.ping(count=3)
    status = json.loads(fwd_status(pair, "--json").stdout)
    assert status["schema"] == 1
    assert status["ready"] is True
    assert status["gateway"]["pid"] == pair.running["gw1"].pid
    member = next(m for m in status["peerings"][0]["members"] if m["out"]["records"])
    receiver = next(m for m in pair.peering("gw2")["members"] if m["index"] == member["index"])
    assert member["spi_out"] in receiver["spis_in"]
    assert receiver["peer"] is None or receiver["peer"].startswith("192.0.2.1:")
    assert sum(m["buckets"] for m in status["peerings"][0]["members"]) == 65536


def test_a_gateway_whose_supervisor_is_frozen_is_not_ready(pair: Pair) -> None:
    """Its last words still stand there, and so does the agent; when it goes on, all is well again."""
    pid = pair.running["gw1"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: not pair.status("gw1")["ready"], 15.0, "it is told")
        assert [one["code"] for one in pair.status("gw1")["reasons"]] == ["supervisor"]
        code, text = http(pair, "/readyz")
        assert (code, text.partition(":")[0]) == (503, "supervisor")
        assert f"the supervisor, pid {pid}, has not gone on" in fwd_status(pair).stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    pair.wait_ready("gw1")


def test_a_live_gateways_status_is_valid(pair: Pair) -> None:
    for host in ("gw1", "gw2"):
        TypeAdapter(Status).validate_json(json.dumps(pair.status(host)))


def test_the_log_tells_that_a_gateway_is_ready(pair: Pair) -> None:
    until(lambda: "event=gateway.ready" in pair.log("gw1"), 30.0, "the line in the log")


def test_drops_are_shown_with_what_they_mean(pair: Pair) -> None:
    shown = " ".join(fwd_status(pair, "--drops").stdout.split())
    assert "bad_icv" in shown
    assert "integrity check fails" in shown


def test_text_shows_peerings_members_and_offloads(pair: Pair) -> None:
    shown = fwd_status(pair).stdout
    for word in ("to-gw2-0", "fwd0", "superpacket", "192.0.2.2", "running", "tso", "udp-gso"):
        assert word in shown
    spi = pair.member("gw1", 0)["spi_out"]
    assert f"{int(spi, 16):x}" in shown


def test_status_is_for_root_and_the_gateways_user(pair: Pair) -> None:
    mode = pair.control("gw1").stat().st_mode
    assert mode & 0o007 == 0


def test_metrics_agree_with_the_status(pair: Pair) -> None:
    assert pair.ping(count=3)
    pair.wait_quiet()
    code, body = http(pair, "/metrics")
    assert code == 200
    samples = {
        (s.name, s.labels.get("member", ""), s.labels.get("direction", "")): s.value
        for family in text_string_to_metric_families(body)
        for s in family.samples
        if s.name.startswith("fwd_records") or s.name.startswith("fwd_esp")
    }
    for member in pair.peering("gw1")["members"]:
        for direction in ("out", "in"):
            name = str(member["index"])
            assert samples["fwd_records_total", name, direction] == member[direction]["records"]
            assert samples["fwd_esp_packets_total", name, direction] == member[direction]["esp_packets"]


def test_health_and_readiness(pair: Pair) -> None:
    assert http(pair, "/healthz")[0] == 200
    assert http(pair, "/readyz")[0] == 200
    keyd = pair.kill("gw1", "keyd", signal.SIGSTOP)
    codes: set[int] = set()

    def replaced() -> bool:
        codes.add(http(pair, "/readyz")[0])
        return pair.pids("gw1")["keyd"] not in (0, keyd) and pair.ready("gw1")

    until(replaced, what="keyd replaced")
    assert http(pair, "/readyz")[0] == 200
    assert codes <= {200, 503}


def test_not_ready_says_why(pairs: MakePair) -> None:
    pair = pairs(gateway={"metrics": ADDRESS})
    seen: set[int] = set()

    def kill_until_failed() -> bool:
        member = pair.member("gw1", 0)
        if member["pid"] > 1 and member["pid"] not in seen:
            seen.add(member["pid"])
            pair.kill("gw1", "member-0")
        return bool(member["state"] == "failed")

    until(kill_until_failed, 15.0, "member 0 failed")
    code, body = http(pair, "/readyz")
    assert code == 503
    assert "member 0 is failed" in body
    assert http(pair, "/healthz")[0] == 200
