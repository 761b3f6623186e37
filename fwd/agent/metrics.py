"""Prometheus metrics: one custom collector over the status, so that nothing is counted twice and nothing is kept.

Base units; counters end in _total and survive a member's death, since they live in the gateway's shared memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fwd.datapath.shared import ProcessState

Json = dict[str, Any]

_PROCESS = ("process", "peering", "member")
_TRAFFIC = {
    "records": (
        "fwd_records",
        "Inner packets, super-packets counted once; out: sealed, in: written to the TUN device.",
    ),
    "bytes": ("fwd_bytes", "Bytes of those inner packets."),
    "esp_packets": ("fwd_esp_packets", "ESP packets sent and received."),
    "esp_bytes": ("fwd_esp_bytes", "Bytes of those ESP packets, without outer IP and UDP headers."),
}


class StatusCollector(Collector):
    """Metrics out of one status for each scrape."""

    def __init__(self, status: Callable[[], Json]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        status = self._status()
        yield InfoMetricFamily("fwd_build", "The version that runs.", {"version": status["version"]})
        yield GaugeMetricFamily("fwd_ready", "1: every process runs and every member has an SA.", int(status["ready"]))
        yield GaugeMetricFamily("fwd_uptime_seconds", "Since the gateway started.", status["gateway"]["uptime_s"])
        yield from _processes(status)
        yield from _demux(status["peerings"])
        yield from _traffic(status["peerings"])
        yield from _members(status["peerings"])
        yield from _peerings(status["peerings"])
        yield from _keys(status["peerings"])
        yield from _certificates(status["peerings"])


def exposition(status: Callable[[], Json], accept: str) -> tuple[bytes, str]:
    """The metrics as text and its content type; `accept` is the request's Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _processes(status: Json) -> Iterator[Metric]:
    rows = [([p["name"], "", ""], p) for p in status["processes"]]
    for peering in status["peerings"]:
        name = peering["name"]
        rows.append((["demux", name, ""], peering["demux"]))
        rows += [(["member", name, str(m["index"])], m) for m in peering["members"]]
    running = ProcessState.RUNNING.name.lower()
    yield _gauge("fwd_process_up", "1: the process runs.", _PROCESS, ((k, p["state"] == running) for k, p in rows))
    yield _gauge(
        "fwd_process_heartbeat_age_seconds",
        "Since the last turn of the process's own loop.",
        _PROCESS,
        ((k, p["heartbeat_age_ms"] / 1000) for k, p in rows if p["heartbeat_age_ms"] is not None),
    )
    restarts = ((k, p["restarts"]) for k, p in rows)
    yield _counter("fwd_process_restarts", "Times that the process was replaced.", _PROCESS, restarts)


def _demux(peerings: list[Json]) -> Iterator[Metric]:
    for key, text in (("records", "Records read from the TUN device."), ("bytes", "Bytes of those records.")):
        yield _counter(f"fwd_demux_{key}", text, ("peering",), (([p["name"]], p["demux"][key]) for p in peerings))


def _traffic(peerings: list[Json]) -> Iterator[Metric]:
    for key, (name, text) in _TRAFFIC.items():
        yield _counter(
            name,
            text,
            ("peering", "member", "direction"),
            (
                ([p["name"], str(m["index"]), direction], m[direction][key])
                for p in peerings
                for m in p["members"]
                for direction in ("out", "in")
            ),
        )


def _members(peerings: list[Json]) -> Iterator[Metric]:
    rows = [([p["name"], str(m["index"])], m) for p in peerings for m in p["members"]]
    labels = ("peering", "member")
    up = ((k, m["path"] == "up") for k, m in rows)
    yield _gauge("fwd_member_path_up", "0: the far side does not answer this member.", labels, up)
    for name, text, key in (
        ("fwd_member_path_mtu_bytes", "Largest outer packet the member sends.", "path_mtu"),
        ("fwd_member_buckets", "Buckets of the flow table that the member owns.", "buckets"),
        ("fwd_member_ring_segments_waiting", "Segments in the member's ring.", "ring_waiting"),
    ):
        yield _gauge(name, text, labels, ((k, m[key]) for k, m in rows))


def _peerings(peerings: list[Json]) -> Iterator[Metric]:
    yield _counter(
        "fwd_drops",
        "Dropped, by reason: records, ESP packets, or holes, as the reason says.",
        ("peering", "reason"),
        (([p["name"], reason], count) for p in peerings for reason, count in p["drops"].items()),
    )
    yield _counter(
        "fwd_icmp_errors",
        "ICMP errors of routers outside the selectors that passed, since the packet that they quote is the peering's.",
        ("peering", "direction"),
        (([p["name"], direction], count) for p in peerings for direction, count in p["icmp_errors"].items()),
    )
    yield _gauge(
        "fwd_offload_in_force",
        "1: the kernel granted the offload; 0: it refused.",
        ("peering", "offload"),
        (
            ([p["name"], name], name in p["offloads"]["in_force"])
            for p in peerings
            for name in sorted({*p["offloads"]["in_force"], *p["offloads"]["refused"]})
        ),
    )


def _keys(peerings: list[Json]) -> Iterator[Metric]:
    """Of peerings with IKEv2."""
    rows = [([p["name"]], p["ike_sas"]) for p in peerings if p["keys"] != "lab"]
    up = ((k, any(sa["state"] == "established" for sa in sas)) for k, sas in rows)
    yield _gauge("fwd_ike_established", "1: there is an IKE SA with the far gateway.", ("peering",), up)
    held = ((k, sum(len(sa["children"]) for sa in sas)) for k, sas in rows)
    yield _gauge("fwd_ike_child_sas", "Child SAs: in use, spare, and on their way out.", ("peering",), held)
    faults = (([p["name"]], p["ike_faults"]) for p in peerings if p["keys"] != "lab")
    failures = (([p["name"], reason], count) for p in peerings for reason, count in p["ike_failures"].items())
    text = "What attempts to authenticate, or to make an SA, have failed by since keyd began."
    yield _counter("fwd_ike_failures", text, ("peering", "reason"), failures)
    yield _gauge("fwd_ike_faults", "Faults of fwd's own in IKE since keyd began; see the log.", ("peering",), faults)


def _certificates(peerings: list[Json]) -> Iterator[Metric]:
    """Of peerings with certificates. Of the far gateway's there is none before it has proved itself."""
    days = [
        ([p["name"], side], p["certificates"].get(f"{side}_days")) for p in peerings for side in ("local", "remote")
    ]
    known = ((labels, value) for labels, value in days if value is not None)
    yield _gauge("fwd_certificate_days_left", "Until a gateway's certificate ends.", ("peering", "side"), known)


def _gauge(name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for values, value in rows:
        family.add_metric(values, float(value))
    return family


def _counter(name: str, text: str, labels: Iterable[str], rows: Iterable[tuple[list[str], float]]) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, value in rows:
        family.add_metric(values, value)
    return family
