"""What becomes of a controller's documents on a router, and of its link, whatever goes wrong with one of them once."""

from __future__ import annotations

import base64
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from servekit import Site, put

from fwd.control.apply import accept_shrink
from fwd.controller import ca
from fwd.datapath.shared import GatewayShared
from fwd.model.router import RouterConfig
from fwd.proto.errors import UserError
from fwd.router.linked import Linked

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what examines gives up root, and has to have it")
KEY = "5a" * 32
SPREADS: list[dict[str, Any]] = [
    {"name": f"to-{n}", "remote_ts": [f"10.{n}.0.0/16"], "gateway": [{"name": "g1", "addresses": ["10.1.0.11"]}]}
    for n in (2, 3)
]


class Host:
    """A router that has joined, and its controller's words. Its link finds nobody to speak to."""

    def __init__(self, directory: Path) -> None:
        (directory / "site").mkdir()
        self.site = Site(directory / "site")
        self.directory, self.control = directory / "kept", directory / "router.sock"
        self.directory.mkdir(0o700)
        about = {"url": "https://127.0.0.1:1", "cluster_id": "c1", "name": "a1", "identity": "a1.x"}
        key, now = ec.generate_private_key(ec.SECP256R1()), time.time()
        link = ca.link_certificate(self.site.ca, key.public_key(), ("c1", "router", "a1"), now, 1000)
        for name, data in {
            "controller.json": json.dumps(about).encode(), "ca.pem": self.site.read("ca.pem"), "link.pem": ca.pem(link),
            "document.key": base64.b64encode(self.site.key.public_key().public_bytes_raw()),
            "link.key": _pem(key),
        }.items():  # fmt: skip
            put(self.directory / name, data)
            (self.directory / name).chmod(0o600)
        self.subnets = ["10.0.0.0/8"]
        self.followed = 0
        self.begin()

    @property
    def local(self) -> RouterConfig:
        table = {"directory": str(self.directory), "subnets": self.subnets}
        return RouterConfig.model_validate({"router": {"control": str(self.control)}, "controller": table})

    def begin(self) -> None:
        """Start, with whatever is kept."""
        self.linked = Linked(self.directory, self.control, lambda: self.local, self._follow)
        self.mailbox = GatewayShared(self.linked._memory.map("link")).documents

    def begin_again(self) -> None:
        self.linked.close()
        self.begin()

    def _follow(self) -> None:
        self.followed += 1

    def send(self, generation: int, *spreads: dict[str, Any], **content: Any) -> None:
        told = {"spread": list(spreads), "probe_key": KEY, "hash_seed": 7, **content}
        self.mailbox.put(self.site.publish(told, (1, generation)))

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.shown
            self.linked.turn(time.monotonic(), dict)
            time.sleep(0.001)

    @property
    def shown(self) -> dict[str, Any]:
        return self.linked.shown(time.monotonic())

    @property
    def applied(self) -> int:
        order = self.shown["applied"]
        return order["generation"] if order else 0

    def spreads(self) -> dict[str, int]:
        """Those in force, and how many gateways each has."""
        return {one.name: len(one.gateway) for one in self.linked.beside(self.local).spread}

    def take(self, generation: int) -> None:
        self.send(generation, *SPREADS)
        self.until(lambda: self.applied == generation)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.linked.close()


def test_what_is_signed_is_in_force_and_kept_with_the_probe_key(host: Host) -> None:
    assert (host.spreads(), host.followed) == ({}, 0)
    host.take(1)
    assert (host.spreads(), host.followed) == ({"to-2": 1, "to-3": 1}, 1)
    assert host.linked.beside(host.local).router.hash_seed == 7
    assert (host.directory / "probe.key").read_text() == KEY
    assert (host.directory / "probe.key").stat().st_mode & 0o077 == 0

    host.begin_again()
    assert (host.spreads(), host.applied, host.linked.reasons) == ({"to-2": 1, "to-3": 1}, 1, [])


def test_what_link_makes_up_or_brings_again_is_refused_and_what_is_in_force_stays(host: Host) -> None:
    host.take(2)
    (host.directory.parent / "other").mkdir()
    for data, why in (
        (Site(host.directory.parent / "other").publish({"spread": []}, (1, 9)), "signature is not"),
        (b'{"spread": []}\n', "no signed document"),
        (host.site.publish({"spread": SPREADS}, (1, 1)), "older than what"),
        (host.site.publish({"spread": SPREADS, "router": {}}, (1, 9)), "sets 'router'"),
        (host.site.publish({"spread": SPREADS, "peering": []}, (1, 9)), "sets 'peering'"),
    ):
        host.mailbox.put(data)
        host.until(lambda why=why: why in host.shown["refused"])  # type: ignore[misc]
        assert (host.spreads(), host.applied) == ({"to-2": 1, "to-3": 1}, 2)


def test_what_takes_half_of_the_gateways_away_is_held_until_root_lets_it_pass(host: Host) -> None:
    host.take(1)
    host.send(2, SPREADS[0])
    host.until(lambda: host.shown["held"])
    assert "`fwd router accept-shrink`" in host.shown["held_why"]
    assert host.spreads() == {"to-2": 1, "to-3": 1}

    host.begin_again()
    assert host.shown["held"]["generation"] == 2
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(accept_shrink(host.control)))
    asking.start()
    host.until(lambda: host.applied == 2)
    host.until(lambda: not asking.is_alive())
    assert "1.2 is in force" in said[0]
    assert host.spreads() == {"to-2": 1}


def test_what_is_kept_and_not_given_away_any_more_is_closed_until_it_is_again(host: Host) -> None:
    """The operator has narrowed the file, and restarts; then has it as before, and reloads."""
    host.take(1)
    host.subnets = ["10.1.0.0/16", "10.2.0.0/16"]
    host.begin_again()
    assert host.spreads() == {"to-2": 0, "to-3": 0}, "closed: no gateway"
    assert "10.3.0.0/16 is in none of controller.subnets" in host.linked.reasons[0]

    host.subnets = ["10.0.0.0/8"]
    host.linked.look_again()
    host.until(lambda: host.applied == 1)
    assert (host.spreads(), host.linked.reasons) == ({"to-2": 1, "to-3": 1}, [])


def test_what_is_in_force_is_not_taken_away_by_the_local_file(host: Host) -> None:
    host.take(1)
    host.subnets = ["10.1.0.0/16"]
    with pytest.raises(UserError, match=r"to-2: remote_ts 10.2.0.0/16 is in none of controller.subnets; it is the"):
        host.linked.beside(host.local)


def test_what_goes_wrong_with_it_keeps_no_router_from_routing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    host.take(1)
    monkeypatch.setattr(host.linked._link, "start", refused)
    monkeypatch.setattr(os, "fork", refused)
    if host.linked._link.process is not None:
        host.linked._link.process.kill()
    host.send(2, *SPREADS)
    for _ in range(200):
        host.linked.turn(time.monotonic(), dict)
        time.sleep(0.01)
    assert (host.spreads(), host.applied) == ({"to-2": 1, "to-3": 1}, 1)
    monkeypatch.undo()
    host.until(lambda: host.linked._link.process is not None)
    host.send(3, *SPREADS)
    host.until(lambda: host.applied == 3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_link_that_dies_or_is_frozen_is_replaced(host: Host, number: signal.Signals) -> None:
    def pid() -> int:
        process = host.linked._link.process
        return process.pid or 0 if process is not None else 0

    host.until(pid)
    before = pid()
    host.until(lambda: host.shown["error"] not in ("", "link does not run"))
    status = Path(f"/proc/{before}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in status
    os.kill(before, number)
    host.until(lambda: pid() not in (0, before))
    host.take(1)
