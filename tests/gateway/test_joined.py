"""Gateways that have joined a controller: they carry what it wants, and whatever becomes of it, go on."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import servekit
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gwkit import BEACON, Json, MakePair, Pair, until
from servekit import Site
from test_answers_routers import ask
from test_supervisor import MARKER, pinging

from fwd.agent.client import query
from fwd.link.document import Document, sign
from fwd.model import render

PORT = 8443
FOREIGN = Ed25519PrivateKey.generate()


class Joined(Pair):
    """Two gateways, and the same controller in each one's namespace."""

    site: Site
    orders = 0
    subnets: tuple[str, ...] = ("10.0.0.0/8", "fd00::/8")  # that the files of both give away

    def join(self) -> None:
        self.ports = "5012-5013"
        self.gateway |= {"beacon": BEACON}  # the key for it comes from the controller
        directory = self.topology.run_dir / "controller"
        directory.mkdir()
        self.site = Site(directory)
        token = self.topology.run_dir / "token"
        token.touch(0o600)
        token.write_text(self.site.token)
        for host in self.topology.gateways:
            self.serve(host)
            self.fwd(
                host, "join", f"https://127.0.0.1:{PORT}", "--token-file", str(token), "--name", host,
                "--directory", str(self.kept(host)),
            )  # fmt: skip

    def serve(self, host: str) -> None:
        """Start the controller, as this host reaches it."""
        argv = [sys.executable, servekit.__file__, str(self.site.directory), "127.0.0.1", str(PORT)]
        self.running[f"controller-{host}"] = self.topology.popen(host, argv)
        up = ["sh", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"]
        until(lambda: self.topology.run(host, ["bash", *up[1:]], check=False).returncode == 0, 30.0, "controller")

    def kept(self, host: str) -> Path:
        return self.topology.run_dir / f"{host}.controller"

    def fwd(self, host: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.topology.run(host, [sys.executable, "-m", "fwd", *arguments], check=check)

    def write_config(self, host: str) -> Path:
        controller = {"directory": str(self.kept(host)), "subnets": list(self.subnets)}
        gateway = {"control": str(self.control(host)), **self.gateway}
        self.config(host).write_text(render.write({"gateway": gateway, "controller": controller}))
        return self.config(host)

    def write_secret(self, host: str) -> None:
        """There is none."""

    def table(self, host: str, **changes: Any) -> Json:
        """What a controller says of a host's peering with the other one."""
        (pairing,) = self.topology.pairings(host)
        (far,) = pairing.far
        return {
            "name": "a-b", "local_addrs": self.topology.outer(host), "remote_addrs": [self.topology.outer(far)],
            "local_ts": list(pairing.local_ts[:1]), "remote_ts": list(pairing.remote_ts[:1]), "members": 2,
            "payload": "superpacket", "port": 5012, "tun": "fwd1a2b3c4d", "local_id": f"{host}.gateway.fwd",
            "remote_id": [f"{far}.gateway.fwd"], **changes,
        }  # fmt: skip

    def wish(self, *hosts: str, removed: tuple[str, ...] = (), probe_key: str = "", **changes: Any) -> tuple[int, int]:
        """Have the controller want the peering on these hosts; which order that is."""
        self.orders += 1
        for host in hosts or self.topology.gateways:
            content = {"peering": [self.table(host, **changes)], "draining": False}
            content |= {"probe_key": probe_key} if probe_key else {}
            self.site.publish(content, (1, self.orders), host, removed)
        return 1, self.orders

    def controller(self, host: str) -> Json:
        found: Json = self.status(host)["controller"]
        return found

    def applied(self, host: str) -> tuple[int, int] | None:
        order = self.controller(host)["applied"]
        return (order["term"], order["generation"]) if order else None

    def others(self, host: str) -> dict[str, int]:
        return {name: pid for name, pid in self.pids(host).items() if name != "link"}


def start(pairs: MakePair) -> Joined:
    pair = pairs(start=False, kind=Joined)
    assert isinstance(pair, Joined)
    pair.join()
    for host in pair.topology.gateways:
        pair.launch(host)
    return pair


@pytest.fixture(scope="module")
def empty(module_pairs: MakePair) -> Joined:
    """Two gateways without a peering."""
    return start(module_pairs)


@pytest.fixture(scope="module")
def pair(empty: Joined) -> Joined:
    """Two gateways that carry what their controller wants."""
    empty.wish()
    empty.wait_ready(seconds=60.0)
    return empty


def up(pair: Joined, host: str) -> bool:
    with contextlib.suppress(OSError):
        controller = query(pair.control(host))["controller"]
        return bool(controller and controller["connected"])
    return False


def reasons(pair: Joined, host: str) -> list[str]:
    """Codes of why it is not ready; none while it does not answer."""
    with contextlib.suppress(OSError):
        return [one["code"] for one in query(pair.control(host))["reasons"]]
    return []


def test_a_gateway_without_a_peering_is_connected_and_says_that_it_has_nothing_to_carry(empty: Joined) -> None:
    for host in empty.topology.gateways:
        until(lambda host=host: up(empty, host), 60.0, empty.log(host))  # type: ignore[misc]
        status = empty.status(host)
        assert status["peerings"] == []
        assert not status["ready"]
        assert [one["code"] for one in status["reasons"]] == ["nothing_to_carry"]
        assert status["controller"]["applied"] is None
        until(lambda host=host: empty.site.beat(host).get("status", {}).get("waiting"), 30.0)  # type: ignore[misc]


def test_what_the_controller_wants_is_carried_and_told_back(pair: Joined) -> None:
    assert until(lambda: pair.ping(), 30.0)
    until(lambda: pair.site.beat("gw1")["applied"] == [1, pair.orders], 30.0)
    until(lambda: pair.site.beat("gw1")["status"]["ready"], 30.0)
    assert pair.site.beat("gw1")["status"]["peerings"][0]["name"] == "a-b"
    text = pair.fwd("gw1", "status", "--control", str(pair.control("gw1"))).stdout
    assert f"document 1.{pair.orders}" in text


def test_a_change_is_followed_and_ends_no_process(pair: Joined) -> None:
    before = pair.others("gw1")
    order = pair.wish("gw1", rekey_time=1800)
    until(lambda: pair.applied("gw1") == order, 30.0)
    assert pair.others("gw1") == before
    assert pair.ping()


def test_routers_are_answered_by_the_controllers_key_once_it_has_given_one(pair: Joined) -> None:
    """And by the next one, when there is another; the controller hears who has probed."""
    assert "beacon" not in pair.pids("gw1")
    before = pair.others("gw1")
    for key in (b"\x07" * 32, b"\x08" * 32):
        pair.wish("gw1", probe_key=key.hex())
        until(lambda key=key: ask(pair, key=key), 30.0, "an answer")  # type: ignore[misc]
    assert not ask(pair, key=b"\x07" * 32)
    router = pair.topology.address("client1", "eth0")
    until(lambda: router in pair.site.beat("gw1")["status"].get("routers", ()), 30.0, "who has probed")
    assert {name: pid for name, pid in pair.others("gw1").items() if name != "beacon"} == before
    assert pair.ping()


def test_what_may_not_be_is_refused_and_traffic_goes_on(pair: Joined) -> None:
    """Whoever takes the link over, or signs what it may not."""
    before, at = pair.others("gw1"), pair.applied("gw1")
    whole = Document("c1", 1, pair.orders + 1, "gw1", {"peering": [pair.table("gw1")]})
    table = pair.table("gw1")
    cases = {
        "signature is not": sign(whole, FOREIGN),
        "no signed document": b'{"signed": "e30="}\n',
        "older than what": sign(replace(whole, generation=0), pair.site.key),
        "for gw2": sign(replace(whole, host="gw2"), pair.site.key),
        "sets 'gateway'": sign(replace(whole, content={**whole.content, "gateway": {"user": "x"}}), pair.site.key),
        "sets 'keys'": sign(replace(whole, content={"peering": [{**table, "keys": {}}]}), pair.site.key),
        "in none of": sign(
            replace(whole, content={"peering": [{**table, "remote_ts": ["198.51.100.0/24"]}]}), pair.site.key
        ),
        "crl": sign(replace(whole, content={**whole.content, "crl": "/etc/shadow"}), pair.site.key),
    }
    for why, data in cases.items():
        servekit.put(pair.site.directory / "desired-gw1", data)
        until(lambda why=why: why in pair.controller("gw1")["refused"], 30.0, why)  # type: ignore[misc]
        assert pair.ping()
    assert pair.applied("gw1") == at
    assert pair.others("gw1") == before
    order = pair.wish("gw1")
    until(lambda: pair.applied("gw1") == order and not pair.controller("gw1")["refused"], 30.0)


def test_what_takes_everything_away_is_held_until_root_lets_it_pass(pair: Joined) -> None:
    pair.orders += 1
    pair.site.publish({"peering": [], "draining": False}, (1, pair.orders), "gw1")
    until(lambda: pair.controller("gw1")["held"], 30.0)
    until(lambda: (pair.site.beat("gw1")["held"] or {}).get("order") == [1, pair.orders], 30.0)
    assert pair.ping()
    control = str(pair.control("gw1"))
    assert f"1.{pair.orders} is in force" in pair.fwd("gw1", "apply", "--accept-shrink", "--control", control).stdout
    until(lambda: not pair.status("gw1")["peerings"], 30.0)
    again = pair.fwd("gw1", "apply", "--accept-shrink", "--control", control, check=False)
    assert (again.returncode, "nothing to accept" in again.stderr) == (2, True)
    pair.wish("gw1")
    pair.wait_ready(seconds=60.0)
    assert until(lambda: pair.ping(), 30.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_link_that_dies_or_is_frozen_is_replaced_and_nobody_else(pair: Joined, number: signal.Signals) -> None:
    before = pair.others("gw1")
    pid = pair.kill("gw1", "link", number)
    until(lambda: pair.pids("gw1")["link"] not in (0, pid) and up(pair, "gw1"), 30.0, "link replaced")
    assert pair.others("gw1") == before
    assert pair.ping()


def test_a_refusal_is_shown_as_the_controller_says_it(pair: Joined) -> None:
    (pair.site.directory / "refuse").write_text("403 not yet valid: this host's clock is 600 s behind")
    until(lambda: "clock is 600 s behind" in pair.controller("gw1")["error"], 60.0)
    until(lambda: not pair.controller("gw1")["connected"], 30.0, "heartbeats are refused, as the stream is")
    assert pair.ping()
    (pair.site.directory / "refuse").unlink()
    until(lambda: up(pair, "gw1") and not pair.controller("gw1")["error"], 90.0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_leaves_in_the_clear_when_a_start_cannot_take_what_is_kept(
    pair: Joined, number: signal.Signals
) -> None:
    """The operator has narrowed the file, and restarts; then has it as before, and reloads."""
    at = pair.applied("gw1")
    pair.stop("gw1", number)
    pair.subnets = ("10.1.0.0/16",)
    pair.launch("gw1")
    until(lambda: reasons(pair, "gw1") == ["not_in_force"], 60.0, "started")
    until(lambda: up(pair, "gw1"), 60.0, "connected, and sent the document again")
    with pair.capture(marker=MARKER) as wire, pinging(pair):
        assert not pair.ping(count=3)
    assert wire["plaintext_packets"] == 0, wire["plaintext_examples"]
    assert "table inet fwd_a_b" in pair.topology.run("gw1", ["nft", "list", "tables"]).stdout
    assert "none of controller.subnets" in pair.controller("gw1")["refused"]

    pair.subnets = Joined.subnets
    pair.write_config("gw1")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    until(lambda: pair.applied("gw1") == at, 30.0, "in force, without a new document")
    pair.wait_ready(seconds=60.0)
    assert until(lambda: pair.ping(), 30.0)


def test_a_gateway_starts_without_its_controller_and_comes_back_to_it(pair: Joined) -> None:
    """And keeps what it had: the last of these tests."""
    at = pair.applied("gw1")
    for host in ("controller-gw1", "controller-gw2"):
        pair.stop(host, signal.SIGKILL)
    until(lambda: not up(pair, "gw1"), 60.0)
    assert pair.ready("gw1")
    assert pair.stop("gw1") == 0
    pair.launch("gw1")
    pair.wait_ready("gw1")
    assert until(lambda: pair.ping(), 30.0)
    assert pair.applied("gw1") == at
    assert not pair.controller("gw1")["connected"]
    pair.serve("gw1")
    until(lambda: up(pair, "gw1"), 90.0)
    assert pair.ping()
