"""The link of a host against the controller itself: joining, documents, heartbeats, renewal, deletion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from runkit import running

from fwd.control.join import Wish, join
from fwd.datapath.shared import GatewayShared
from fwd.lab.waiting import until
from fwd.link.admit import TABLES
from fwd.link.directory import IKE, LINK, Directory
from fwd.link.document import Document, verify
from fwd.link.service import Link, parts_of
from fwd.model.linked import News, Validity, told_in


class Host:
    """A gateway that has joined, and its link."""

    def __init__(self, directory: Path, url: str, name: str, token: str, net: int) -> None:
        directory.mkdir()
        path = directory / "token"
        path.touch(0o600)
        path.write_text(token)
        join(url, path, Wish(name, [f"10.{net}.0.11"], [f"192.0.2.{net}"], 2), directory / "joined")
        self.name, self.directory = name, Directory(directory / "joined")
        self.shared = GatewayShared()
        self.news = News(url=url, name=name, addresses=("127.0.0.1",))
        self.tell()
        self.link = Link(parts_of(self.directory, self.shared, "0.1.0"))

    def tell(self, **changes: Any) -> None:
        """What the supervisor says."""
        self.news = replace(self.news, **changes)
        self.shared.troubles.put(json.dumps({"controller": self.news.as_json()}).encode())

    def turn(self, condition: Callable[[], object]) -> None:
        """Until something is so."""

        def turned() -> object:
            self.link.turn()
            return condition()

        until(turned, f"{self.name}'s link", 60.0)

    @property
    def document(self) -> Document:
        """The newest one that has come; an empty one, if none has."""
        data = self.shared.documents.get()
        return verify(data, self.directory.document_key(), self.name) if data else Document("", 0, 0, self.name, {})

    @property
    def error(self) -> str:
        """What keeps it from the controller."""
        return told_in(self.shared.link_told.get()).error

    def fresh(self) -> dict[str, x509.Certificate]:
        """The renewed certificates that were handed over."""
        pair = json.loads(self.shared.certificates.get() or b"{}")
        return {word: x509.load_pem_x509_certificate(pem.encode()) for word, pem in pair.items()}

    def close(self) -> None:
        self.link._asks.close()
        self.link._stream.close()


class Two:
    """Two VPCs, in each a gateway that has joined, peered."""

    def __init__(self, directory: Path, url: str, client: httpx.Client) -> None:
        self._client = client
        self.hosts = []
        for net, name in ((1, "a"), (2, "b")):
            self.ask("POST", "vpcs", {"name": name, "cidrs": [f"10.{net}.0.0/16"]})
            token = self.ask("POST", "tokens", {"vpc": name})["token"]
            self.hosts.append(Host(directory / name, url, f"{name}1", token, net))
            self.ask("POST", "clusters", {"name": name, "vpc": name, "gateways": [f"{name}1"]})
        self.ask("POST", "peerings", {"name": "a-b", "clusters": ["a", "b"]})

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        answer = self._client.request(method, f"/v1/{path}", json=body)
        answer.raise_for_status()
        found = answer.json()
        assert isinstance(found, dict)
        return found


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_link_and_the_controller_understand_each_other(tmp_path: Path) -> None:
    """One running controller for all of it: starting one is what costs."""
    with running(tmp_path) as one, one.client() as client:
        two = Two(tmp_path, one.url, client)
        a1, b1 = two.hosts

        # Each gets a document of its own, with tables that a gateway takes.
        a1.turn(lambda: a1.document.content.get("peering"))
        assert a1.document.content.keys() <= TABLES
        assert a1.document.content["peering"][0]["remote_id"] == ["b1.gateway.fwd"]

        # Heartbeats are heard.
        order = a1.document.order
        a1.tell(applied=order, seen=order)
        a1.shared.summary.put(json.dumps({"ready": True, "peerings": []}).encode())
        a1.turn(lambda: two.ask("GET", "gateways/a1")["applied"] == list(order))

        # Certificates are renewed, of the same keys and names.
        now = int(time.time())
        a1.tell(link=Validity(now - 100, now + 50), ike=Validity(now - 100, now + 50))
        a1.turn(a1.fresh)
        for name in (LINK, IKE):
            fresh = a1.fresh()[f"{name}_certificate"]
            before = x509.load_pem_x509_certificate((a1.directory.path / f"{name}.pem").read_bytes())
            assert (fresh.public_key(), fresh.subject) == (before.public_key(), before.subject)
            assert fresh.serial_number != before.serial_number

        # One that is deleted is told so, and the other one has the serials of all of its certificates.
        two.ask("DELETE", "gateways/a1")
        a1.turn(lambda: "403" in a1.error)
        b1.turn(lambda: b1.document.order > order)
        assert b1.document.content["peering"] == []
        assert len(list(x509.load_pem_x509_crl(b1.document.content["crl"].encode()))) >= 4
        for host in two.hosts:
            host.close()
