"""Fifty gateways that report once a second cost the controller a part of a core, and little memory."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hostkit import joined, member, peering
from runkit import running

from fwd.controller import keys

GATEWAYS, MEMBERS = 50, 8
SECONDS = 12.0
CORES_MAX, RESIDENT_MIB_MAX = 0.25, 150


def status(partner: str, turn: int) -> dict[str, Any]:
    """What a gateway says of itself by now, with a peering of as many members, which have carried more than before."""
    members = [member(n, partner) | {"out": 10_000 * turn, "in": 10_000 * turn} for n in range(MEMBERS)]
    return {"ready": True, "draining": False, "waiting": [], "peerings": [peering(partner, members)]}


async def live(url: str, authority: Path, link: Path, partner: str, end: float) -> int:
    """Report once a second, and read documents as they come: how many reports were heard."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(link)
    heard = turn = 0
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:

        async def read() -> None:
            async with client.stream("GET", "/v1/desired") as stream:
                async for _ in stream.aiter_lines():
                    pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(random.random())
        while time.monotonic() < end:
            turn += 1
            body = {"applied": [1, 1], "seen": [1, 1], "status": status(partner, turn), "version": "0.1.0"}
            answer = await client.post("/v1/heartbeat", json={**body, "time": time.time()})
            heard += answer.status_code == 200
            await asyncio.sleep(1.0)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    return heard


def used(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and the MiB that it has in memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return ticks / os.sysconf("SC_CLK_TCK"), resident


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_fifty_gateways_cost_a_quarter_of_a_core_at_most(tmp_path: Path) -> None:
    with running(tmp_path) as one, one.client() as client:
        for vpc, net in (("a", 1), ("b", 2)):
            client.post("/v1/vpcs", json={"name": vpc, "cidrs": [f"10.{net}.0.0/16"]}).raise_for_status()
        links = [joined(one, client, "ab"[n % 2], f"g{n}", n + 1, MEMBERS) for n in range(GATEWAYS)]
        for number, vpc in enumerate("ab"):
            gateways = [f"g{n}" for n in range(number, GATEWAYS, 2)]
            client.post("/v1/clusters", json={"name": vpc, "vpc": vpc, "gateways": gateways}).raise_for_status()
        client.post("/v1/peerings", json={"name": "a-b", "clusters": ["a", "b"]}).raise_for_status()
        partners = {one["a"]: one["b"] for one in client.get("/v1/pairs").json()["items"]}
        partners |= {b: a for a, b in partners.items()}

        async def all_of_them(seconds: float) -> int:
            end = time.monotonic() + seconds
            authority = one.state / keys.CA_PEM
            living = [live(one.url, authority, link, partners[link.stem], end) for link in links]
            return sum(await asyncio.gather(*living))

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
