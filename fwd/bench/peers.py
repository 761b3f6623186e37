"""Part `peers`: the same lab and the same traffic through fwd, its peers, and no tunnel at all.

Each peer has a lab of its own, and all tunnels stand at once, idle but for the one that is measured. A round takes one
kind of traffic after another, and each kind through all peers back to back, in an order that moves on every time: a
ratio compares figures that were taken within seconds of one another, so that a drifting machine changes both alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fwd.bench import load, newest, tunnels
from fwd.bench.result import Figure, Plan, figure, ratio
from fwd.bench.tunnels import Peer, openvpn, wireguard_go
from fwd.lab import traffic
from fwd.lab.topology import Topology
from fwd.lab.world import LabError
from fwd.supervise.awake import Awake

OURS: Final = "fwd"
OURS_ESP: Final = "fwd-esp"
OURS_PURE: Final = "fwd-pure"
OURS_AWAKE: Final = "fwd-low-latency"

Values = dict[str, dict[str, list[float]]]


def run(plan: Plan, more_wireguard_go: Sequence[Path] = ()) -> dict[str, Any]:
    """The part's result; `more_wireguard_go`: further binaries to measure beside. Raises LabError."""
    traffic.require_iperf3()
    plan.step(0, 1, "newest versions")
    newer, unfetched = newest_versions()
    peers = tunnels.every(newer, more_wireguard_go)

    # All labs stand at once, so that peers have their turns within seconds of each other.
    schedule = load.QUICK if plan.quick else load.FULL
    wanted = load.measurements(schedule)
    total = len(peers) * (1 + schedule.rounds * len(wanted))
    records = Records()
    with ExitStack() as stack:
        labs: dict[str, Topology] = {}
        for peer in peers:
            plan.step(len(labs), total, f"{peer.name}: tunnel")
            labs[peer.name] = _stand(stack, peer, len(labs))
        done = len(peers)
        for number, measurement, peer in turns(schedule.rounds, wanted, peers):
            plan.step(done, total, f"{peer.name}: {measurement.name}, round {number + 1} of {schedule.rounds}")
            records.add(peer.name, _take(measurement, peer, labs[peer.name]))
            if (measurement.name, peer.name) == (load.IDLE, OURS):
                records.add(OURS_AWAKE, _take_awake(measurement, peer, labs[peer.name]))
            done += 1
        plan.step(done, total, "done")
    about = {peer.name: {"version": peer.version, "settings": peer.settings, "source": peer.source} for peer in peers}
    about[OURS_AWAKE] = {**about[OURS], "settings": f"low_latency, else as {OURS}; pings without load alone"}
    return {"rounds": schedule.rounds, "peers": about, "unfetched": unfetched, **records.body()}


def newest_versions(directory: Path = newest.DIRECTORY) -> tuple[list[Peer], str]:
    """Peers of the newest versions that Debian has; or none, and why."""
    try:
        found = newest.fetch(directory)
    except newest.UnfetchedError as error:
        return [], str(error)
    return [wireguard_go.peer(found.wireguard_go()), openvpn.peer(found.openvpn())], ""


def turns(
    rounds: int, measurements: Sequence[load.Measurement], peers: Sequence[Peer]
) -> Iterator[tuple[int, load.Measurement, Peer]]:
    """(round, measurement, peer) in the order in which they are taken."""
    for number in range(rounds):
        for place, measurement in enumerate(measurements):
            first = (number * len(measurements) + place) % len(peers)
            for peer in [*peers[first:], *peers[:first]]:
                yield number, measurement, peer


def _stand(stack: ExitStack, peer: Peer, number: int) -> Topology:
    """A peer's lab and tunnel; what an earlier run left under this name goes first."""
    word = re.sub(r"[^a-z0-9]+", "-", peer.name.lower())[:18].strip("-")
    topology = Topology(f"bench-{number}-{word}")
    topology.down()
    stack.callback(topology.down)
    topology.up()
    stack.enter_context(peer.tunnel(topology))
    return topology


def _take(measurement: load.Measurement, peer: Peer, topology: Topology) -> load.Taken:
    try:
        return measurement.take(topology)
    except LabError as error:
        raise LabError(f"{peer.name}, {measurement.name}: {error}") from None


def _take_awake(measurement: load.Measurement, peer: Peer, topology: Topology) -> load.Taken:
    """Take it with what `low_latency` does to the host, which would else do it to all peers."""
    awake = Awake()
    awake.want(True)
    try:
        return _take(measurement, peer, topology)
    finally:
        awake.close()


@dataclass
class Records:
    """All that was taken, by kind (or process) and peer, a value for each round."""

    values: Values = field(default_factory=dict)
    retransmits: Values = field(default_factory=dict)
    unanswered: Values = field(default_factory=dict)
    cpu: Values = field(default_factory=dict)  # by peer and process

    def add(self, peer: str, taken: load.Taken) -> None:
        for into, found in (
            (self.values, taken.values),
            (self.retransmits, taken.retransmits),
            (self.unanswered, taken.unanswered),
        ):
            for kind, value in found.items():
                into.setdefault(kind, {}).setdefault(peer, []).append(value)
        for process, seconds in taken.cpu_s_per_gb.items():
            self.cpu.setdefault(peer, {}).setdefault(process, []).append(seconds)

    def body(self) -> dict[str, Any]:
        return {
            "measurements": {kind: _figures(of, load.unit(kind)) for kind, of in self.values.items()},
            "retransmits": {kind: _figures(of, "segments") for kind, of in self.retransmits.items()},
            "unanswered": {kind: _figures(of, "share lost") for kind, of in self.unanswered.items()},
            "cpu": {peer: _figures(of, "s/GB") for peer, of in self.cpu.items()},
            "ratios": ratios(self.values),
        }


def ratios(values: Values) -> dict[str, dict[str, Figure]]:
    """fwd over each peer, by kind; for TCP also `pure-KIND`, in pure Python, and one way `esp-KIND`, with that payload.

    Where nothing is compiled fwd itself is pure.
    """
    found = {kind: _over(of, OURS) for kind, of in values.items()}
    tcp = {kind: of for kind, of in values.items() if kind.startswith("tcp-")}
    esp = {f"esp-{kind}": _over(of, OURS_ESP) for kind, of in tcp.items() if re.fullmatch(r"tcp-\d+", kind)}
    pure = {f"pure-{kind}": _over(of, OURS_PURE if OURS_PURE in of else OURS) for kind, of in tcp.items()}
    return found | esp | pure


def _over(by_peer: dict[str, list[float]], ours: str) -> dict[str, Figure]:
    return {peer: ratio(by_peer[ours], theirs) for peer, theirs in by_peer.items() if peer not in (ours, OURS)}


def _figures(by_key: dict[str, list[float]], unit: str) -> dict[str, Figure]:
    return {key: figure(values, unit) for key, values in by_key.items()}
