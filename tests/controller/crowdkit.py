"""Fifty gateways of eight members each, which report once a second, for as long as they are needed."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
from hostkit import joined, member, peering
from runkit import Running

from fwd.controller import keys

GATEWAYS, MEMBERS = 50, 8


class Crowd:
    """They are in two clusters that are peered, as many in each, at a controller that runs."""

    def __init__(self, one: Running, client: httpx.Client) -> None:
        self.controller, self.authority = one, one.state / keys.CA_PEM
        for vpc, net in (("a", 1), ("b", 2)):
            client.post("/v1/vpcs", json={"name": vpc, "cidrs": [f"10.{net}.0.0/16"]}).raise_for_status()
        self._links = [joined(one, client, "ab"[n % 2], f"g{n}", n + 1, MEMBERS) for n in range(GATEWAYS)]
        for number, vpc in enumerate("ab"):
            gateways = [f"g{n}" for n in range(number, GATEWAYS, 2)]
            client.post("/v1/clusters", json={"name": vpc, "vpc": vpc, "gateways": gateways}).raise_for_status()
        client.post("/v1/peerings", json={"name": "a-b", "clusters": ["a", "b"]}).raise_for_status()
        self._partners = {one["a"]: one["b"] for one in client.get("/v1/pairs").json()["items"]}
        self._partners |= {b: a for a, b in self._partners.items()}

    def live(self, end: float) -> list[Coroutine[Any, Any, int]]:
        """All of them: how many reports of each were heard."""
        return [self._live(link, self._partners[link.stem], end) for link in self._links]

    async def _live(self, link: Path, partner: str, end: float) -> int:
        """Report once a second, and read documents as they come."""
        context = ssl.create_default_context(cafile=self.authority)
        context.load_cert_chain(link)
        heard = turn = 0
        url = self.controller.url
        async with httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30) as client:

            async def read() -> None:
                async with client.stream("GET", "/v1/desired") as stream:
                    async for _ in stream.aiter_lines():
                        pass

            reading = asyncio.create_task(read())
            await asyncio.sleep(random.random())
            while time.monotonic() < end:
                turn += 1
                body = {"applied": [1, 1], "seen": [1, 1], "status": _status(partner, turn), "version": "0.1.0"}
                answer = await client.post("/v1/heartbeat", json={**body, "time": time.time()})
                heard += answer.status_code == 200
                await asyncio.sleep(1.0)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        return heard


def _status(partner: str, turn: int) -> dict[str, Any]:
    """What a gateway says of itself by now, with a peering of as many members, which have carried more than before."""
    members = [member(n, partner) | {"out": 10_000 * turn, "in": 10_000 * turn} for n in range(MEMBERS)]
    return {"ready": True, "draining": False, "waiting": [], "peerings": [peering(partner, members)]}


def used(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and the MiB that it has in memory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    resident = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    return ticks / os.sysconf("SC_CLK_TCK"), resident
