"""keyd is told of peerings that come, change and go while it runs; the others' SAs are not touched."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from portkit import free_port
from test_service import ADDRESSES, Gateway, until

from fwd.datapath import channel
from fwd.datapath.channel import Notice
from fwd.datapath.memory import Memory
from fwd.datapath.shared import peering_sizes
from fwd.keyd.mailbox import KeydPeering
from fwd.model.config import Peering
from fwd.proto.ike.events import Datagram

pytestmark = pytest.mark.usefixtures("soon_again")

P, Q = b"the secret of one peering, of p", b"the secret of the other, of q"


class Told:
    """A gateway's keyd, and what the supervisor has for it."""

    def __init__(self, number: int, gateway: Gateway, undo: contextlib.ExitStack, tmp_path: Path) -> None:
        self.gateway, self._number, self._undo, self._path = gateway, number, undo, tmp_path
        self._sent = self._answered = 0
        self.wrong: list[int] = []  # notices that keyd could not do

    def tell(self, notice: Notice) -> None:
        self._sent += 1
        assert channel.send(self.gateway.channel, notice, self._sent)

    def has_done(self) -> bool:
        """Whether keyd has dealt with all of it."""
        self._answered, wrong = channel.answered(self.gateway.channel, self._answered)
        self.wrong += wrong
        return self._answered == self._sent

    def config(self, name: str, port: int, **more: Any) -> dict[str, Any]:
        mine, theirs = (f"10.{1 + n}.9.0/24" for n in (self._number, 1 - self._number))
        path = self.secret(Q)
        return {
            "name": name, "local_addrs": ADDRESSES[self._number], "remote_addrs": ADDRESSES[1 - self._number],
            "local_ts": [mine], "remote_ts": [theirs], "tun": name, "port": 4700, "members": 2, **more,
            "keys": {"source": "psk", "secret": str(path), "ike_port": port, **more.get("keys", {})},
        }  # fmt: skip

    def secret(self, octets: bytes) -> Path:
        path = self._path / f"secret-{octets.hex()[:9]}"
        path.write_bytes(octets)
        return path

    def fd(self, octets: bytes) -> int:
        fd = os.open(self.secret(octets), os.O_RDONLY)
        self._undo.callback(os.close, fd)
        return fd

    def open(self, name: str, config: dict[str, Any], port: int) -> None:
        """IKE's socket, the peering, its members."""
        sock = self._undo.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((ADDRESSES[self._number], port))
        sock.setblocking(False)
        at = [ADDRESSES[self._number], port]
        self.tell(Notice("sockets", "", {"close": [], "open": [at]}, {"0": sock.fileno()}))
        memory = Memory(peering_sizes(config["members"]), name)
        self._undo.callback(memory.close)
        of, body = memory.sizes("keyd"), {"peering": config, "offloads": {"tun_flags": 0}}
        with memory.opened("keyd", ["keyd"]) as fds:
            self.tell(Notice("open", name, body, {"secret": self.fd(Q), **fds}, {"keyd": of["keyd"]}))
        for index in range(config["members"]):
            own = {one: octets for one, octets in of.items() if one.endswith(f"-{index}")}
            pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
            for one in (one for pair in pairs for one in pair):
                one.setblocking(False)
                self._undo.callback(one.close)
            ends = (*pairs[0], pairs[1][0], *pairs[2])
            names = ("boot", "boot_far", "control", "memory", "memory_far")
            with memory.opened("keyd", own) as fds:
                socks = {name: one.fileno() for name, one in zip(names, ends, strict=True)}
                self.tell(Notice("member", name, {"index": index}, {**socks, **fds}, own))


@pytest.fixture
def pair(undo: contextlib.ExitStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """Two gateways with a peering p that is there from the start, and established."""
    monkeypatch.setattr("fwd.keyd.secrets._weak", lambda secret: "")
    peerings: dict[str, tuple[bytes, dict[str, Any]]] = {"p": (P, {"ike_port": free_port(ADDRESSES)})}
    secret = tmp_path / "secret-p"
    secret.write_bytes(P)

    def with_secret(parts: KeydPeering) -> KeydPeering:
        fd = os.open(secret, os.O_RDONLY)
        return replace(parts, fds={"secret": fd})

    gateways = [Gateway(number, peerings, undo, with_secret) for number in (0, 1)]
    told = [Told(number, gateway, undo, tmp_path) for number, gateway in enumerate(gateways)]
    until(gateways, lambda: all(gateway.sa("p") for gateway in gateways))
    return told


def run(pair: list[Told], condition: Callable[[], object]) -> None:
    until([one.gateway for one in pair], condition)


def meet(pair: list[Told], name: str = "q") -> int:
    """Open a peering on both sides; its IKE port."""
    port = free_port(ADDRESSES)
    for one in pair:
        one.open(name, one.config(name, port), port)
    run(pair, lambda: all(one.gateway.sa(name) for one in pair))
    return port


def mapped(name: str) -> int:
    with open("/proc/self/maps", encoding="ascii") as file:
        return sum(f"memfd:fwd/{name}/" in line for line in file)


def test_a_peering_that_comes_is_joined_and_the_other_keeps_its_ike_sa(pair: list[Told]) -> None:
    kept = [one.gateway.sa("p") for one in pair]
    meet(pair)
    assert [one.gateway.sa("p") for one in pair] == kept
    assert pair[0].gateway.sa("q").spi_i == pair[1].gateway.sa("q").spi_i
    run(pair, lambda: all(len(one.gateway.sa("q").children) >= 2 for one in pair))
    run(pair, lambda: all(one.has_done() for one in pair))


def test_a_peering_that_goes_leaves_nothing_and_can_come_again(pair: list[Told]) -> None:
    kept = [one.gateway.sa("p") for one in pair]
    for _ in range(2):
        port = meet(pair, "gone")
        members = [member for one in pair for member in one.gateway.service._peerings["gone"].members]
        assert mapped("gone") > 0
        for one in pair:
            one.tell(Notice("close", "gone"))
            one.tell(Notice("sockets", "", {"close": [[ADDRESSES[one._number], port]], "open": []}))
            run(pair, one.has_done)
            assert not one.wrong
            assert not one.gateway.sa("gone")
        assert {sock.fileno() for member in members for sock in (member.boot, member.control)} == {-1}
        del members
        gc.collect()
        assert mapped("gone") == 0
    assert [one.gateway.sa("p") for one in pair] == kept


def test_the_peer_of_a_peering_that_goes_is_told(pair: list[Told]) -> None:
    meet(pair)
    pair[0].tell(Notice("close", "q"))
    run(pair, lambda: pair[0].has_done() and not pair[1].gateway.sa("q"))


def test_it_is_told_again_if_that_is_lost_and_another_peering_keeps_the_socket(
    pair: list[Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = meet(pair)
    inbox, lost = pair[0].gateway.service._inbox, list[Datagram]()
    send = inbox.send

    def lose_one(datagram: Datagram) -> None:
        if datagram.local[1] == port and not lost:
            lost.append(datagram)
        else:
            send(datagram)

    run(pair, lambda: not any(sa.busy for one in pair for sa in [one.gateway.sa("q")]))
    monkeypatch.setattr(inbox, "send", lose_one)
    pair[0].tell(Notice("close", "q"))
    run(pair, lambda: pair[0].has_done() and not pair[1].gateway.sa("q"))
    assert lost


def test_a_change_touches_no_sa(pair: list[Told]) -> None:
    port = meet(pair)
    kept = [one.gateway.sa(name) for one in pair for name in "pq"]
    for one in pair:
        config = one.config("q", port, rekey_time=77, keys={"dpd_delay": 4})
        one.tell(Notice("change", "q", {"peering": config}))
        run(pair, one.has_done)
    assert [one.gateway.sa(name) for one in pair for name in "pq"] == kept
    assert {one.gateway.sa("q").connection.liveness_s for one in pair} == {4.0}


def test_another_secret_is_authenticated_by_at_once(pair: list[Told]) -> None:
    port = meet(pair)
    before, kept = pair[0].gateway.sa("q"), pair[0].gateway.sa("p")
    for one in pair:
        config = one.config("q", port)
        config["keys"]["secret"] = str(one.secret(P))
        one.tell(Notice("change", "q", {"peering": config}, {"secret": one.fd(P)}))
    run(pair, lambda: all(one.gateway.sa("q") not in (None, before) for one in pair))
    run(pair, lambda: pair[0].gateway.sa("q").spi_i == pair[1].gateway.sa("q").spi_i)
    assert pair[0].gateway.sa("p") is kept


@pytest.mark.parametrize("at", ["open", "member", "change", "sockets", "what is this"])
def test_what_cannot_be_done_ends_that_attempt_alone(
    pair: list[Told], at: str, caplog: pytest.LogCaptureFixture
) -> None:
    kept = pair[0].gateway.sa("p")
    pair[0].tell(Notice(at, "q", {"peering": {"name": "nonsense"}}))
    run(pair, pair[0].has_done)
    assert pair[0].wrong == [1]
    assert "changes: a fault of fwd's" in caplog.text
    assert pair[0].gateway.sa("p") is kept
    meet(pair)


def test_a_secret_that_cannot_be_used_leaves_the_one_of_before(pair: list[Told]) -> None:
    port = meet(pair)
    kept = pair[0].gateway.sa("q")
    notice = Notice("change", "q", {"peering": pair[0].config("q", port)}, {"secret": pair[0].fd(b'"quoted"')})
    pair[0].tell(notice)
    run(pair, pair[0].has_done)
    assert pair[0].gateway.sa("q") is kept
    for _ in range(20):
        pair[0].gateway.service.turn(0.001)
    assert pair[0].gateway.sa("q") is kept


def test_a_configuration_comes_through_the_channel_as_it_was(pair: list[Told]) -> None:
    config = Peering.model_validate(pair[0].config("q", 5000, reorder_ms=1.5, remote_ts=["fd00::/64", "10.9.9.0/24"]))
    assert Peering.model_validate(config.model_dump(mode="json")) == config


def test_users_commands_come_through_the_channel(pair: list[Told]) -> None:
    pair[0].tell(Notice("command", "p", {"command": "terminate"}))
    run(pair, lambda: not any(one.gateway.sa("p") for one in pair))
    pair[0].tell(Notice("command", "p", {"command": "initiate"}))
    run(pair, lambda: all(one.gateway.sa("p") for one in pair))
    pair[0].tell(Notice("command", "nobody", {"command": "rekey"}))
    run(pair, lambda: pair[0].has_done())
    assert not pair[0].wrong
