"""A controller in memory, asked through its ASGI application; its clocks stand until a test moves them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

import httpx
from cakit import MONTH_S, NOW, new_key, request
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.controller import ca, tokens
from fwd.controller.api.app import application
from fwd.controller.api.asked import PEER
from fwd.controller.control import Control
from fwd.controller.desk import Asked, Desk
from fwd.controller.keys import Keys
from fwd.controller.store import SqliteStore

_T = TypeVar("_T")


KEYS = Keys(ca.new_authority("fwd", NOW), Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@cache
def _application() -> Any:
    """One for all tests: its routes are the same, and making them takes a while."""
    return application(Control(Desk(SqliteStore(), KEYS)))


def application_over(control: Control) -> Any:
    """The application of a controller, for as long as no other one has it."""
    app = _application()
    app.state.control = control
    return app


HOST_KEYS: dict[str, ec.EllipticCurvePrivateKey] = {}  # of hosts, by their fingerprints


def host_key() -> ec.EllipticCurvePrivateKey:
    """A key of a host, which is known again by its certificates."""
    key = new_key()
    HOST_KEYS[ca.fingerprint(key.public_key())] = key
    return key


def key_of(certificate: str) -> ec.EllipticCurvePrivateKey:
    """The key that a host has for its certificate."""
    return HOST_KEYS[ca.fingerprint(x509.load_pem_x509_certificate(certificate.encode()).public_key())]


class Api:
    """See the module."""

    def __init__(self, keys: Keys = KEYS, lifetime_s: float = MONTH_S) -> None:
        self._loop = asyncio.new_event_loop()
        self.now = NOW
        self.store = SqliteStore()
        self.desk = Desk(self.store, keys, lifetime_s, lambda: self.now)
        self.control = Control(self.desk, lambda: self.now, lambda: self.now, url="https://c.example")
        self.app = application_over(self.control)
        self.peer: bytes | None = None
        transport = httpx.ASGITransport(self._with_peer)
        self.http = httpx.AsyncClient(transport=transport, base_url="https://c.example", trust_env=False)
        self.admin, admin = tokens.new_bearer_token("admin", NOW, "root")
        self.viewer, viewer = tokens.new_bearer_token("viewer", NOW, "page")
        self.run(self.desk.lead("test"))
        for token in (admin, viewer):
            self.run(self.desk.put_token(Asked("test", "create", "token", token.name, NOW), token))

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(asyncio.wait_for(work, 30))

    async def _with_peer(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app({**scope, PEER: self.peer}, receive, send)

    def ask(self, method: str, path: str, body: Any = None, *, token: str | None = None, **how: Any) -> httpx.Response:
        """Ask as the admin, unless another token is given; as nobody with an empty one."""
        headers = {**how.pop("headers", {})}
        if token != "":
            headers["Authorization"] = f"Bearer {token or self.admin}"
        if body is not None:
            how["json"] = body
        return self.run(self.http.request(method, path, headers=headers, **how))

    def as_host(
        self, certificate: str | x509.Certificate | None, method: str, path: str, body: Any = None, **how: Any
    ) -> Any:
        """Ask with a link's certificate."""
        if isinstance(certificate, str):
            certificate = x509.load_pem_x509_certificate(certificate.encode())
        self.peer = certificate.public_bytes(Encoding.DER) if certificate else None
        try:
            return self.ask(method, path, body, token="", **how)
        finally:
            self.peer = None

    def good(self, method: str, path: str, body: Any = None, **how: Any) -> Any:
        """Ask, and see that it was done."""
        answer = self.ask(method, path, body, **how)
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def make_vpc(self, name: str, net: str) -> None:
        self.good("POST", "/v1/vpcs", {"name": name, "cidrs": [f"{net}.0.0/16"]})

    def join_body(self, vpc: str, name: str, inner: str, outer: str, **fields: Any) -> dict[str, Any]:
        """What a host sends that joins, a gateway unless `kind` says otherwise, with a fresh token."""
        text = self.good("POST", "/v1/tokens", {"vpc": vpc, "kind": fields.get("kind", "gateway")})["token"]
        return {
            "token": text.split(".")[1], "kind": "gateway", "name": name, "link_csr": request(host_key()),
            "ike_csr": request(host_key()), "inner": [inner], "outer": [outer], "members": 2, "version": "0.1.0",
        } | fields  # fmt: skip

    def join(self, vpc: str, name: str, inner: str, outer: str, **fields: Any) -> dict[str, Any]:
        """Have a gateway join: what it is told."""
        answer = self.ask("POST", "/v1/join", self.join_body(vpc, name, inner, outer, **fields), token="")
        assert answer.status_code == 201, answer.text
        told = answer.json()
        assert isinstance(told, dict)
        return told

    def peered(self) -> dict[str, dict[str, Any]]:
        """Two VPCs with a gateway each, in clusters that are peered: what each gateway was told."""
        self.make_vpc("a", "10.1")
        self.make_vpc("b", "10.2")
        told = {
            "a1": self.join("a", "a1", "10.1.0.11", "192.0.2.1"),
            "b1": self.join("b", "b1", "10.2.0.11", "192.0.2.2"),
        }
        for name in ("a", "b"):
            self.good("POST", "/v1/clusters", {"name": name, "vpc": name, "gateways": [f"{name}1"]})
        self.good("POST", "/v1/peerings", {"name": "a-b", "clusters": ["a", "b"]})
        return told

    def beat(self, told: dict[str, Any], **fields: Any) -> Any:
        """Send a heartbeat of a host that has applied all there is."""
        newest = list(self.desk.newest)
        body = {
            "applied": newest, "seen": newest, "held": None, "refused": None, "status": {"ready": True},
            "version": "0.1.0", "time": self.now,
        } | fields  # fmt: skip
        return self.as_host(told["link_certificate"], "POST", "/v1/heartbeat", body)

    def close(self) -> None:
        self.run(self.http.aclose())
        self.run(self.store.close())
        self._loop.close()
