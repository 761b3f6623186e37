"""What the demo must show: its counts put together and judged. Pure: no process, no socket, no clock.

A repeated nonce is looked for twice: on the wire, in every ESP header, and in the ledgers, in which each
incarnation of a member states which numbers of which SPI it has used (rule 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fwd.lab.probe import Arrived

SCHEMA: Final = 1
GAP_LIMIT_MS: Final = 1000.0
EVIL: Final = ("tcp_resets", "plaintext_packets_on_wire", "repeated_nonces", "reordered_packets")


def ledger_conflicts(members: Iterable[Mapping[str, Any]]) -> int:
    """How often a gateway's `members` claim a number of an SPI twice, or an SPI in two incarnations."""
    by_spi: dict[str, list[tuple[int, int, tuple[int, int]]]] = {}
    for member in members:
        for entry in member["ledger"]:
            if entry["last"] >= entry["first"]:
                life = (member["index"], entry["incarnation"])
                by_spi.setdefault(entry["spi"], []).append((entry["first"], entry["last"], life))
    conflicts = 0
    for ranges in by_spi.values():
        ranges.sort()
        conflicts += len({life for _, _, life in ranges}) - 1
        highest = -1
        for first, last, _ in ranges:
            conflicts += first <= highest
            highest = max(highest, last)
    return conflicts


def summary(
    *,
    first_packet_ms: float,
    streams: int,
    tcp_mbps: float,
    ports: Sequence[int],
    capture: Mapping[str, Any],
    quiet: Mapping[int, Arrived],
    killed: Mapping[int, Arrived],
    victim_flow: int,
    tcp_resets: int,
    ledgers: Iterable[Iterable[Mapping[str, Any]]],
) -> dict[str, Any]:
    """The demo's result. `quiet` and `killed` are the probes of the two phases, by flow."""
    repeated: int = capture["repeated_nonces"]
    return {
        "schema": SCHEMA,
        "members": len(ports),
        "streams": streams,
        "first_packet_ms": first_packet_ms,
        "tcp_mbps": round(tcp_mbps, 1),
        "member_packets": [capture["esp_by_port"].get(str(port), 0) for port in ports],
        "respawn_gap_ms": killed[victim_flow].longest_gap_ms,
        "probe_noise_ms": quiet[victim_flow].longest_gap_ms,
        "tcp_resets": tcp_resets,
        "plaintext_packets_on_wire": capture["plaintext_packets"],
        "repeated_nonces": repeated + sum(map(ledger_conflicts, ledgers)),
        "reordered_packets": sum(flow.inversions for flow in [*quiet.values(), *killed.values()]),
        "capture_drops": capture["capture_drops"],
    }


def failures(result: Mapping[str, Any]) -> list[str]:
    """What keeps the demo from having succeeded, a line each; empty if it has."""
    found = [f"{name} is {result[name]}, must be 0" for name in EVIL if result[name] != 0]
    if unseen := result["capture_drops"]:
        found.append(f"capture_drops is {unseen}: nobody knows what those frames were, and which nonces they had")
    idle = [str(i) for i, packets in enumerate(result["member_packets"]) if not packets]
    if idle:
        found.append(f"no ESP packet on the wire from or to member {', '.join(idle)}")
    if result["respawn_gap_ms"] >= GAP_LIMIT_MS:
        found.append(f"respawn_gap_ms is {result['respawn_gap_ms']}, must be under {GAP_LIMIT_MS:.0f}")
    return found
