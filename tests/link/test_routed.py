"""What a controller may set on a router, and what becomes of a document there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from servekit import Site

from fwd.controller import ca
from fwd.controller.place import place
from fwd.link.directory import Directory
from fwd.link.document import Document, DocumentError, sign
from fwd.link.kept import Octets
from fwd.link.routed import admit, guarded, understood
from fwd.model.fleet import Fleet
from fwd.model.router import RouterConfig
from fwd.supervise.checking import Case, Found, examined

KEY = "5a" * 32
HOP = {"name": "a1", "addresses": ["10.1.0.11"], "weight": 2.0, "state": "draining"}
SPREAD: dict[str, Any] = {"name": "a-b", "remote_ts": ["10.2.0.0/16"], "gateway": [HOP]}
CONTENT: dict[str, Any] = {"spread": [SPREAD], "probe_key": KEY, "probe_number": 0, "hash_seed": 7}
OWN = {"name": "mine", "remote_ts": ["10.9.0.0/16"], "gateway": [{"name": "m1", "addresses": ["10.1.0.99"]}]}
LOCAL = RouterConfig.model_validate({"controller": {"subnets": ["10.0.0.0/8"]}, "spread": [OWN]})


def refusal(content: Any) -> str:
    with pytest.raises(DocumentError) as refused:
        admit(LOCAL, content)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_spreads_and_the_seed_may_be_set() -> None:
    wish = admit(LOCAL, CONTENT)
    (spread,) = wish.spread
    (hop,) = spread.gateway
    assert (spread.name, hop.name, hop.weight, hop.state, wish.hash_seed) == ("a-b", "a1", 2.0, "draining", 7)


def test_what_a_controller_places_is_admitted() -> None:
    """The two ends of the same contract, with a cluster that has no gateway, too."""
    data: dict[str, Any] = {
        "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "b", "cidrs": ["10.2.0.0/16"]}],
        "gateways": [{"name": "a1", "vpc": "a", "outer": "192.0.2.1", "inner": ["10.1.0.11"]}],
        "clusters": [{"name": "a", "vpc": "a", "gateways": ["a1"]}, {"name": "b", "vpc": "b", "gateways": []}],
        "routers": [{"name": f"r{one}", "vpc": one, "inner": [f"10.{n}.0.2"]} for n, one in ((1, "a"), (2, "b"))],
        "peerings": [{"name": "a-b", "clusters": ["a", "b"], "number": 0}],
    }
    placed = place(Fleet.model_validate(data)).routers
    assert [one.gateway[0].name for one in admit(LOCAL, placed["ra"]).spread] == ["a1"]
    assert [one.gateway for one in admit(LOCAL, placed["rb"]).spread] == [[]]


@pytest.mark.parametrize("key", ["router", "controller", "peering", "control", "crl", "log"])
def test_nothing_but_spreads_can_be_set(key: str) -> None:
    assert refusal({**CONTENT, key: {}}) == f"it sets {key!r}, which is the local file's alone"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"remote_ts": ["172.16.0.0/16"]}, "remote_ts 172.16.0.0/16 is in none of controller.subnets"),
        ({"remote_ts": ["0.0.0.0/0"], "gateway": []}, "is in none of controller.subnets"),
        ({"gateway": [{**HOP, "addresses": ["192.0.2.1"]}]}, "gateway a1 (192.0.2.1) is in none"),
        ({"remote_ts": ["10.9.1.0/24"]}, "overlap"),
        ({"name": "mine"}, "two spreads are named mine"),
        ({"gateway": [{**HOP, "weight": 0}]}, "weight"),
        ({"gateway": [HOP, HOP]}, "two gateways are named a1"),
        ({"remote_ts": ["10.2.0.0/16", "fd00::/64"]}, "needs one"),
        ({"control": "/etc/shadow"}, "control"),
    ],
)
def test_what_lies_beyond_what_is_given_away_is_refused(changes: dict[str, Any], why: str) -> None:
    assert why in refusal({**CONTENT, "spread": [{**SPREAD, **changes}]})


def test_what_cannot_be_in_force_any_more_keeps_its_subnets_closed_but_for_the_local_files() -> None:
    outside = {**SPREAD, "name": "far", "remote_ts": ["172.16.0.0/16"]}
    kept = understood({"spread": [SPREAD, {"name": 3}, outside, {**SPREAD, "name": "x", "remote_ts": ["10.9.0.0/24"]}]})
    assert [one.name for one in kept.spread] == ["a-b", "far", "x"]
    assert [(one.name, one.gateway) for one in guarded(LOCAL, kept).spread] == [("a-b", []), ("far", [])]


class Host:
    """What a router has that has joined."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory)
        key, now = ec.generate_private_key(ec.SECP256R1()).public_key(), time.time()
        link = ca.link_certificate(self.site.ca, key, ("c1", "router", "r1"), now, 1000)
        files = {"ca.pem": self.site.read("ca.pem"), "link.pem": ca.pem(link)}
        self.case = Case(LOCAL, Directory(directory), "r1", self.site.key.public_key(), Octets(), files)

    def document(
        self, content: Any, generation: int = 3, key: Ed25519PrivateKey | None = None, to: str = "r1"
    ) -> bytes:
        return sign(Document("c1", 1, generation, to, content), key or self.site.key)

    def examined(self, data: bytes, kept: Octets | None = None) -> Found:
        return examined(replace(self.case, kept=kept or Octets()), "document", data)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_document_that_may_be_taken_is_its_spreads_and_the_probe_key(host: Host) -> None:
    found = host.examined(host.document(CONTENT))
    assert (found.answer, found.order, found.files) == ("take", (1, 3), {"probe.key": KEY.encode()})
    assert found.router is not None
    assert [one.name for one in found.router.spread] == ["a-b"]


FORGED: dict[str, tuple[Callable[[Host], bytes], str]] = {
    "another's signature": (lambda host: host.document(CONTENT, key=Ed25519PrivateKey.generate()), "signature"),
    "no signature": (lambda host: json.dumps(CONTENT).encode(), "no signed document"),
    "another host's": (lambda host: host.document(CONTENT, to="a1"), "for a1"),
    "a gateway's": (lambda host: host.document({"peering": [], "draining": False}), "sets 'draining'"),
    "a key that is none": (lambda host: host.document({**CONTENT, "probe_key": "/etc/shadow"}), "probe_key"),
    "no key": (lambda host: host.document({**CONTENT, "probe_key": 7}), "probe_key"),
}


@pytest.mark.parametrize("what", FORGED)
def test_what_is_not_the_controllers_to_say_is_refused(host: Host, what: str) -> None:
    make, why = FORGED[what]
    found = host.examined(make(host))
    assert (found.answer, found.router, found.files) == ("refused", None, {})
    assert why in found.why


def test_an_older_one_is_refused_and_one_that_empties_the_router_is_held(host: Host) -> None:
    kept = Octets(host.document(CONTENT), b"", (1, 3))
    assert "older than what" in host.examined(host.document(CONTENT, 2), kept).why
    found = host.examined(host.document({**CONTENT, "spread": []}, 4), kept)
    assert (found.answer, found.router) == ("hold", None)
    assert "`fwd router accept-shrink` on this host" in found.why


def test_what_is_kept_and_does_not_fit_any_more_is_closed(host: Host) -> None:
    case = replace(host.case, kept=Octets(host.document({**CONTENT, "strange": 1}), b"", (1, 3)))
    found = examined(case, "start", b"")
    assert found.answer == "refused"
    assert found.router is not None
    assert [(one.name, one.gateway) for one in found.router.spread] == [("a-b", [])]
