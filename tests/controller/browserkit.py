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
from cakit import new_key, request
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.sync_api import Browser, Page
from runkit import Running

from fwd.controller import keys
from fwd.lab.waiting import until


def member(number: int) -> dict[str, Any]:
    """What a gateway says of one."""
    return {
        "index": number, "state": "running", "path": "up", "far": "b1.gateway.fwd", "mtu": 1500, "restarts": 0,
        "out": 0, "in": 0, "buckets": 32768, "spi_out": f"0x0000aa{number:02x}", "spis_in": [f"0x0000bb{number:02x}"],
        "age_s": 60, "rekey_s": 3540, "ends_s": 3900,
    }  # fmt: skip


class Gateway:
    """A gateway that has joined, and reports twice a second what `status` is; None: it is silent."""

    def __init__(self, one: Running, client: httpx.Client, vpc: str, name: str, number: int) -> None:
        key = new_key()
        token = client.post("/v1/tokens", json={"vpc": vpc}).json()["token"]
        body = {
            "token": token.split(".")[1], "kind": "gateway", "name": name, "link_csr": request(key),
            "ike_csr": request(new_key()), "inner": [f"10.{'ab'.index(vpc) + 1}.0.{number}"],
            "outer": [f"192.0.2.{number}"], "members": 2,
        }  # fmt: skip
        answer = client.post("/v1/join", json=body)
        assert answer.status_code == 201, answer.text
        path = one.state.parent / f"{name}.pem"
        plain = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(plain + answer.json()["link_certificate"].encode())
        self._context = ssl.create_default_context(cafile=one.state / keys.CA_PEM)
        self._context.load_cert_chain(path)
        self._url, self.status = one.url, {"ready": True}
        self.members = [member(n) for n in range(2)]

        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report)
        self._thread.start()

    status: dict[str, Any] | None

    def _said(self, status: dict[str, Any]) -> dict[str, Any]:
        """What it says by now: its members have carried more than before."""
        for number, one in enumerate(self.members):
            one["out"] += 50_000 * (number + 1)
        carried = {"bytes": sum(one["out"] for one in self.members), "drops": {"replayed": 3}}
        tables = [{**one, **carried, "each": self.members} for one in status.get("peerings", ())]
        return {**status, "peerings": tables}

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
        for vpc, far in ("ab", "ba"):
            gateway = self.gateways[f"{vpc}1"]
            table = {"name": "a-b", "ready": True, "loss": 0.0, "members": 2}
            gateway.status = {
                "ready": True,
                "peerings": [{**table, "far": [{"identity": f"{far}1.gateway.fwd", "up": True}]}],
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
