"""What the peers are measured with: the search for a rate, the parsers, the schedules. No traffic."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fwd.bench import datagrams, http, load, loss, ping, sanity, udp
from fwd.lab import traffic
from fwd.lab.world import LabError

PINGS = """PING 10.2.0.10 (10.2.0.10) 56(84) bytes of data.
64 bytes from 10.2.0.10: icmp_seq=1 ttl=62 time=0.5 ms
64 bytes from 10.2.0.10: icmp_seq=2 ttl=62 time=12 ms
64 bytes from 10.2.0.10: icmp_seq=2 ttl=62 time=13 ms (DUP!)
64 bytes from 10.2.0.10: icmp_seq=4 ttl=62 time=0.7 ms

--- 10.2.0.10 ping statistics ---
4 packets transmitted, 3 received, 25% packet loss, time 15ms
"""


def tunnel_of(capacity_pps: float, asked: list[float] | None = None) -> Callable[[float], udp.Delivery]:
    """A tunnel that delivers up to so much, and the rest never."""

    def probe(rate_pps: float) -> udp.Delivery:
        if asked is not None:
            asked.append(rate_pps)
        return udp.Delivery(round(rate_pps), round(min(rate_pps, capacity_pps)), 1.0)

    return probe


@pytest.mark.parametrize("capacity_pps", [700, 19_000, 20_000, 33_000, 150_000, 1_000_000])
def test_search_comes_close_from_any_start(capacity_pps: float) -> None:
    found = udp.highest(tunnel_of(capacity_pps), udp.START_PPS, factor=2, probes=12)
    assert 0.93 * capacity_pps < found <= capacity_pps


def test_search_from_the_round_before_takes_few_probes() -> None:
    for start in (45_000, 50_000, 55_000):
        asked: list[float] = []
        found = udp.highest(tunnel_of(50_000, asked), start, factor=1.2, probes=4)
        assert 0.95 * 50_000 < found <= 50_000
        assert len(asked) == 4


def test_search_goes_on_until_something_passes() -> None:
    asked: list[float] = []
    assert udp.highest(tunnel_of(1000, asked), 20_000, factor=2, probes=2) > 500
    assert len(asked) > 2


def test_search_gives_up_on_a_tunnel_that_delivers_nothing() -> None:
    with pytest.raises(LabError, match="more than 1% lost"):
        udp.highest(tunnel_of(0), 20_000, factor=2, probes=4)


def test_what_the_sender_could_not_send_is_not_lost() -> None:
    found = udp.highest(lambda rate_pps: udp.Delivery(1000, 1000, 0.5), 20_000, factor=2, probes=3)
    assert found == 2000


@pytest.mark.parametrize(("delivered", "passed"), [(1000, True), (991, True), (990, False), (0, False)])
def test_a_probe_passes_under_one_percent(delivered: int, passed: bool) -> None:
    assert udp.Delivery(1000, delivered, 1.0).passed is passed


def test_a_probe_that_sent_nothing_fails() -> None:
    assert not udp.Delivery(0, 0, 1.0).passed


def test_ping_output() -> None:
    assert ping.times_ms(PINGS) == [0.5, 12.0, 0.7]
    found = ping.evaluate(ping.times_ms(PINGS), sent=4)
    assert (found.p50_ms, found.unanswered) == (0.7, 0.25)
    assert 11 < found.p99_ms <= 12
    with pytest.raises(LabError, match="no ping"):
        ping.evaluate([], sent=4)


AB = """
Concurrency Level:      64
Time taken for tests:   2.500 seconds
Complete requests:      5000
Failed requests:        10
   (Connect: 0, Receive: 10, Length: 0, Exceptions: 0)
Requests per second:    2000.00 [#/sec] (mean)
"""


def test_what_ab_says() -> None:
    assert http.answered_a_second(AB) == 4990 / 2.5
    with pytest.raises(LabError, match="no HTTP request is answered"):
        http.answered_a_second(AB.replace("10\n", "5000\n", 1))
    with pytest.raises(LabError, match="ab gave no result"):
        http.answered_a_second("")


def test_kernel_counters_of_the_sink() -> None:
    snmp = (
        "Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n"
        "Udp: 5 1 120 9 0 0 20\nUdpLite: InDatagrams\nUdpLite: 0\n"
    )
    assert datagrams.dropped(snmp) == 100


def test_the_share_of_a_lossy_line() -> None:
    assert "numgen random mod 10000 < 10 drop" in loss.ruleset(0.001)
    assert "numgen random mod 10000 < 100 drop" in loss.ruleset(0.01)


def test_iperf3_both_ways_at_once_is_the_sum() -> None:
    report = (
        '{"end": {"streams": [1, 2], "sum_sent": {"retransmits": 3}, "sum_received": {"bits_per_second": 1e9},'
        ' "sum_sent_bidir_reverse": {"retransmits": 4}, "sum_received_bidir_reverse": {"bits_per_second": 5e8}}}'
    )
    assert traffic.parse(report) == traffic.TcpResult(1500.0, 7, 2)


def test_cpu_time_is_told_by_name_and_gigabyte() -> None:
    before = {("gw1", 10): ("charon", 1.0), ("gw2", 20): ("openvpn", 2.0), ("gw2", 21): ("openvpn", 2.0)}
    after = {("gw1", 10): ("charon", 4.0), ("gw2", 20): ("openvpn", 3.0), ("gw2", 22): ("openvpn", 0.5)}
    assert load.per_gigabyte(before, after, 0.5) == {"gw1 charon": 6.0, "gw2 openvpn": 3.0}


def kinds(schedule: load.Schedule) -> set[str]:
    """What a schedule's measurements are called; pings and losses give two or more kinds each."""
    return {measurement.name for measurement in load.measurements(schedule)}


def test_a_full_round_has_every_kind() -> None:
    wanted = {kind for kind in sanity.KINDS if kind.startswith(("tcp", "udp"))}
    assert kinds(load.FULL) == wanted | {"ping-idle", "ping-loaded", "http", "loss"}
    assert {f"loss-{percent:g}" for percent in load.FULL.loss_percent} <= set(sanity.KINDS)


def test_a_quick_round_has_some_kinds() -> None:
    assert kinds(load.QUICK) == {"tcp-4", "udp-512", "ping-idle", "http", "loss"}


def expected_s(schedule: load.Schedule, peers: int) -> float:
    """How long the part takes: what is scheduled, and what starting it costs, which was measured."""
    run_s, probe_s = 0.15, 0.1
    tcp_s = len(schedule.tcp) * (schedule.tcp_s + run_s)
    if schedule.other_ways:
        tcp_s += 2 * len(schedule.tcp) * (schedule.other_ways_s + run_s)
    probes = schedule.udp_first_probes + (schedule.rounds - 1) * schedule.udp_later_probes
    udp_s = len(schedule.udp_bytes) * (probes * (schedule.udp_probe_s + probe_s) + schedule.rounds * run_s)
    pings_s = (schedule.pings + schedule.loaded_pings) * ping.INTERVAL_S + (2 if schedule.loaded_pings else 0)
    loss_s = (1 + len(schedule.loss_percent)) * (schedule.loss_s + run_s)
    http_s = 2 * (schedule.http_s + run_s)
    return peers * (1 + udp_s + schedule.rounds * (tcp_s + pings_s + http_s + loss_s))


def test_schedules_keep_their_time() -> None:
    assert expected_s(load.FULL, peers=10) < 25 * 60  # with one more wireguard-go
    assert expected_s(load.QUICK, peers=9) < 75
