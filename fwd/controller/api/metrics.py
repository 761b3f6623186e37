"""What Prometheus is told of a controller and its fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from fwd.controller.api import shown
from fwd.controller.control import Control
from fwd.controller.health import Health
from fwd.controller.members import drops_in
from fwd.controller.shares import shares_in

_PAIR_STATES: Final = ("up", "degraded", "down", "unknown")


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
        leads = GaugeMetricFamily("fwd_controller_leader", "Who leads, as this controller knows it.", labels=["leader"])
        leads.add_metric([self._control.who if leading else self._control.leader], 1)
        yield leads
        yield from self._webhook()
        yield from self._door()
        if not leading:
            return

        hosts = GaugeMetricFamily("fwd_controller_hosts", "Hosts by how they are.", labels=["kind", "health"])
        health = Counter((kind, self._health(name)) for kind, name in desk.hosts)
        for kind in ("gateway", "router"):
            for one in Health:
                hosts.add_metric([kind, one.value], health[kind, one.value])
        yield hosts

        yield from self._each()

        pairs = GaugeMetricFamily("fwd_controller_pairs", "Pairs by how they are.", labels=["peering", "state"])
        states = Counter((one.peering, shown.pair(self._control, one).state) for one in desk.kept.pairs)
        for peering in sorted(one.name for one in desk.kept.fleet.peerings):
            for state in _PAIR_STATES:
                pairs.add_metric([peering, state], states[peering, state])
        yield pairs
        yield from self._carried()
        yield self._drops()

        ages = GaugeMetricFamily("fwd_controller_heartbeat_age_seconds", "Since a host has reported.", labels=["host"])
        for name, beat in watch.beats.items():
            ages.add_metric([name], max(0.0, self._control.clock() - beat.at))
        yield ages

    def _carried(self) -> Iterator[Metric]:
        """What goes through peerings and gateways, as gateways count it, and what routers give to each gateway."""
        control, clock = self._control, self._control.clock()
        peerings = GaugeMetricFamily(
            "fwd_controller_peering_bits_per_second", "Inner traffic of a peering, both ways.", labels=["peering"]
        )
        gateways = GaugeMetricFamily(
            "fwd_controller_gateway_bits_per_second", "Inner traffic of a gateway, both ways.", labels=["host"]
        )
        for (kind, name), bits_s in sorted(control.flows.of_all(control.desk.kept.fleet, clock).items()):
            (peerings if kind == "peering" else gateways).add_metric([name], bits_s)
        yield from (peerings, gateways)

        shares = GaugeMetricFamily(
            "fwd_controller_flow_share", "Share of a router's flows that a gateway has.", labels=["router", "host"]
        )
        for name, told in sorted(shares_in(control.desk.kept.fleet, control.watch.beats, clock).items()):
            for one in told:
                shares.add_metric([one.router, name], one.share)
        yield shares

    def _drops(self) -> Metric:
        """What gateways have dropped since they began; whatever they call it, there are no more reasons than fwd's."""
        drops = CounterMetricFamily(
            "fwd_controller_drops", "Packets that a gateway has dropped, by reason.", labels=["host", "reason"]
        )
        for gateway in self._control.desk.kept.fleet.gateways:
            beat = self._control.watch.beats.get(gateway.name)
            counts: Counter[str] = Counter()
            for one in drops_in(beat.status) if beat is not None else ():
                counts[one.reason if one.sentence else "other"] += one.count
            for reason, count in sorted(counts.items()):
                drops.add_metric([gateway.name, reason], count)
        return drops

    def _each(self) -> Iterator[Metric]:
        """How each host is, and how often it was restarted."""
        how = GaugeMetricFamily(
            "fwd_controller_host", "1: how a host is.", labels=["kind", "host", "health", "version"]
        )
        for kind, name in sorted(self._control.desk.hosts):
            beat = self._control.watch.beats.get(name)
            how.add_metric([kind, name, self._health(name), beat.version if beat else ""], 1)
        yield how
        restarts = CounterMetricFamily(
            "fwd_controller_restarts", "Restarts of a host by this controller.", labels=["host", "result"]
        )
        for (name, good), count in sorted(self._control.restarts.items()):
            restarts.add_metric([name, "done" if good else "failed"], count)
        yield restarts

    def _door(self) -> Iterator[Metric]:
        """Connections before their handshake."""
        door = self._control.door
        if door is not None:
            yield GaugeMetricFamily("fwd_controller_handshakes", "TLS handshakes under way.", door.handshakes)
            for name, text in (
                ("refused", "Connections refused before their handshake."),
                ("failed", "Handshakes failed."),
            ):
                yield CounterMetricFamily(f"fwd_controller_handshakes_{name}", text, door.counts[name])

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
