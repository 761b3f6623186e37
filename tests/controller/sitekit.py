"""A controller in this process, on a port of its own, over TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from apikit import application_over
from cakit import MONTH_S, new_key
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fwd.controller import ca, keys, service
from fwd.controller.config import Controller, ControllerConfig
from fwd.controller.control import Control
from fwd.controller.desk import Asked, Desk
from fwd.controller.service import Service
from fwd.controller.store import SqliteStore
from fwd.controller.tls import Server
from fwd.controller.tokens import new_bearer_token

NOW = time.time()  # as TLS of the client has it; the controller's clock is a test's


class Site:
    """A running controller, and what a test knows of it."""

    def __init__(self, directory: Path, url: str) -> None:
        self.url, self.directory, self.now = url, directory, NOW
        self.keys = keys.load(directory, NOW)
        self.desk = Desk(SqliteStore(), self.keys, MONTH_S, lambda: self.now)
        self.control = Control(self.desk, lambda: self.now, time.monotonic)
        self.tls = Server(directory, self.keys, ["127.0.0.1"], NOW)
        self.admin, self._admin = new_bearer_token("admin", NOW, "root")

    async def ready(self) -> None:
        """Until it leads and has one host, a1."""
        while self.desk.term is None:
            await asyncio.sleep(0.01)
        await self.desk.put_token(Asked("test", "create", "token", "root", NOW), self._admin)
        async with self.client() as client:
            headers = {"Authorization": f"Bearer {self.admin}"}
            for path, body in (
                ("vpcs", {"name": "a", "cidrs": ["10.1.0.0/16"]}),
                ("gateways", {"name": "a1", "vpc": "a", "outer": "192.0.2.1", "inner": ["10.1.0.11"]}),
            ):
                (await client.post(f"/v1/{path}", json=body, headers=headers)).raise_for_status()

    def issue(self, since: float, lifetime_s: float = MONTH_S, **how: Any) -> Path:
        """A link's certificate and its key, in a file. `authority`, `use`: another's, or for something else."""
        key = new_key()
        authority: ca.Authority = how.get("authority", self.keys.authority)
        if how.get("use") == "ike":
            issued = ca.ike_certificate(authority, key.public_key(), "a1.gateway.fwd", since, lifetime_s)
        else:
            issued = ca.link_certificate(authority, key.public_key(), ("c", "gateway", "a1"), since, lifetime_s)
        path = self.directory / f"link-{issued.serial_number}.pem"
        path.write_bytes(pem_of(key) + ca.pem(issued))
        return path

    @asynccontextmanager
    async def client(self, link: Path | None = None) -> AsyncIterator[httpx.AsyncClient]:
        context = ssl.create_default_context(cadata=ca.bundle(self.keys.trusted()).decode())
        if link is not None:
            context.load_cert_chain(link)
        async with httpx.AsyncClient(base_url=self.url, verify=context, trust_env=False, timeout=30) as client:
            yield client

    async def beat(self, link: Path | None) -> httpx.Response:
        body = {"applied": [0, 0], "seen": [0, 0], "time": self.now}
        async with self.client(link) as client:
            return await client.post("/v1/heartbeat", json=body)


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_site(directory: Path, work: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    """Run a controller while a test works with it."""

    async def both() -> None:
        directory.chmod(0o700)
        door = socket.create_server(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{door.getsockname()[1]}"
        site = Site(directory, url)
        config = ControllerConfig(controller=Controller(url=url, state=directory))
        with patch.object(service, "application", application_over):  # whose routes are made once for all
            server = Service(config, site.control, site.tls)
        running = asyncio.create_task(server.run(door))
        try:
            await site.ready()
            await work(site)
        finally:
            server.stop()
            await running

    asyncio.run(asyncio.wait_for(both(), 120))
