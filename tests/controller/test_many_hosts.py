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
from cakit import new_key, request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from runkit import Running, running

from fwd.controller import keys

GATEWAYS, MEMBERS = 50, 8
SECONDS = 12.0
CORES_MAX, RESIDENT_MIB_MAX = 0.25, 150


def joined(one: Running, client: httpx.Client, number: int) -> Path:
    """Have a gateway join: the file of its link's key and certificate."""
    vpc, name, key = "ab"[number % 2], f"g{number}", new_key()
    token = client.post("/v1/tokens", json={"vpc": vpc}).json()["token"]
    body = {
        "token": token.split(".")[1], "kind": "gateway", "name": name, "link_csr": request(key),
        "ike_csr": request(new_key()), "inner": [f"10.{number % 2 + 1}.0.{number + 1}"],
        "outer": [f"192.0.2.{number + 1}"], "members": MEMBERS,
    }  # fmt: skip
    answer = client.post("/v1/join", json=body)
    assert answer.status_code == 201, answer.text
    path = one.state.parent / f"{name}.pem"
    plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(plain + answer.json()["link_certificate"].encode())
    return path


def status(partner: str) -> dict[str, Any]:
    """What a gateway says of itself, with a peering of as many members."""
    members = [{"index": n, "state": "up", "rtt_ms": 1.5, "loss": 0.0} for n in range(MEMBERS)]
    far = [{"identity": f"{partner}.fwd.internal", "address": "192.0.2.1", "up": True, "rtt_ms": 1.5, "loss": 0.0}]
    table = {"name": "a-b", "ready": True, "rtt_ms": 1.5, "loss": 0.0, "far": far, "members": members}
    return {"ready": True, "draining": False, "reasons": [], "peerings": [table]}


async def live(url: str, authority: Path, link: Path, partner: str, end: float) -> int:
    """Report once a second, and read documents as they come: how many reports were heard."""
    context = ssl.create_default_context(cafile=authority)
    context.load_cert_chain(link)
    heard = 0
    async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:

        async def read() -> None:
            async with client.stream("GET", "/v1/desired") as stream:
                async for _ in stream.aiter_lines():
                    pass

        reading = asyncio.create_task(read())
        await asyncio.sleep(random.random())
        while time.monotonic() < end:
            body = {"applied": [1, 1], "seen": [1, 1], "status": status(partner), "version": "0.1.0"}
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
        links = [joined(one, client, number) for number in range(GATEWAYS)]
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
