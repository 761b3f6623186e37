"""Fifty gateways that report once a second cost the controller a part of a core, and little memory."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from crowdkit import GATEWAYS, Crowd, used
from runkit import running

SECONDS = 12.0
CORES_MAX, RESIDENT_MIB_MAX = 0.25, 150


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_gateways_cost_a_quarter_of_a_core_at_most(tmp_path: Path) -> None:
    with running(tmp_path) as one, one.client() as client:
        crowd = Crowd(one, client)

        async def all_of_them(seconds: float) -> int:
            return sum(await asyncio.gather(*crowd.live(time.monotonic() + seconds)))

        asyncio.run(all_of_them(5.0))  # handshakes and first documents are no steady state
        (before, _), began = used(one.process.pid), time.monotonic()
        heard = asyncio.run(all_of_them(SECONDS))
        (after, resident_mib), took = used(one.process.pid), time.monotonic() - began
        health = {host["health"]["state"] for host in client.get("/v1/gateways").json()["items"]}

    # Who sends them has less of a busy machine than it wants: what one costs is taken for as many as there should be.
    cores = (after - before) * GATEWAYS / heard
    print(f"{cores:.3f} cores, {resident_mib:.0f} MiB; {heard} heartbeats in {took:.1f} s")
    assert heard > GATEWAYS * SECONDS / 4
    assert health <= {"up", "degraded"}
    assert cores < CORES_MAX
    assert resident_mib < RESIDENT_MIB_MAX
