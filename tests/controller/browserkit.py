"""A dashboard in Debian's Chromium: a controller that runs, and gateways that say what a test has them say."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx
from browsekit import SOON_MS, looking
from hostkit import joined, member, peering
from playwright.sync_api import Browser, Page
from runkit import Running

from fwd.controller import keys
from fwd.lab.waiting import until

MEMBERS = 2  # of each gateway


class Gateway:
    """A gateway that has joined, and reports twice a second what `status` is; None: it is silent."""

    def __init__(self, one: Running, client: httpx.Client, vpc: str, name: str, number: int) -> None:
        path = joined(one, client, vpc, name, number, MEMBERS)
        self._context = ssl.create_default_context(cafile=one.state / keys.CA_PEM)
        self._context.load_cert_chain(path)
        self._url, self.status = one.url, {"ready": True}
        self._partner = f"{'ba'['ab'.index(vpc)]}1"
        self.members = [member(n, self._partner) for n in range(MEMBERS)]

        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report)
        self._thread.start()

    status: dict[str, Any] | None

    def _said(self, status: dict[str, Any]) -> dict[str, Any]:
        """What it says by now: its members have carried more than before."""
        for number, one in enumerate(self.members):
            one["out"] += 50_000 * (number + 1)
        return {"peerings": [peering(self._partner, self.members)], **status}

    def _report(self) -> None:
        with httpx.Client(base_url=self._url, verify=self._context, trust_env=False, timeout=5) as client:
            while not self._ended.wait(0.5):
                body = {"applied": [1, 1], "seen": [1, 1], "version": "0.1.0", "time": time.time()}
                if self.status is not None:
                    with suppress(httpx.HTTPError):  # the controller may be away for a while
                        client.post("/v1/heartbeat", json={**body, "status": self._said(self.status)})

    def end(self) -> None:
        self._ended.set()
        self._thread.join()


class Fleet:
    """Two VPCs with a gateway each that are peered. `faults`: what browsers have complained of."""

    def __init__(self, one: Running) -> None:
        self.controller = one
        self.faults: list[str] = []
        with one.client() as client:
            for number, name in enumerate("ab", 1):
                client.post("/v1/vpcs", json={"name": name, "cidrs": [f"10.{number}.0.0/16"]})
            self.gateways = {f"{vpc}1": Gateway(one, client, vpc, f"{vpc}1", 10 + n) for n, vpc in enumerate("ab")}
            for name in "ab":
                client.post("/v1/clusters", json={"name": name, "vpc": name, "gateways": [f"{name}1"]})
            client.post("/v1/peerings", json={"name": "a-b", "clusters": ["a", "b"]})
            self.tokens = {
                role: client.post("/v1/tokens", json={"role": role, "name": f"page-{role}"}).json()["token"]
                for role in ("viewer", "admin")
            }

    def until(self, gateway: str, state: str) -> None:
        """Wait for the controller's word of a gateway."""
        with self.controller.client() as client:
            path = f"/v1/gateways/{gateway}"
            until(lambda: client.get(path).json()["health"]["state"] == state, f"{gateway} is {state}", SOON_MS / 1000)


@contextmanager
def signed_in(fleet: Fleet, chromium: Browser, role: str = "viewer", **how: Any) -> Iterator[Page]:
    """A page of somebody who has signed in."""
    with looking(chromium, fleet.controller.url, fleet.tokens[role], **how) as page:
        yield page
