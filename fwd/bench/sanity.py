"""Whether a part's result is whole and sane, whatever the speed: what a quick run is for.

A quick run measures fewer points and kinds of traffic; a full one must have them all.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from fwd.bench import paper, targets
from fwd.bench.result import Result

PEERS: Final = ("fwd", "strongswan", "openvpn-*", "wireguard-go-*")  # of versions, one at least
_TCP: Final = [f"tcp-{streams}{way}" for streams in (1, 4, 16) for way in ("", "-reverse", "-both")]
KINDS: Final = (
    *_TCP, "udp-64", "udp-512", "udp-1400", "ping-idle-p50", "ping-idle-p99", "ping-loaded-p50", "ping-loaded-p99",
    "http-new", "http-kept", "cpu", "loss-0.1", "loss-1",
)  # fmt: skip
_FRAME: Final = ("schema", "seconds", "environment/cores")
REQUIRED: Final = {
    "peers": ["rounds"],
    "scale": [
        "line/cap_mbps", "line/line_mbps", "line/streams", "line/points/*/mbps", "line/points/*/ideal_mbps",
        "line/points/*/share_of_ideal", "line/points/*/busy/mbps", "line/points/*/busy/share_of_ideal",
        "pairs/cap_mbps", "pairs/line_mbps", "pairs/streams", "pairs/points/*/mbps",
        "pairs/points/*/ideal_mbps", "pairs/points/*/share_of_ideal", "pairs/points/*/delivered_mbps",
        "cores/points/*/gbps_sealed", "cores/points/*/gbps_opened",
        "cores/points/*/efficiency_sealed", "cores/points/*/efficiency_opened", "cores/points/*/demux_share",
    ],
    "micro": [
        f"pairs/{pair}/{key}"
        for pair in ("seal", "open", "ring", "pin", "assemble", "replay")
        for key in ("ours_us", "floor_us", "of_floor")
    ],
    "costs": [
        *(f"forms/pure/steps/{step}/{size}" for step in paper.STEPS for size in ("small_us", "large_us")),
        *(f"forms/pure/points/*/{way}/gbps" for way in ("demux", "kernel")),
        *(f"forms/pure/shared/*/{what}/of_computed" for what in ("sealed", "opened")),
    ],
    "failover": [
        "kills", "gaps_ms/p50", "gaps_ms/p90", "gaps_ms/p99", "gaps_ms/max", "quiet_gaps_ms/p50", "tcp_resets",
        "retransmits", "lost_probes", "received_mbps",
    ],
    "profile": [
        *(f"processes/{host} {name}/{key}" for host in ("gw1", "gw2") for name in ("demux", "member 0")
          for key in ("cores", "user", "system")),
        "demux_share", "jumbo/ratio",
    ],
}  # fmt: skip
# CPU time of a process that did nothing worth a tick, and what is better if it is none.
_MAY_BE_ZERO: Final = ("s/GB", "segments", "share lost")


def faults(result: Result) -> list[str]:
    """What is missing or cannot be, a line each; empty if all is well."""
    part = result["part"]
    found = [f"{part}: {path} is missing" for path in _missing(result)]
    return found + [f"{part}: {path}: {what}" for path, what in _insane(result, "")]


def _missing(result: Result) -> Iterator[str]:
    for path in (*_FRAME, *REQUIRED[result["part"]]):
        if not list(targets.find(result, path)):
            yield path
    if result["part"] == "peers":
        yield from _missing_of_peers(result)


def _missing_of_peers(result: Result) -> Iterator[str]:
    measured, ratios = result.get("measurements", {}), result.get("ratios", {})
    kinds = measured if result["quick"] else KINDS
    for peer in _peers(result):
        if peer not in result.get("peers", {}):
            yield f"peers/{peer}"
        if not result.get("cpu", {}).get(peer):
            yield f"cpu/{peer}"
        for kind in kinds:
            if peer not in measured.get(kind, {}):
                yield f"measurements/{kind}/{peer}"
            if peer != "fwd" and peer not in ratios.get(kind, {}):
                yield f"ratios/{kind}/{peer}"
    if not measured:
        yield "measurements"


def _peers(result: Result) -> Iterator[str]:
    """Those that must be there; a pattern stands for itself if there is none that it fits."""
    for pattern in PEERS:
        yield from fnmatch.filter(result.get("peers", {}), pattern) or [pattern]


def _insane(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """(path, what is wrong) of every number that cannot be."""
    if isinstance(value, Mapping):
        if {"unit", "median", "low", "high", "values"} <= set(value):
            yield from _insane_figure(value, path)
        for key, inner in value.items():
            yield from _insane(inner, f"{path}/{key}".lstrip("/"))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _insane(inner, f"{path}/{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} is no number"


def _insane_figure(figure: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    numbers = figure["values"]
    if not numbers:
        yield path, "nothing was measured"
    elif not all(isinstance(number, int | float) for number in numbers):
        yield path, "not numbers"
    elif not figure["low"] <= figure["median"] <= figure["high"]:
        yield path, "the median is outside the spread"
    elif figure["low"] < 0 or (figure["low"] == 0 and figure["unit"] not in _MAY_BE_ZERO):
        yield path, f"{figure['low']:g} {figure['unit']} was measured"
