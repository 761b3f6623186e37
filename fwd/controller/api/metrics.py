"""What Prometheus is told of a controller and its fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from fwd.controller.api import shown
from fwd.controller.control import Control
from fwd.controller.health import Health


def metrics_of(control: Control) -> bytes:
    """Write all metrics as they are now."""
    registry = CollectorRegistry()
    registry.register(_Fleet(control))
    return generate_latest(registry)


class _Fleet(Collector):
    """Reads the numbers when it is asked."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def collect(self) -> Iterator[Metric]:
        desk, watch = self._control.desk, self._control.watch
        leading = desk.term is not None
        yield GaugeMetricFamily("fwd_controller_leading", "Whether this controller leads.", int(leading))
        yield GaugeMetricFamily("fwd_controller_term", "The term in which it leads.", desk.term or 0)
        yield GaugeMetricFamily("fwd_controller_generation", "Of what hosts are to do.", desk.kept.generation)
        yield from self._webhook()
        if not leading:
            return

        hosts = GaugeMetricFamily("fwd_controller_hosts", "Hosts by how they are.", labels=["kind", "health"])
        health = Counter((kind, self._health(name)) for kind, name in desk.hosts)
        for kind in ("gateway", "router"):
            for one in Health:
                hosts.add_metric([kind, one.value], health[kind, one.value])
        yield hosts

        pairs = GaugeMetricFamily("fwd_controller_pairs", "Pairs by how they are.", labels=["peering", "state"])
        states = Counter((one.peering, shown.pair(self._control, one).state) for one in desk.kept.pairs)
        for (peering, state), count in sorted(states.items()):
            pairs.add_metric([peering, state], count)
        yield pairs

        ages = GaugeMetricFamily("fwd_controller_heartbeat_age_seconds", "Since a host has reported.", labels=["host"])
        for name, beat in watch.beats.items():
            ages.add_metric([name], max(0.0, self._control.clock() - beat.at))
        yield ages

    def _webhook(self) -> Iterator[Metric]:
        """What was told elsewhere; nothing if nobody is."""
        hook = self._control.webhook
        if hook is None:
            return
        for name, text in (
            ("delivered", "Events that the webhook was told."),
            ("failed", "Attempts to tell the webhook an event that have failed."),
            ("lost", "Events that the webhook was not told, and never will be."),
        ):
            yield CounterMetricFamily(f"fwd_controller_webhook_{name}", text, hook.counts[name])
        yield GaugeMetricFamily("fwd_controller_webhook_waiting", "Events that wait to be told.", hook.waiting)

    def _health(self, name: str) -> str:
        verdict = self._control.watch.verdicts.get(name)
        return verdict.health.value if verdict else Health.JOINING.value
