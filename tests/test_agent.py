"""The agent: the status from shared memory that a test has filled, and the service as a process of its own."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from statuskit import NOW_NS, ready_view, turn_for_ever

from fwd.agent import http, render, service
from fwd.agent.client import query
from fwd.agent.metrics import StatusCollector
from fwd.agent.readiness import LOOK_S, STALE_S, SUPERVISOR_STALE_S, Watch
from fwd.agent.status import collect, status_of
from fwd.agent.view import GatewayView, TunLink
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.ring import RECORDS, Ring
from fwd.datapath.shared import LinkWord, ProcessState, ProcessWords
from fwd.lab.testbed import observe
from fwd.model.reasons import Code, Reason
from fwd.model.status import Gateway, Status
from fwd.proto import core
from fwd.proto.drops import KERNEL_COUNTED, DropReason
from fwd.proto.flow import NOBODY
from fwd.proto.ike.causes import By, Failure
from fwd.proto.ip import CSUM


@pytest.fixture
def view() -> Iterator[GatewayView]:
    with ready_view() as made:
        yield made


def peering_of(view: GatewayView, tuns: dict[str, TunLink] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = collect(view, NOW_NS, tuns)["peerings"][0]
    return found


# -- status -------------------------------------------------------------------------------------------------------


def test_status_of_a_ready_gateway(view: GatewayView) -> None:
    status = collect(view, NOW_NS)
    assert status["schema"] == 1
    assert status["ready"]
    assert status["not_ready"] == []
    assert status["gateway"] == {
        "pid": 999, "uptime_s": 5.0, "control": "/run/x.sock", "users": {}, "trial_until": None, "core": core.name(),
        "cipher": core.library_name(),
    }  # fmt: skip
    assert status["warnings"] == ["odd [b]"]
    keyd = {"name": "keyd", "state": "running", "pid": 1000, "restarts": 0, "heartbeat_age_ms": 50}
    assert status["processes"][0] == keyd
    peering = status["peerings"][0]
    assert peering["offloads"] == {
        "in_force": ["csum", "tso", "udp-gso"],
        "refused": {"uso": "[Errno 22] Invalid argument"},
    }
    assert [m["buckets"] for m in peering["members"]] == [65536 - 1001, 1000]
    assert [m["port"] for m in peering["members"]] == [4500, 4501]
    assert peering["members"][1]["spi_out"] == "0x00001001"
    assert json.loads(json.dumps(status)) == status


def test_every_reason_appears_and_sums_over_processes(view: GatewayView) -> None:
    shared = view.peerings[0].shared
    for block in (shared.demux_counters, *(m.counters for m in shared.members)):
        block.values[DropReason.BAD_ICV] = 5
        block.publish()
    drops = peering_of(view, {"fwd0": TunLink(1400, 7)})["drops"]
    assert list(drops) == [reason.label for reason in DropReason]
    assert drops["bad_icv"] == 15
    assert drops["tun_queue_full"] == 7


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda v: v.shared.keyd.put(ProcessState.BACKOFF, 0, 1, 0, 1), "keyd is backoff"),
        (lambda v: v.peerings[0].shared.demux.put(ProcessState.STOPPED, 0, 0, 0, 0), "vpc2: demux is stopped"),
        (lambda v: v.peerings[0].shared.owners.fill(NOBODY), "vpc2: demux is without a member yet"),
        (
            lambda v: v.peerings[0].shared.members[1].process.put(ProcessState.FAILED, 0, 9, 0, 9),
            "vpc2: member 1 is failed",
        ),
        (
            lambda v: v.peerings[0].shared.members[0].link.__setitem__(LinkWord.SPI_OUT, 0),
            "vpc2: member 0 has no SA to send on",
        ),
    ],
)
def test_not_ready_says_why(view: GatewayView, break_it: Callable[[GatewayView], None], why: str) -> None:
    break_it(view)
    status = collect(view, NOW_NS)
    assert not status["ready"]
    assert status["not_ready"] == [why]
    (told,) = status["reasons"]
    assert told["code"] == ("no_child_sa" if "no SA" in why else "process")
    assert told["remedy"]


@pytest.mark.parametrize(
    ("process", "line"),
    [
        (lambda v: v.shared.keyd, "keyd is hung"),
        (lambda v: v.peerings[0].shared.demux, "vpc2: demux is hung"),
        (lambda v: v.peerings[0].shared.members[1].process, "vpc2: member 1 is hung"),
    ],
)
def test_a_process_that_does_not_turn_is_not_believed_to_run(
    view: GatewayView, process: Callable[[GatewayView], ProcessWords], line: str
) -> None:
    """Whoever's words are shown has turned lately, rests, or has just begun."""
    words = process(view)
    words.put(ProcessState.RUNNING, 1, 0, NOW_NS - 10**10, 1)
    for beat_ns in (NOW_NS - int(STALE_S * 0.9e9), NOW_NS + 4 * 10**9):
        words.heartbeat[0] = beat_ns
        assert collect(view, NOW_NS)["ready"]
    for beat_ns in (NOW_NS - int(STALE_S * 1.1e9), 0, NOW_NS + 10**12):
        words.heartbeat[0] = beat_ns
        assert collect(view, NOW_NS)["not_ready"] == [line]
    words.put(ProcessState.RUNNING, 1, 0, NOW_NS - 10**8, 2)
    assert collect(view, NOW_NS)["ready"]


def test_a_supervisor_that_does_not_go_on_makes_the_gateway_not_ready(view: GatewayView) -> None:
    """All that it told still stands there, and nobody watches the others."""
    view.shared.turned[0] = NOW_NS - int(SUPERVISOR_STALE_S * 0.9e9)
    assert collect(view, NOW_NS)["ready"]
    view.shared.turned[0] = NOW_NS - 9 * 10**9
    status = collect(view, NOW_NS)
    assert status["not_ready"] == ["the supervisor, pid 999, has not gone on for 9 s: what is shown may be old"]
    assert status["reasons"][0]["code"] == "supervisor"
    assert "/proc/999/status" in status["reasons"][0]["remedy"]


def test_what_the_supervisor_finds_is_a_reason_too(view: GatewayView) -> None:
    """What it says of the kernel stands in the status as it says it."""
    found = Reason.of(Code.ROUTE_MISSING, "vpc2", ["10.2.0.0/16"], what="10.2.0.0/16", device="fwd0", why="")
    view.shared.troubles.put(json.dumps({"reasons": [found.as_json()]}).encode())
    status = collect(view, NOW_NS)
    assert not status["ready"]
    assert status["not_ready"] == ["vpc2: no route to 10.2.0.0/16 by fwd0"]
    assert status["reasons"] == [found.as_json()]


def test_what_keyd_tells_cannot_write_to_a_terminal(view: GatewayView) -> None:
    """A peer's words may be in it, and keyd's own are not trusted either."""
    odd = "\x1b[2Jready\nnow\u202e"
    told = {"vpc2": {"error": odd, "concern": odd, "refused": {"1": odd}, "sas": [{"remote_id": odd, "more": [odd]}]}}
    view.shared.ike.put(json.dumps(told).encode())
    assert odd[0] not in str(collect(view, NOW_NS))
    assert collect(view, NOW_NS)["peerings"][0]["ike_error"] == "?[2Jready?now?"


def test_the_agents_own_state_does_not_decide_readiness(view: GatewayView) -> None:
    view.shared.agent.put(ProcessState.BACKOFF, 0, 1, 0, 1)
    assert collect(view, NOW_NS)["ready"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (("192.0.2.1", 4500), "192.0.2.1:4500"),
        (("2001:db8::1", 4501), "[2001:db8::1]:4501"),
        (None, None),
    ],
)
def test_learned_peer(view: GatewayView, address: tuple[str, int] | None, shown: str | None) -> None:
    if address:
        view.peerings[0].shared.members[0].peer.put(address)
    assert peering_of(view)["members"][0]["peer"] == shown


def test_member_details(view: GatewayView) -> None:
    member = view.peerings[0].shared.members[0]
    member.link[LinkWord.PATH_DOWN], member.link[LinkWord.PATH_MTU] = 1, 1400
    member.slots.floor(3, 0x2222)
    member.slots.words[7] = 77
    member.ledger.begin(1, 0x1000)
    member.ledger.claim(46)
    for counter, value in zip(MemberCounter, range(100, 100 + len(MemberCounter)), strict=True):
        member.counters.values[counter] = value
    member.counters.publish()
    view.peerings[0].rings[0].head = 3
    shown = peering_of(view)["members"][0]
    assert (shown["path"], shown["path_mtu"], shown["ring_waiting"]) == ("down", 1400, 3)
    assert shown["spis_in"] == {"0x00002222": 77}
    assert shown["ledger"] == [{"incarnation": 1, "spi": "0x00001000", "first": 1, "last": 46}]
    assert shown["out"] == {"records": 100, "bytes": 101, "esp_packets": 102, "esp_bytes": 103}
    assert shown["in"] == {"records": 108, "bytes": 109, "esp_packets": 104, "esp_bytes": 105}


def test_the_devices_mtu_is_the_kernels(view: GatewayView) -> None:
    assert peering_of(view)["tun_mtu"] == 1500
    assert peering_of(view, {"fwd0": TunLink(1400, 0)})["tun_mtu"] == 1400


def test_an_egress_that_refuses_segmentation(view: GatewayView) -> None:
    members = view.peerings[0].shared.members
    members[1].link[LinkWord.GSO_REFUSED] = 1
    offloads = peering_of(view)["offloads"]
    assert "udp-gso" in offloads["in_force"]
    assert offloads["refused"]["udp-gso"] == "refused on sending, to member 1"
    members[0].link[LinkWord.GSO_REFUSED] = 1
    assert "udp-gso" not in peering_of(view)["offloads"]["in_force"]


def test_books_balance_with_every_reason_counted_once(view: GatewayView) -> None:
    """Each drop reason of a balanced gateway is in exactly the sum it belongs to, or in none."""
    shared, ring = view.peerings[0].shared, cast(Ring, view.peerings[0].rings[1])
    demux, member = shared.demux_counters, shared.members[1]
    for reason in DropReason:
        (demux if reason.stage == "demux" else member.counters).values[reason] = 1
    by_fwd = [reason for reason in DropReason if reason not in KERNEL_COUNTED]
    dropped = Counter((reason.unit, reason.stage == "inbound") for reason in by_fwd)
    records_out, records_in = dropped["record", False], dropped["record", True]
    packets = dropped["esp", True]
    # Two segments wait, of 10 and 20 records; 4 records were sealed, and one dropped for each reason.
    ring.head, ring.taken, ring.done = 3, 1, 1
    ring.segment(1).fields[RECORDS], ring.segment(2).fields[RECORDS] = 10, 20
    demux.values[DemuxCounter.HEADS + 1] = 3
    demux.values[DemuxCounter.RECORDS] = 4 + records_out + 30
    counters = member.counters.values
    counters[MemberCounter.DONE], counters[MemberCounter.OUT_RECORDS] = 1, 4
    counters[MemberCounter.IN_ESP], counters[MemberCounter.IN_ESP_OK] = 100 + packets, 100
    counters[MemberCounter.IN_RECORDS], counters[MemberCounter.IN_RECORDS_OK] = 50 + records_in, 50
    member.link[LinkWord.RX_TAKEN] = 100 + packets + 2
    demux.publish()
    member.counters.publish()
    books = peering_of(view, {"fwd0": TunLink(1500, 1000)})["books"]
    assert (books["out_drops"], books["out_waiting"]) == (records_out, 30)
    assert books["out_records_in"] == books["out_records_out"] + books["out_drops"] + books["out_waiting"]
    assert books["in_esp_in"] == books["in_esp_ok"] + books["in_esp_drops"]
    assert books["in_esp_waiting"] == 2
    assert books["in_records_in"] == books["in_records_out"] + books["in_drops"]


# -- metrics and rendering ----------------------------------------------------------------------------------------


def test_metrics_parse_and_name_every_reason(view: GatewayView) -> None:
    member = view.peerings[0].shared.members[1]
    member.counters.values[MemberCounter.OUT_ESP] = 2**60 + 1
    member.counters.values[MemberCounter.IN_ICMP_ERRORS] = 3
    member.counters.publish()
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: status_of(view, NOW_NS)))
    families = {f.name: f for f in text_string_to_metric_families(generate_latest(registry).decode())}
    assert all(name.startswith("fwd_") and family.documentation for name, family in families.items())
    assert {s.labels["reason"] for s in families["fwd_drops"].samples} == {reason.label for reason in DropReason}
    sent = {tuple(sorted(s.labels.values())): s.value for s in families["fwd_esp_packets"].samples}
    assert sent["1", "out", "vpc2"] == float(2**60 + 1)
    errors = {s.labels["direction"]: s.value for s in families["fwd_icmp_errors"].samples}
    assert errors == {"out": 0, "in": 3}
    ages = {tuple(sorted(s.labels.values())): s.value for s in families["fwd_process_heartbeat_age_seconds"].samples}
    assert ages["1", "member", "vpc2"] == 0.05
    assert all(s.name.endswith("_total") for f in families.values() if f.type == "counter" for s in f.samples)


DOCKER = Path(__file__).parents[1] / "docker"
TARGET_LABELS = {"job", "instance", "gateway"}  # Prometheus's own, and what docker/prometheus/prometheus.yml adds


def expressions_of_alerts() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", (DOCKER / "prometheus/rules.yml").read_text(), re.MULTILINE)


def expressions_of_dashboards() -> list[str]:
    """Of a gateway's; that of a fleet is in tests/controller/test_grafana.py."""
    return list(observe.expressions(json.loads((DOCKER / "grafana" / "fwd.json").read_text())))


@pytest.mark.parametrize("expressions", [expressions_of_alerts, expressions_of_dashboards])
def test_dashboards_and_alert_rules_name_metrics_labels_and_reasons_that_exist(
    view: GatewayView, expressions: Callable[[], list[str]]
) -> None:
    labels_of: dict[str, set[str]] = {"up": set()}
    for family in StatusCollector(lambda: status_of(view, NOW_NS)).collect():
        for sample in family.samples:
            labels_of.setdefault(sample.name, set()).update(sample.labels)
    wanted = expressions()
    assert len(wanted) >= 8
    for expression in wanted:
        metrics = set(re.findall(r"\b(?:fwd_\w+|up\b)", expression))
        assert metrics, expression
        assert metrics <= labels_of.keys(), expression
        allowed = TARGET_LABELS.union(*(labels_of[name] for name in metrics))
        groups = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
        used = {label.strip() for group in groups for label in group.split(",")}
        used |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression))
        assert used <= allowed, expression
        reasons = {one for group in re.findall(r'reason=~?"([^"]*)"', expression) for one in group.split("|")}
        known = {reason.label for reason in DropReason}
        if "fwd_ike_failures_total" in metrics:
            known = {one.value for one in Failure}
        elif "fwd_not_ready" in metrics:
            known = {one.value for one in Code}
        assert reasons <= known, expression


def test_metrics_of_a_process_that_never_ran(view: GatewayView) -> None:
    member = view.peerings[0].shared.members[1].process
    member.put(ProcessState.STOPPED, 0, 0, 0, 0)
    member.heartbeat[0] = 0
    text = http.answer(b"GET /metrics HTTP/1.0\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_process_up{member="1",peering="vpc2",process="member"} 0.0' in text
    assert 'fwd_process_heartbeat_age_seconds{member="1"' not in text


def test_render_shows_what_people_ask_for(view: GatewayView) -> None:
    member = view.peerings[0].shared.members[1]
    member.process.put(ProcessState.FAILED, 0, 9, NOW_NS, 10)
    member.counters.values[DropReason.REPLAYED] = 1234
    member.counters.publish()
    view.shared.troubles.put(json.dumps({"trial_until": 1_900_000_000}).encode())
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115 - closed below
    console.print(render.render(collect(view, NOW_NS)))
    console.file.close()
    text = console.export_text()
    for words in ("not ready", "vpc2: member 1 is failed", "0x00001001", "replayed 1,234", "csum, tso", "odd [b]"):
        assert words in text
    assert "on trial" in text
    assert "too_old" not in text  # nothing was dropped for that
    assert "uso: [Errno 22] Invalid argument" in text


def test_drops_shows_every_reason_with_its_sentence(view: GatewayView) -> None:
    block = view.peerings[0].shared.members[1].counters
    block.values[DropReason.REPLAYED] = 1234
    block.publish()
    out = io.StringIO()
    Console(width=400, file=out).print(render.drops(collect(view, NOW_NS)))
    lines = out.getvalue().splitlines()
    assert lines[2].split()[:4] == ["replayed", "1,234", "esp", "inbound"]
    for reason in DropReason:
        (line,) = (line for line in lines if line.startswith(f"{reason.label} "))
        assert reason.sentence in line


def test_a_change_of_readiness_is_one_line_of_the_log(view: GatewayView, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    watch, keyd, member = Watch(view, 0.0), view.shared.keyd, view.peerings[0].shared.members[0].process
    now = 0.0

    def looked() -> list[str]:
        nonlocal now
        caplog.clear()
        for _ in range(3):
            now += LOOK_S
            watch.turn(now)
        return [record.getMessage() for record in caplog.records]

    assert looked() == ["the gateway is ready"]
    keyd.put(ProcessState.FAILED, 0, 9, 0, 9)
    (line,) = looked()
    assert "keyd is failed (" in line
    assert caplog.records[0].fields == {"codes": ["process"]}  # type: ignore[attr-defined]
    keyd.put(ProcessState.BACKOFF, 0, 9, 0, 9)  # still the same kind
    assert looked() == []
    member.put(ProcessState.FAILED, 0, 9, 0, 9)
    assert len(looked()) == 1
    keyd.put(ProcessState.RUNNING, 1, 9, NOW_NS, 9)
    member.put(ProcessState.RUNNING, 1, 9, NOW_NS, 9)
    assert looked() == ["the gateway is ready"]


def test_why_it_is_not_ready_is_a_metric_of_every_code(view: GatewayView) -> None:
    view.shared.troubles.put(json.dumps({"waiting": {"vpc2": "no address"}}).encode())
    text = http.answer(b"GET /metrics HTTP/1.0\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_not_ready{reason="not_set_up"} 1.0' in text
    assert text.count("fwd_not_ready{") == len(Code)
    assert 'fwd_peering_ready{peering="vpc2"} 0.0' in text
    assert "fwd_ready 0.0" in text


def test_a_peering_that_has_only_just_come_is_not_set_up_for_a_reason(view: GatewayView) -> None:
    view.shared.troubles.put(json.dumps({"waiting": {"vpc3": ""}}).encode())
    lines = [one.line for one in status_of(view, NOW_NS).reasons]
    assert "vpc3: not set up: it has only just come" in lines


# -- the service --------------------------------------------------------------------------------------------------


@dataclass
class Running:
    """The service in a process of its own."""

    path: Path
    port: int
    view: GatewayView

    def send(self, request: bytes) -> bytes:
        """What comes back until the service closes; b"" if it closes without a word."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(self.path))
            try:
                sock.sendall(request)
                sock.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: sock.recv(65536), b""))
            except ConnectionError:
                return b""

    def http(self, path: str) -> tuple[int, str]:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def running(view: GatewayView, tmp_path: Path) -> Iterator[Running]:
    turn_for_ever(view)
    control, metrics = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET)
    control.bind(str(tmp_path / "c.sock"))
    metrics.bind(("127.0.0.1", 0))
    for sock in (control, metrics):
        sock.listen(64)
    pid = os.fork()
    if pid == 0:
        try:
            service.run(view, control, metrics)
        finally:
            os._exit(1)
    try:
        yield Running(tmp_path / "c.sock", metrics.getsockname()[1], view)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the service died"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for sock in (control, metrics):
            sock.close()


def test_control_socket(running: Running) -> None:
    status = query(running.path)
    assert status["schema"] == 1
    assert status["peerings"][0]["name"] == "vpc2"
    assert query(running.path, "ping")["pong"]
    assert "unknown command" in query(running.path, "reboot")["error"]


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"\xff\xfe\n", b"null\n", b"[]\n", b"{}\n", b'{"command": ["status"]}\n', b"[" * 4000 + b"\n",
     b"9" * 4090 + b"\n", b"x" * 4096, b"x" * 100_000, b'{"command"', b""],
)  # fmt: skip
def test_control_socket_takes_any_bytes(running: Running, request_: bytes) -> None:
    answer = running.send(request_)
    assert not answer or set(json.loads(answer)) == {"error"}
    assert query(running.path)["ready"]


def test_status_without_a_newline_but_an_end(running: Running) -> None:
    assert json.loads(running.send(b'{"command": "ping"}'))["pong"]


def test_slow_clients_are_not_waited_for(running: Running) -> None:
    """As many as are let in say nothing; the heartbeat goes on, and who comes later is answered in time."""
    heartbeat = running.view.shared.agent.heartbeat
    silent = [socket.socket(socket.AF_UNIX) for _ in range(service.CONNECTIONS_MAX)]
    try:
        for sock in silent:
            sock.connect(str(running.path))
        beats: set[int] = set()
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.01):
                beats.add(heartbeat[0])

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert query(running.path, timeout_s=service.CONNECTIONS_MAX * service.REQUEST_S / 2)["schema"] == 1
        stop.set()
        watcher.join()
        assert len(beats) > 3, "it waited for one of them meanwhile"
    finally:
        for sock in silent:
            sock.close()


def test_a_client_that_does_not_read_is_let_go(running: Running) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.connect(str(running.path))
        sock.sendall(b'{"command": "status"}\n')
        assert query(running.path)["ready"]


def test_many_clients(running: Running) -> None:
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(query(running.path, timeout_s=10)["ready"])) for _ in "x" * 60
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 60


def test_http(running: Running) -> None:
    code, text = running.http("/metrics")
    assert code == 200
    assert "fwd_ready" in {family.name for family in text_string_to_metric_families(text)}
    assert running.http("/healthz") == (200, "ok\n")
    assert running.http("/readyz") == (200, "ready\n")
    assert running.http("/")[0] == 404
    running.view.shared.keyd.put(ProcessState.FAILED, 0, 9, 0, 9)
    code, text = running.http("/readyz")
    assert code == 503
    assert text.splitlines()[0] == "process: keyd is failed"
    assert "log" in text.splitlines()[1]
    assert running.http("/nothing")[0] == 404
    assert running.http("/healthz")[0] == 200


def test_http_head_and_refusals(view: GatewayView) -> None:
    def status() -> Status:
        return status_of(view, NOW_NS)

    head, _, body = http.answer(b"HEAD /readyz HTTP/1.1\r\nHost: x\r\n\r\n", status).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200")
    assert body == b""
    assert b" 501 " in http.answer(b"POST /metrics HTTP/1.1\r\n\r\n", status).partition(b"\r\n")[0]
    assert b" 400 " in http.answer(b"GET / HTTP/x\r\n\r\n", status).partition(b"\r\n")[0]


@given(st.binary(max_size=200), st.sampled_from([b"", b"GET ", b"GET /readyz HTTP/1.1\r\n", b"GET / HTTP/"]))
def test_http_takes_any_bytes(data: bytes, start: bytes) -> None:
    gateway = Gateway(pid=1, uptime_s=0.0, control="")
    status = Status(
        version="", gateway=gateway, ready=True, not_ready=[], reasons=[], warnings=[], processes=[], peerings=[]
    )
    http.answer(start + data + b"\r\n\r\n", lambda: status)


# -- the client ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [b"", b"not json\n", b"[1]\n", b"{"])
def test_client_refuses_what_is_no_answer(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(4096)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ConnectionError):
            query(tmp_path / "s")
        thread.join()


def test_client_gives_up_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(TimeoutError):
            query(tmp_path / "s", timeout_s=0.1)
    with pytest.raises(ConnectionRefusedError):
        query(tmp_path / "s")


@pytest.mark.parametrize("command", ["rekey", "terminate", "initiate", "drain", "apply"])
def test_the_agent_changes_nothing(running: Running, command: str) -> None:
    assert "unknown command" in query(running.path, command)["error"]


def test_metrics_tell_of_ike(view: GatewayView) -> None:
    text = http.answer(b"GET /metrics HTTP/1.1\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_ike_established{peering="vpc2"} 0.0' in text
    sa = {"state": "established", "children": [{}, {}, {}]}
    view.shared.ike.put(json.dumps({"vpc2": {"sas": [sa, {"state": "deleting", "children": [{}]}]}}).encode())
    text = http.answer(b"GET /metrics HTTP/1.1\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_ike_established{peering="vpc2"} 1.0' in text
    assert 'fwd_ike_child_sas{peering="vpc2"} 4.0' in text


def test_failures_of_ike_are_counted_by_a_closed_set_of_reasons_whatever_keyd_tells(view: GatewayView) -> None:
    view.shared.ike.put(json.dumps({"vpc2": {"failures": {"wrong_secret": 3, "made up": 7}}}).encode())
    text = http.answer(b"GET /metrics HTTP/1.1\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_ike_failures_total{peering="vpc2",reason="wrong_secret"} 3.0' in text
    assert text.count("fwd_ike_failures_total{") == len(Failure)
    assert collect(view, NOW_NS)["peerings"][0]["ike_failures"]["no_answer"] == 0


def test_every_failure_of_ike_and_every_cause_is_documented() -> None:
    text = (Path(__file__).parents[1] / "docs" / "status.md").read_text(encoding="utf-8")
    table = text.partition("`ike_failures` counts")[2].partition("A *record* is")[0]
    first = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert sorted(re.findall(r"`([a-z_]+)`", first)) == sorted(one.value for one in Failure)
    causes = re.findall(r"^- ((?:`[a-z_]+`(?:, )?)+):", text.partition("`by` is one of")[2], re.MULTILINE)
    assert sorted(re.findall(r"`([a-z_]+)`", " ".join(causes))) == sorted(one.value for one in By)


def test_metrics_and_warnings_tell_of_certificates(view: GatewayView) -> None:
    told = {"local_days": 7.25, "remote": "CN=gw2", "remote_days": None, "findings": ["gw1.pem: ends in 7 days"]}
    view.shared.ike.put(json.dumps({"vpc2": {"certificates": told}}).encode())
    text = http.answer(b"GET /metrics HTTP/1.1\r\n\r\n", lambda: status_of(view, NOW_NS)).decode()
    assert 'fwd_certificate_days_left{peering="vpc2",side="local"} 7.25' in text
    assert 'side="remote"' not in text
    assert "vpc2: gw1.pem: ends in 7 days" in collect(view, NOW_NS)["warnings"]


def test_members_that_the_far_side_has_no_pair_for_do_not_keep_a_gateway_from_being_ready(view: GatewayView) -> None:
    view.peerings[0].shared.members[1].link[LinkWord.SPI_OUT] = 0
    assert not collect(view, NOW_NS)["ready"]
    view.shared.ike.put(json.dumps({"vpc2": {"sas": [], "refused": {"1": "TS_MAX_QUEUE"}}}).encode())
    status = collect(view, NOW_NS)
    assert status["ready"]
    assert status["peerings"][0]["members_refused"] == {"1": "TS_MAX_QUEUE"}


def test_a_gateway_that_does_not_carry_all_that_is_configured_is_not_ready_and_says_what(view: GatewayView) -> None:
    held = {"local": ["10.1.0.0/16"], "remote": ["10.2.1.0/24"], "not_wholly": ["10.1.0.0/16 - 10.2.0.0/16"]}
    view.shared.ike.put(json.dumps({"vpc2": {"narrower": {"0": held, "1": held}}}).encode())
    status = collect(view, NOW_NS)
    assert not status["ready"]
    assert status["not_ready"] == [
        "vpc2: member 0, 1: of 10.1.0.0/16 - 10.2.0.0/16 the far side carries 10.1.0.0/16 - 10.2.1.0/24 alone: "
        "make local_ts and remote_ts alike"
    ]
    assert status["peerings"][0]["narrower"]["1"] == held


def test_a_peering_that_is_refused_every_child_sa_is_not_ready_and_says_why(view: GatewayView) -> None:
    for member in view.peerings[0].shared.members:
        member.link[LinkWord.SPI_OUT] = 0
    refused = {str(index): "NO_PROPOSAL_CHOSEN" for index in range(len(view.peerings[0].shared.members))}
    concern = "the peer refuses every rekeying (NO_PROPOSAL_CHOSEN): there is nothing to send on"
    view.shared.ike.put(json.dumps({"vpc2": {"sas": [], "refused": refused, "concern": concern}}).encode())
    status = collect(view, NOW_NS)
    assert f"vpc2: member 0 has no SA to send on: {concern}" in status["not_ready"]
    assert not status["ready"]


def test_an_end_that_comes_near_is_a_warning_while_traffic_passes(view: GatewayView) -> None:
    concern = "the peer refuses every rekeying (NO_ADDITIONAL_SAS): SAs end in 312 s"
    view.shared.ike.put(json.dumps({"vpc2": {"concern": concern}}).encode())
    status = collect(view, NOW_NS)
    assert status["ready"]
    assert f"vpc2: {concern}" in status["warnings"]


def test_offloads_that_the_far_side_does_not_take_are_not_in_force(view: GatewayView) -> None:
    assert peering_of(view)["offloads"]["in_force"] == ["csum", "tso", "udp-gso"]
    view.peerings[0].shared.far_offloads = CSUM
    assert peering_of(view)["offloads"]["in_force"] == ["csum", "udp-gso"]
    assert "far gateway" in peering_of(view)["offloads"]["refused"]["tso"]
