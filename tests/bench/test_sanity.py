"""What makes a result whole and sane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from samples import results, spread

from fwd.bench import sanity

Json = dict[str, Any]


def faults(part: str, change: Callable[[Json], object]) -> list[str]:
    result = results()[part]
    change(result)
    return sanity.faults(result)


@pytest.mark.parametrize(
    ("part", "change", "fault"),
    [
        ("micro", lambda r: r["pairs"].pop("pin"), "pairs/pin/ours_us is missing"),
        ("scale", lambda r: r["cores"].update(points=[]), "cores/points/*/gbps_sealed is missing"),
        ("profile", lambda r: r["processes"].pop("gw2 demux"), "processes/gw2 demux/cores is missing"),
        ("failover", lambda r: r["gaps_ms"].pop("p99"), "gaps_ms/p99 is missing"),
        ("failover", lambda r: r.update(received_mbps=float("inf")), "received_mbps: inf is no number"),
        ("peers", lambda r: r["measurements"]["udp-64"].pop("openvpn-2.6"), "udp-64/openvpn-2.6 is missing"),
        ("peers", lambda r: r["ratios"].pop("udp-64"), "ratios/udp-64/strongswan is missing"),
        ("peers", lambda r: r["cpu"].pop("fwd"), "cpu/fwd is missing"),
        ("peers", lambda r: [r["peers"].pop(f"openvpn-{v}") for v in (2.6, 2.7)], "peers/openvpn-* is missing"),
        ("peers", lambda r: r.update(measurements={}), "measurements is missing"),
        ("profile", lambda r: r.update(demux_share=spread(0.0, "share")), "demux_share: 0 share was measured"),
        ("profile", lambda r: r["demux_share"].update(values=[]), "demux_share: nothing was measured"),
        ("profile", lambda r: r["demux_share"].update(median=0.9), "demux_share: the median is outside the spread"),
        ("profile", lambda r: r["demux_share"].update(values=[None]), "demux_share: not numbers"),
    ],
)  # fmt: skip
def test_faults_are_found(part: str, change: Callable[[Json], object], fault: str) -> None:
    assert any(fault in line for line in faults(part, change))


def test_a_quick_run_may_leave_kinds_out_but_not_peers() -> None:
    def few(result: Json) -> None:
        result["quick"] = True
        for table in (result["measurements"], result["ratios"]):
            for kind in set(table) - {"tcp-4", "udp-64"}:
                del table[kind]

    assert faults("peers", few) == []

    def without_openvpn(result: Json) -> None:
        few(result)
        del result["measurements"]["tcp-4"]["openvpn-2.6"]

    assert faults("peers", without_openvpn) == ["peers: measurements/tcp-4/openvpn-2.6 is missing"]
