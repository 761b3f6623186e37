"""The ring, pinning, and the whole path of a record in memory: what Python costs for each burst."""

from __future__ import annotations

import pytest

from fwd.bench.rig import Path, Record
from fwd.datapath.counters import MemberCounter
from fwd.proto.drops import DropReason
from fwd.proto.flow import BUCKET_MASK, flow_hash

BURSTS = {"64 KiB record": (65_000, 1), "20 full packets": (1500, 20), "one ACK": (52, 1), "20 ACKs": (52, 20)}
burst = pytest.mark.parametrize(("ip_bytes", "count"), BURSTS.values(), ids=BURSTS.keys())


@burst
def test_ring(benchmark, ip_bytes: int, count: int) -> None:
    """The demux's part: copy records into rows of a segment, describe it, ring the bell."""
    benchmark.group = "ring"
    path, record = Path(), Record(ip_bytes)

    def run() -> None:
        path.put(record, count)
        path.ring.done = path.ring.taken = path.ring.head

    benchmark(run)


@pytest.mark.parametrize("ip_bytes", [52, 65_000])
def test_pin(benchmark, ip_bytes: int) -> None:
    """Flow key, hash and bucket of one record: the same whatever its length."""
    benchmark.group = "pin"
    packet = Record(ip_bytes).view[10:]
    benchmark(lambda: flow_hash(packet[:ip_bytes]) & BUCKET_MASK)


@burst
def test_path(benchmark, ip_bytes: int, count: int) -> None:
    """From the demux's copy to the far side's TUN write, in one process, without the kernel's part."""
    benchmark.group = "path"
    path, record = Path(), Record(ip_bytes)

    def run() -> None:
        path.put(record, count)
        path.work()
        path.receive()

    benchmark(run)
    counters = path.member.counters.read()
    assert counters[MemberCounter.OUT_RECORDS] == counters[MemberCounter.IN_RECORDS_OK] > 0
    assert not any(counters[reason] for reason in DropReason)
    seconds = benchmark.stats.stats.median if benchmark.stats else 0
    if seconds:
        benchmark.extra_info["gbit_per_s"] = ip_bytes * count * 8 / seconds / 1e9
