"""Part `costs`: what a record costs at each step of its way, and from that Gbit/s by cores on paper (paper.py).

Each step by itself, on one core, for acknowledgements and for records of 64 KiB: the data path's in memory, with the
compiled core where there is one, and in pure Python; the kernel's in a network namespace (kernelcost.py). Bursts are as
under load: two full records share one, and eight acknowledgements. Then what costs let expect of a demux and members
that share one core and two is held against those at work (cores.py). All of it goes in turns, round by round, as the
machine's speed drifts.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fwd.bench import cores, kernelcost, paper
from fwd.bench.micro import mean_us
from fwd.bench.result import Plan, figure, ratio
from fwd.bench.rig import Path, Record
from fwd.datapath.demux import Demux
from fwd.lab.world import LabError
from fwd.proto import core
from fwd.proto.flow import rendezvous_scores

BURSTS: Final = {"small_us": (paper.SMALL, 8), "large_us": (paper.LARGE, 2)}  # octets of a record, records of a burst
_ROUNDS, _TURNS = 9, 5  # and how often a round takes each step
_SHARED_S, _QUICK_SHARED_S = 0.4, 0.1
_TIMEOUT_S = 60.0
_SOCKET_BYTES = 1 << 20

Values = dict[str, dict[str, list[float]]]  # by step and size: µs a record, a value for each round


def run(plan: Plan) -> dict[str, Any]:
    """The part's result. Raises LabError."""
    rounds = 1 if plan.quick else _ROUNDS
    kernel: list[Values] = []
    told: dict[str, list[dict[str, Any]]] = {form: [] for form in forms_here()}
    for done in range(rounds):
        plan.step(done, rounds, f"each step, round {done + 1}")
        kernel.append(kernelcost.measure(_TURNS, BURSTS))
        for form, each in told.items():
            each.append(_in_its_own(form, quick=plan.quick))
    plan.step(rounds, rounds, "done")
    forms = {form: _form(each, kernel) for form, each in told.items()}
    return {"acks_per_record": paper.ACKS_PER_RECORD, "forms": forms}


def forms_here() -> list[str]:
    """The forms of the stages that can run here."""
    return [core.name(), *(["pure"] if core.in_use else [])]


def _form(told: Sequence[Mapping[str, Any]], kernel: Sequence[Values]) -> dict[str, Any]:
    """Costs, table and check of one form, of a value for each round."""
    rounds = [_medians({**own["steps"], **its}) for own, its in zip(told, kernel, strict=True)]
    steps = {
        step: {size: figure([each[step][size]["median"] for each in rounds], "us") for size in BURSTS}
        for step in (*paper.STEPS, "copy")
    }
    costs = paper.Costs.measured(steps)
    return {
        "steps": {step: steps[step] for step in paper.STEPS},
        "fit": {step: dataclasses.asdict(cost) for step, cost in paper.by_step(costs).items()},
        "points": paper.points(costs),
        "shared": [
            {"cores": n, **{what: _held_against(told, rounds, n, what) for what in ("sealed", "opened")}}
            for n in cores.counts()[:2]
        ],
    }


def _medians(values: Values) -> dict[str, dict[str, dict[str, float]]]:
    return {
        step: {size: {"median": statistics.median(each)} for size, each in sizes.items()}
        for step, sizes in values.items()
    }


def _held_against(
    told: Sequence[Mapping[str, Any]], rounds: Sequence[dict[str, dict[str, dict[str, float]]]], n: int, what: str
) -> dict[str, Any]:
    """What was measured on `n` cores, beside what the costs of the same round let expect."""
    computed = [
        paper.shared_gbps(paper.Costs.measured(each), n, each["copy"]["large_us"]["median"], opens=what == "opened")
        for each in rounds
    ]
    measured = [own["shared"][str(n)][what] for own in told]
    return {
        "computed_gbps": figure(computed, "Gbit/s"),
        "gbps": figure(measured, "Gbit/s"),
        "of_computed": ratio(measured, computed),
    }


def _in_its_own(form: str, *, quick: bool) -> dict[str, Any]:
    """What a process of that form measures: which one it is, is decided when fwd is imported."""
    argv = [sys.executable, "-m", "fwd.bench.costs", *(["--quick"] if quick else [])]
    environment = {**os.environ, "FWD_PURE": "1" if form == "pure" else ""}
    try:
        done = subprocess.run(
            argv, env=environment, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise LabError(f"costs: the data path in memory took more than {_TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip() or "no reason given").splitlines()[-1]
        raise LabError(f"costs: the data path in memory: {last}") from None
    told: dict[str, Any] = json.loads(done.stdout)
    return told


# -- in that process ----------------------------------------------------------------------------------------------


def in_memory(*, quick: bool) -> dict[str, Any]:
    """Time the data path's steps, and a demux and members that share so many cores: one round."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    found = _steps()
    os.sched_setaffinity(0, allowed)

    seconds = _QUICK_SHARED_S if quick else _SHARED_S
    ways = {"sealed": False, "opened": True}
    shared = {
        members: {what: cores.measure(members, seconds, opens=opens).gbps for what, opens in ways.items()}
        for members in cores.counts()[:2]
    }
    return {"steps": found, "shared": shared}


def _steps() -> Values:
    """All steps in turns."""
    way = _Way()
    found: Values = {step: {size: [] for size in BURSTS} for step in ("demux", "seal", "open", "copy")}
    gc.disable()
    for turn in range(_TURNS + 1):
        for size, (octets, count) in BURSTS.items():
            for step, us in way.timed(Record(octets), count).items():
                if turn:  # the first one makes tables and warms caches
                    found[step][size].append(us / count)
    gc.enable()
    return found


class _Way:
    """The way of a record through both gateways, with a socket pair for the TUN device."""

    def __init__(self) -> None:
        self._path, self._filled = Path(), Path()  # the member's, and what the demux fills
        path = self._filled
        near, self._client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for each in (near, self._client):
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._tun = near.detach()

        # The rig's records come in where they would go out: its peering lets them, seen from the other side.
        peering = path.peering.model_copy(
            update={"local_ts": path.peering.remote_ts, "remote_ts": path.peering.local_ts, "payload": "superpacket"}
        )
        self._demux = Demux(peering, self._tun, [path.ring], path.shared, rendezvous_scores(1))
        path.shared.owners[:] = 0
        self._scratch = [memoryview(bytearray(paper.LARGE + 100))]

    def timed(self, record: Record, count: int) -> dict[str, float]:
        """Microseconds of each step for a burst of so many records."""
        path = self._path

        def feed() -> None:
            self._filled.drain()
            for _ in range(count):
                self._client.send(record.view)

        def to_seal() -> None:
            path.drain()
            path.put(record, count)

        def to_open() -> None:
            to_seal()
            path.work()

        read_us, bare_us = mean_us(self._read, feed), mean_us(self._bare_read, feed)
        open_us, copy_us = mean_us(path.receive, to_open), mean_us(self._copy)
        return {
            "demux": max(0.0, read_us - bare_us),
            "seal": mean_us(path.work, to_seal),
            "open": max(0.0, open_us - copy_us),
            "copy": copy_us,
        }

    def _read(self) -> None:
        """As the demux's loop does."""
        self._demux._read_burst(time.monotonic_ns() // 10_000_000)
        self._demux._hand_over()
        if self._filled.ring.head == self._filled.ring.done:
            raise RuntimeError("the demux handed nothing over")

    def _bare_read(self) -> None:
        """Read what was fed: the kernel's part, which is the TUN device's."""
        while True:
            try:
                os.readv(self._tun, self._scratch)
            except BlockingIOError:
                return

    def _copy(self) -> None:
        """Copy what was sent to where it is received: the kernel's part, too."""
        for view, _ in self._path.wire.sends:
            self._path.inbound.space()[: len(view)] = view


def main() -> None:
    """Print what this process measures as JSON."""
    print(json.dumps(in_memory(quick="--quick" in sys.argv)))


if __name__ == "__main__":
    main()
