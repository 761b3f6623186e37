"""Prometheus metrics: one custom collector over the status, so that nothing is counted twice and nothing is kept.

Names and helps stand beside the status's fields (model/status.py); here are the labels, and the few metrics that are no
field. Base units; counters end in _total and survive a member's death, since they live in the gateway's shared memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from fwd.model import shown
from fwd.model.reasons import Code
from fwd.model.shown import Shown
from fwd.model.status import Beacon, Controller, Demux, FarGateway, Gateway, Peering, Process, Status, Traffic
from fwd.model.status import Member as MemberStatus
from fwd.proto.drops import DropReason

_PROCESS = ("process", "peering", "member")
_Rows = Iterable[tuple[Sequence[str], Any]]


class StatusCollector(Collector):
    """Metrics out of one status for each scrape."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        status = self._status()
        yield InfoMetricFamily("fwd_build", "The version that runs.", {"version": status.version})
        for cls, labels, rows in _parts(status):
            for field in shown.shown(cls):
                if field.metric is not None and (cls is Process or field not in shown.shown(Process)):
                    yield _family(field, labels, rows)
        yield from _readiness(status)
        yield from _drop_reasons()
        yield from _offloads(status.peerings)
        yield from _keys(status.peerings)
        yield from _certificates(status.peerings)


def exposition(status: Callable[[], Status], accept: str) -> tuple[bytes, str]:
    """Return the metrics as text and its content type; `accept` is the request's Accept header."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(status))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _parts(status: Status) -> Iterator[tuple[type, Sequence[str], _Rows]]:
    """Yield each class of the status that has metrics, the names of its labels, and its objects with their labels."""
    peerings = status.peerings
    members = [((p.name, str(m.index)), m) for p in peerings for m in p.members]
    yield Status, (), [((), status)]
    yield Gateway, (), [((), status.gateway)]
    yield Beacon, (), [((), status.beacon)] if status.beacon else []
    yield Controller, (), [((), status.controller)] if status.controller else []
    yield (
        Process,
        _PROCESS,
        [
            *(((process.name, "", ""), process) for process in status.processes),
            *((("demux", p.name, ""), p.demux) for p in peerings),
            *((("member", *labels), member) for labels, member in members),
        ],
    )
    yield Demux, ("peering",), [((p.name,), p.demux) for p in peerings]
    yield MemberStatus, ("peering", "member"), members
    yield (
        Traffic,
        ("peering", "member", "direction"),
        [((*labels, way), part) for labels, m in members for way, part in (("out", m.out), ("in", m.in_))],
    )
    yield FarGateway, ("peering", "far"), [((p.name, far.address), far) for p in peerings for far in p.far]
    yield Peering, ("peering",), [((p.name,), p) for p in peerings]


def _family(field: Shown, labels: Sequence[str], rows: _Rows) -> Metric:
    """Return the metric of one field, over all objects that have it."""
    metric = field.metric
    assert metric is not None
    values = ((of, getattr(part, field.name)) for of, part in rows)
    if metric.label:
        labels = (*labels, metric.label)
        values = (((*of, key), value) for of, mapping in values for key, value in mapping.items())
    if metric.one:
        values = ((of, value == metric.one) for of, value in values)
    samples = (
        (of, value if metric.divisor == 1 else value / metric.divisor) for of, value in values if value is not None
    )
    make = _counter if metric.kind == "counter" else _gauge
    return make(metric.name, field.sentence, labels, samples)


# -- what is not a field ------------------------------------------------------------------------------------------


def _readiness(status: Status) -> Iterator[Metric]:
    """Yield why the gateway is not ready: every code there is, so that an alert can name any."""
    found = Counter(reason.code for reason in status.reasons)
    text = "Reasons of this kind for which the gateway is not ready; docs/status.md has the kinds."
    yield _gauge("fwd_not_ready", text, ("reason",), (((code.value,), found[code.value]) for code in Code))
    troubled = {reason.peering for reason in status.reasons}
    ready = (((p.name,), p.name not in troubled) for p in status.peerings)
    yield _gauge("fwd_peering_ready", "1: nothing keeps this peering from being ready.", ("peering",), ready)


def _drop_reasons() -> Iterator[Metric]:
    labels = ("reason", "unit", "stage", "sentence")
    rows = (((reason.label, reason.unit, reason.stage, reason.sentence), 1) for reason in DropReason)
    yield _gauge(
        "fwd_drop_reason_info", "What a reason of fwd_drops_total counts, where, and what it means.", labels, rows
    )


def _offloads(peerings: Sequence[Peering]) -> Iterator[Metric]:
    rows = (
        ((p.name, name), name in p.offloads.in_force)
        for p in peerings
        for name in sorted({*p.offloads.in_force, *p.offloads.refused})
    )
    text = "1: the offload is in force; 0: it was refused."
    yield _gauge("fwd_offload_in_force", text, ("peering", "offload"), rows)


def _keys(peerings: Sequence[Peering]) -> Iterator[Metric]:
    """Yield metrics of peerings with IKEv2."""
    with_ike = [p for p in peerings if p.keys != "lab"]
    up = (((p.name,), any(sa.state == "established" for sa in p.ike_sas)) for p in with_ike)
    yield _gauge("fwd_ike_established", "1: there is an IKE SA with the far gateway.", ("peering",), up)
    held = (((p.name,), sum(len(sa.children) for sa in p.ike_sas)) for p in with_ike)
    yield _gauge("fwd_ike_child_sas", "Child SAs: in use, spare, and on their way out.", ("peering",), held)


def _certificates(peerings: Sequence[Peering]) -> Iterator[Metric]:
    """Yield metrics of peerings with certificates. Of the far gateway's there is none before it has proved itself."""
    days: list[tuple[Sequence[str], float | None]] = []
    for p in peerings:
        days += [((p.name, "local"), p.certificates.local_days), ((p.name, "remote"), p.certificates.remote_days)]
    known = ((labels, value) for labels, value in days if value is not None)
    yield _gauge("fwd_certificate_days_left", "Days until a gateway's certificate ends.", ("peering", "side"), known)


def _gauge(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for values, value in rows:
        family.add_metric(list(values), float(value))
    return family


def _counter(name: str, text: str, labels: Sequence[str], rows: _Rows) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, value in rows:
        family.add_metric(list(values), value)
    return family
