"""Gateways that only speak to a controller: each joins, beats once a second, and follows the stream of its documents.

    python manyhosts.py URL DIRECTORY COUNT MEMBERS < tokens        (a line each)

Each has an address of its own, 198.51.100.n. It prints `ready` when all have joined, and at SIGTERM how many heartbeats
were answered, how many not, and how many documents came.
"""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from fwd.control.join import Wish, join

Json = dict[str, Any]


def joined(url: str, directory: Path, number: int, count: int, token: str) -> Path:
    """Join as gateway `number` of so many, from its own address; half of them are in each VPC."""
    host = urlsplit(url).hostname
    route = f"ip route replace {host} dev controller src 198.51.100.{number}"
    subprocess.run(route.split(), check=True)
    file, kept = directory / f"{number}.token", directory / f"{number}"
    file.touch(0o600)
    file.write_text(token)
    inner, outer = f"10.{1 if number <= count // 2 else 2}.{number}.1", f"198.51.100.{number}"
    join(url, file, Wish(f"many{number}", [inner], [outer], members=4), kept)
    return kept


def status(members: int) -> Json:
    """What the agent of a gateway with one peering tells, by its form and size."""
    row = {"index": 0, "state": "running", "path": "up", "rtt_ms": 0.4, "loss": 0.0, "out": {"bytes": 1, "packets": 1}}
    peering = {"name": "one-two", "state": "up", "far": [], "members": [row | {"index": one} for one in range(members)]}
    return {"ready": True, "waiting": [], "peerings": [peering]}


class Gateway:
    """One of them. `counts`: of all together."""

    def __init__(self, url: str, kept: Path, number: int, said: Json, counts: Counter[str]) -> None:
        self._said, self._counts, self._order = said, counts, [0, 0]
        context = ssl.create_default_context(cafile=kept / "ca.pem")
        context.load_cert_chain(kept / "link.pem", kept / "link.key")
        transport = httpx.AsyncHTTPTransport(verify=context, local_address=f"198.51.100.{number}")
        self._http = httpx.AsyncClient(base_url=url, transport=transport, timeout=10.0)

    async def beat(self, delay_s: float) -> None:
        """Beat once a second, for ever."""
        await asyncio.sleep(delay_s)
        while True:
            at = time.monotonic()
            body = {"applied": self._order, "seen": self._order, "status": self._said, "time": time.time()}
            try:
                answer = await self._http.post("/v1/heartbeat", json=body)
                self._counts["answered" if answer.is_success else "refused"] += 1
            except httpx.HTTPError:
                self._counts["failed"] += 1
            await asyncio.sleep(max(0.0, at + 1.0 - time.monotonic()))

    async def follow(self) -> None:
        """Take documents, and have each in force at once."""
        while True:
            try:
                term, generation = self._order
                query = f"/v1/desired?term={term}&generation={generation}"
                async with self._http.stream("GET", query) as stream:
                    async for line in stream.aiter_lines():
                        if line:
                            self._order = await self._in_force(line)
            except httpx.HTTPError:
                await asyncio.sleep(1.0)

    async def _in_force(self, line: str) -> list[int]:
        self._counts["documents"] += 1
        newest = (await self._http.post(
            "/v1/heartbeat", json={"applied": self._order, "seen": self._order, "time": time.time()}
        )).json()["newest"]  # fmt: skip
        return list(newest)


async def run(url: str, kept: list[Path], members: int) -> None:
    """Be all of them until SIGTERM."""
    counts: Counter[str] = Counter()
    gateways = [Gateway(url, one, number, status(members), counts) for number, one in enumerate(kept, 1)]
    tasks = [asyncio.create_task(one.beat(number / len(gateways))) for number, one in enumerate(gateways)]
    tasks += [asyncio.create_task(one.follow()) for one in gateways]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    for task in tasks:
        task.cancel()
    print(json.dumps(counts))


def main() -> None:
    url, directory, count, members = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    tokens = sys.stdin.read().split()
    kept = [joined(url, directory, number, count, tokens[number - 1]) for number in range(1, count + 1)]
    asyncio.run(run(url, kept, members))


if __name__ == "__main__":
    main()
