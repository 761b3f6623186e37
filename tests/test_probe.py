"""The probes' arithmetic, the two ends against each other, and what the demo concludes from them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from portkit import free_ports

from fwd.lab import flows, probe, traffic, verdict
from fwd.lab.probe import Arrived, Sent
from fwd.lab.world import LabError

MS = 1_000_000
MAGIC = b"0123456789abcdef"


def arrived(*arrivals: tuple[int, float]) -> Arrived:
    """Of (number, time in ms)."""
    numbers, times_ms = zip(*arrivals, strict=True)
    return probe.arrived(np.array(numbers), np.array([round(t * MS) for t in times_ms]))


def test_a_flow_in_order() -> None:
    flow = arrived(*((i, i) for i in range(1000)))
    assert (flow.received, flow.lost, flow.duplicates, flow.inversions) == (1000, 0, 0, 0)
    assert flow.longest_gap_ms == flow.p99_gap_ms == 1.0


def test_loss_duplicates_inversions_and_the_gap() -> None:
    flow = arrived((0, 0), (1, 1), (1, 2), (4, 40), (3, 41), (2, 42), (7, 43))
    assert (flow.received, flow.first, flow.last) == (7, 0, 7)
    assert (flow.lost, flow.duplicates, flow.inversions) == (2, 1, 2)
    assert (flow.longest_gap_ms, flow.longest_gap_at_ns) == (38.0, 2 * MS)


def test_one_arrival_has_no_gap() -> None:
    assert arrived((5, 1)).longest_gap_ms == 0.0


def test_silence_at_either_end_is_a_gap_and_loss() -> None:
    got = arrived(*((i, i) for i in range(100, 300)))
    late = probe.merge(Sent(300, 0, 299 * MS), got)
    assert (late.lost, late.longest_gap_ms, late.longest_gap_at_ns) == (100, 100.0, 0)
    dead = probe.merge(Sent(1000, 0, 999 * MS), got)
    assert (dead.lost, dead.longest_gap_ms, dead.longest_gap_at_ns) == (800, 700.0, 299 * MS)
    nothing = probe.merge(Sent(1000, 0, 999 * MS), None)
    assert (nothing.lost, nothing.received, nothing.longest_gap_ms) == (1000, 0, 999.0)


def test_results_survive_json() -> None:
    sent = {7000: Sent(3, 0, 2 * MS)}
    assert probe.read_sent(probe.as_json(sent)) == sent
    got = {7000: arrived((0, 0), (1, 1), (2, 2))}
    assert probe.read_arrived(probe.as_json(got)) == got


def test_both_ends_on_loopback() -> None:
    """Two flows at 1 kHz; strangers' datagrams and too long a wait are nobody's loss."""
    port, *from_ports = free_ports(socket.SOCK_DGRAM, 3)
    stop_fd, never_fd = os.eventfd(0), os.eventfd(0)
    receiver = probe.Receiver(port, MAGIC)
    results: list[dict[int, Arrived]] = []
    thread = threading.Thread(target=lambda: results.append(receiver.run(30, stop_fd)))
    thread.start()
    try:
        probe.send(("127.0.0.1", port), free_ports(socket.SOCK_DGRAM, 1), b"x" * 16, 0.01, 1000, never_fd)
        start_s = time.monotonic()
        sent = probe.send(("127.0.0.1", port), from_ports, MAGIC, 0.5, 1000, never_fd)
        assert time.monotonic() - start_s > 0.49
    finally:
        os.eventfd_write(stop_fd, 1)
        thread.join()
        os.close(stop_fd)
        os.close(never_fd)
    assert set(results[0]) == set(from_ports)
    assert all(numbers.tolist() == list(range(500)) for numbers, _ in receiver.arrivals().values())
    for flow, got in results[0].items():
        assert sent[flow].count == 500
        whole = probe.merge(sent[flow], got)
        assert (whole.received, whole.lost, whole.duplicates, whole.inversions) == (500, 0, 0, 0)


def test_bad_input_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    magic = ["--magic", MAGIC.hex(), "--seconds", "1"]
    for argv, word in (
        (["send", "--to", "10.0.0.1", "--from-port", "1", *magic], "--to"),
        (["send", "--to", "10.0.0.1:99999", "--from-port", "1", *magic], "--to"),
        (["send", "--to", "10.0.0.1:9", "--from-port", "0", *magic], "--from-port"),
        (["receive", "--port", "7", "--out", "/nosuchdirectory/x", *magic], "--out"),
        (["receive", "--port", "7", "--out", "/dev/null", "--magic", "00", "--seconds", "1"], "--magic"),
        ([], "verb"),
    ):
        with pytest.raises(SystemExit) as ended:
            probe.main(argv)
        assert ended.value.code == 2
        told = capsys.readouterr().err
        assert len(told.splitlines()) == 1, told
        assert word in told


def test_source_ports_reach_the_members_they_were_chosen_for() -> None:
    member = flows.member_of_flow(4)

    def of_port(port: int) -> int:
        return member("10.1.0.10", port, "10.2.0.10", 7777, 17)

    ports = flows.port_of_each_member(of_port, 4, 20000)
    assert [of_port(port) for port in ports] == [0, 1, 2, 3]
    first = flows.evenest_run(of_port, 4, 8, range(30000, 31000))
    assert Counter(map(of_port, range(first, first + 8))) == dict.fromkeys(range(4), 2)


def test_iperf3_output_and_kernel_counters() -> None:
    report = '{"end": {"streams": [1, 2], "sum_sent": {"retransmits": 3}, "sum_received": {"bits_per_second": 1.5e9}}}'
    assert traffic.parse(report) == traffic.TcpResult(1500.0, 3, 2)
    with pytest.raises(LabError, match="unable to connect"):
        traffic.parse('{"error": "unable to connect"}')
    with pytest.raises(LabError, match="no result"):
        traffic.parse("")
    assert traffic.resets_in("Ip: A\nIp: 1\nTcp: EstabResets OutSegs OutRsts\nTcp: 2 100 3\n") == 5


def member(index: int, *ledger: tuple[int, int, int, int]) -> dict[str, Any]:
    keys = ("incarnation", "spi", "first", "last")
    return {"index": index, "ledger": [dict(zip(keys, entry, strict=True)) for entry in ledger]}


@pytest.mark.parametrize(
    ("members", "conflicts"),
    [
        ([member(0, (1, 10, 1, 50), (2, 11, 1, 9)), member(1, (1, 12, 1, 50))], 0),
        ([member(0, (1, 10, 1, 50), (1, 10, 51, 60))], 0),
        ([member(0, (1, 10, 1, 50), (1, 10, 50, 60))], 1),
        ([member(0, (1, 10, 1, 50), (2, 10, 51, 60))], 1),
        ([member(0, (1, 10, 1, 50)), member(1, (1, 10, 20, 60))], 2),
        ([member(0, (1, 10, 1, 50), (2, 10, 1, 0))], 0),  # nothing sent
    ],
)
def test_ledgers(members: list[dict[str, Any]], conflicts: int) -> None:
    assert verdict.ledger_conflicts(members) == conflicts


def test_the_verdict_names_each_fault() -> None:
    quiet, gone = arrived((0, 0), (1, 3)), arrived((0, 0), (2, 90), (1, 91))
    captured: dict[str, Any] = {"repeated_nonces": 0, "plaintext_packets": 0, "capture_drops": 0}
    captured["esp_by_port"] = {"4500": 7, "4501": 5}
    result = verdict.summary(
        first_packet_ms=321.0,
        streams=8,
        tcp_mbps=900.04,
        ports=range(4500, 4502),
        capture=captured,
        quiet={7000: quiet, 7001: quiet},
        killed={7000: gone, 7001: quiet},
        victim_flow=7000,
        tcp_resets=0,
        ledgers=[[member(0, (1, 10, 1, 50))], [member(0, (1, 10, 1, 50))]],
    )
    assert (result["tcp_mbps"], result["member_packets"]) == (900.0, [7, 5])
    assert (result["respawn_gap_ms"], result["probe_noise_ms"]) == (90.0, 3.0)
    assert verdict.failures(result) == ["reordered_packets is 1, must be 0"]
    fine = result | {"reordered_packets": 0}
    assert verdict.failures(fine) == []
    for change, word in (
        ({"member_packets": [7, 0]}, "member 1"),
        ({"respawn_gap_ms": 1000.0}, "respawn_gap_ms"),
        ({"tcp_resets": 1}, "tcp_resets"),
        ({"plaintext_packets_on_wire": 1}, "plaintext"),
        ({"repeated_nonces": 1}, "repeated_nonces"),
        ({"capture_drops": 1}, "nobody knows what those frames were"),
    ):
        assert [word in fault for fault in verdict.failures(fine | change)] == [True]
