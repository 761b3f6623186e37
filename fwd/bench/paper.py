"""Gbit/s by cores on paper: what records cost at each step → how much so many cores carry, and which is full first.

TCP goes one way: data in records of 64 KiB from one gateway to the other, acknowledgements back. Each side has so many
cores. With the demux's steering one of them is the demux's, and each other one a member's. With the kernel's there is
no demux, and members do its work for what they carry; that is computed, since what it costs to read the TUN device and
to lay a record over rows is the same whoever does it.

Left out, so that a machine reaches less: network cards, their drivers and interrupts, clients, the memory's bandwidth,
flows that do not spread evenly. Where a measurement in memory has one demux and members on the same cores (cores.py),
`shared_gbps` says what costs let expect there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

CORES: Final = (2, 4, 8, 16, 32)
SMALL, LARGE = 52, 65_000  # octets of IP of an acknowledgement, and of a full record
ACKS_PER_RECORD: Final = 2 / 3  # as super-packets are acknowledged in the lab

Steering = Literal["demux", "kernel"]


@dataclass(frozen=True)
class Cost:
    """CPU time of a step: so much for each record, and so much for each octet of it."""

    record_us: float
    octet_ns: float

    @classmethod
    def through(cls, small_us: float, large_us: float) -> Cost:
        """Fit one record of SMALL and one of LARGE octets; no octet costs less than nothing."""
        octet_us = max(0.0, (large_us - small_us) / (LARGE - SMALL))
        return cls(max(0.0, small_us - octet_us * SMALL), octet_us * 1000)

    def of(self, octets: int) -> float:
        """Microseconds of one record."""
        return self.record_us + self.octet_ns * octets / 1000


@dataclass(frozen=True)
class Costs:
    """What a record costs at each step of its way."""

    tun_read: Cost
    demux: Cost  # look, hash, lay over rows, hand over
    seal: Cost
    send: Cost
    receive: Cost
    open: Cost  # window, records found and looked at
    tun_write: Cost

    @classmethod
    def measured(cls, steps: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Costs:
        """Of figures `small_us` and `large_us` by step, as costs.py has them."""
        return cls(**{
            step: Cost.through(*(steps[step][size]["median"] for size in ("small_us", "large_us"))) for step in STEPS
        })  # fmt: skip

    def into_rows(self, octets: int) -> float:
        """From the TUN device into a member's rows."""
        return self.tun_read.of(octets) + self.demux.of(octets)

    def out(self, octets: int) -> float:
        """A member's work for a record that leaves."""
        return self.seal.of(octets) + self.send.of(octets)

    def back(self, octets: int) -> float:
        """A member's work for a record that arrives."""
        return self.receive.of(octets) + self.open.of(octets) + self.tun_write.of(octets)


STEPS: Final = tuple(field.name for field in fields(Costs))


@dataclass(frozen=True)
class Point:
    """What so many cores on each side carry, and what is full then."""

    gbps: float
    full: str


def project(costs: Costs, cores: int, steering: Steering) -> Point:
    """Return what `cores` cores on each side carry one way."""
    if cores < 2:
        raise ValueError(f"{cores} cores: a demux and a member need two")
    acks = ACKS_PER_RECORD

    # µs of each kind of process for one record of data and its acknowledgements.
    rows_sender, rows_receiver = costs.into_rows(LARGE), acks * costs.into_rows(SMALL)
    sender = costs.out(LARGE) + acks * costs.back(SMALL)
    receiver = costs.back(LARGE) + acks * costs.out(SMALL)
    if steering == "kernel":
        limits = {"sending members": (sender + rows_sender) / cores}
        limits["receiving members"] = (receiver + rows_receiver) / cores
    else:
        limits = {"sending members": sender / (cores - 1), "receiving members": receiver / (cores - 1)}
        limits["demux"] = max(rows_sender, rows_receiver)

    # The slowest holds all of them up.
    full = max(limits, key=lambda name: limits[name])
    return Point(LARGE * 8 / 1000 / limits[full], full)


def shared_gbps(costs: Costs, cores: int, copy_us: float, *, opens: bool) -> float:
    """Return what a demux and members that share `cores` cores carry in memory, without the kernel."""
    record_us = costs.demux.of(LARGE) + costs.seal.of(LARGE)
    if opens:
        record_us += copy_us + costs.open.of(LARGE)
    return cores * LARGE * 8 / 1000 / record_us


def points(costs: Costs) -> list[dict[str, Any]]:
    """The table, a row for each number of cores."""
    return [
        {"cores": cores, **{
            steering: {"gbps": point.gbps, "full": point.full}
            for steering in ("demux", "kernel")
            for point in [project(costs, cores, steering)]
        }}
        for cores in CORES
    ]  # fmt: skip


def by_step(costs: Costs) -> dict[str, Cost]:
    """Every step and its cost, in a record's order."""
    return {step: getattr(costs, step) for step in STEPS}
