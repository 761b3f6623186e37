"""How long TCP streams were silent, read from iperf3's intervals; and what it says of UDP. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fwd.lab import traffic
from fwd.lab.world import LabError


@dataclass(frozen=True)
class Streams:
    """What a run of iperf3 with intervals shows of its streams, both ways together."""

    count: int
    received_bytes: int
    longest_silence_s: float


def read(output: str) -> Streams:
    """From `iperf3 -J -i 0.1`. Raises LabError with iperf3's own reason if it failed."""
    report = traffic.report(output)
    silent_s: dict[int, float] = {}
    longest_s: dict[int, float] = {}
    received = 0
    for interval in report["intervals"]:
        for stream in interval["streams"]:
            socket, length_s = stream["socket"], stream["end"] - stream["start"]
            silent_s[socket] = 0.0 if stream["bytes"] else silent_s.get(socket, 0.0) + length_s
            longest_s[socket] = max(longest_s.get(socket, 0.0), silent_s[socket])
            received += 0 if stream["sender"] else stream["bytes"]
    if not longest_s:
        raise LabError("iperf3 told of no interval")
    return Streams(len(longest_s), received, round(max(longest_s.values()), 2))


def read_udp(output: str) -> tuple[float, float]:
    """Mbit/s that arrived and per cent lost, from `iperf3 -J -u`. Raises LabError."""
    total = traffic.report(output)["end"]["sum"]
    percent: float = total["lost_percent"]
    return round(total["bits_per_second"] * (1 - percent / 100) / 1e6, 1), round(percent, 2)
