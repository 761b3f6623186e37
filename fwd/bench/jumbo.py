"""Super-packets over a line of 9,000 bytes beside one of 1,500, as between peered VPCs: fewer, longer ESP packets.

Two labs stand at once and are loaded in turns, so that a drifting machine changes both alike. The clients' MTU is
1,500 in both: what differs is the path between the gateways, which fwd finds by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from fwd.bench.result import figure, ratio
from fwd.lab import tools, traffic
from fwd.lab.topology import Topology

LINES: Final = (9000, 1500)  # MTU in bytes
MEMBERS: Final = 2
STREAMS: Final = 4
ROUNDS: Final = 3
SECONDS: Final = 3.0
QUICK_SECONDS: Final = 1.0


def steps(*, quick: bool) -> int:
    return len(LINES) * (1 if quick else ROUNDS)


def run(*, quick: bool, step: Callable[[int, str], None]) -> dict[str, Any]:
    """Throughput over each line, and the ratio of the two. Raises LabError."""
    mbps: dict[int, list[float]] = {line: [] for line in LINES}
    with ExitStack() as stack:
        labs = {
            line: stack.enter_context(
                tools.standing(Topology(f"bench-line-{line}", wan_mtu_bytes=line), members=MEMBERS)
            )
            for line in LINES
        }

        # In turns, each line first as often as the other.
        for number in range(steps(quick=quick) // len(LINES)):
            for line in LINES if number % 2 == 0 else LINES[::-1]:
                step(sum(map(len, mbps.values())), f"line of {line:,} bytes")
                seconds = QUICK_SECONDS if quick else SECONDS
                mbps[line].append(traffic.run(labs[line], streams=STREAMS, seconds=seconds).received_mbps)

    step(steps(quick=quick), "done")
    return {
        "members": MEMBERS,
        "streams": STREAMS,
        "mbps": {str(line): figure(values, "Mbit/s") for line, values in mbps.items()},
        "ratio": ratio(mbps[LINES[0]], mbps[LINES[1]]),
    }
