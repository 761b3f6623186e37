"""A real gateway under a service manager: what comes to NOTIFY_SOCKET, and how the log looks to the journal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, until

WATCHDOG_S = 0.8


class Manager:
    """Listens where a service's messages come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[list[str]] = []
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(str(path))
        self.sock.setblocking(False)

    def heard(self, *lines: str) -> bool:
        """Whether these lines have come, in this order, in whatever messages."""
        while True:
            try:
                self.messages.append(self.sock.recv(4096).decode().split("\n"))
            except BlockingIOError:
                break
        said = iter([line for message in self.messages for line in message])
        return all(line in said for line in lines)

    def expect(self, *lines: str) -> None:
        until(lambda: self.heard(*lines), 15.0, f"{lines}; heard {self.messages}")

    def forget(self) -> None:
        self.heard()
        self.messages.clear()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.sock.close()


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, manager: Manager) -> Callable[[Pair], None]:
    """Starts gw1 as a service manager would."""

    def start(pair: Pair) -> None:
        pair.secret = os.urandom(32)
        with monkeypatch.context() as environ:
            environ.setenv("NOTIFY_SOCKET", str(manager.path))
            environ.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
            pair.launch("gw1")

    return start


def test_ready_does_not_wait_for_the_far_gateway(
    pairs: MakePair, manager: Manager, launch: Callable[[Pair], None]
) -> None:
    """Two gateways that wait for each other would never start. The status says what works."""
    pair = pairs(start=False, keys={"source": "psk"})
    launch(pair)
    manager.expect("READY=1", "STATUS=to-gw2-0: 0 of 2 members send")
    routes = pair.topology.run("gw1", ["ip", "route"]).stdout
    assert "dev fwd0" in routes
    assert "unreachable" in routes
    pair.launch("gw2")
    manager.expect("STATUS=to-gw2-0: 2 of 2 members send")


def test_the_life_of_a_service(pairs: MakePair, manager: Manager, launch: Callable[[Pair], None]) -> None:
    pair = pairs(start=False)
    launch(pair)
    pair.launch("gw2")
    manager.expect("READY=1")
    pair.wait_ready()

    manager.forget()
    manager.expect(*["WATCHDOG=1"] * 5)

    manager.forget()
    began_us = time.monotonic_ns() // 1000
    pair.running["gw1"].send_signal(signal.SIGHUP)
    manager.expect("RELOADING=1", "READY=1")
    message = next(m for m in manager.messages if "RELOADING=1" in m)
    at_us = int(re.fullmatch(r"MONOTONIC_USEC=(\d+)", message[1])[1])  # type: ignore[index]
    assert began_us <= at_us <= time.monotonic_ns() // 1000

    manager.forget()
    pair.config("gw1").write_text("[[peering]\n")
    pair.running["gw1"].send_signal(signal.SIGHUP)
    manager.expect("RELOADING=1", "READY=1")
    until(lambda: "configuration not re-read" in pair.log("gw1"), what="the refusal is told")

    manager.forget()
    assert pair.stop("gw1") == 0
    manager.expect("STOPPING=1")
    assert not any("READY=1" in message for message in manager.messages)


def test_no_process_but_the_supervisor_holds_the_managers_socket(
    pairs: MakePair, manager: Manager, launch: Callable[[Pair], None]
) -> None:
    pair = pairs(start=False)
    launch(pair)
    pair.launch("gw2")
    pair.wait_ready()

    def unix_datagram_sockets(pid: int) -> set[str]:
        """Nothing but the manager is spoken to in Unix datagrams."""
        rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
        kind = {f"socket:[{row[6]}]" for row in rows if row[4] == "0002"}
        held = set()
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                held.add(os.readlink(fd))
        return held & kind

    assert len(unix_datagram_sockets(pair.running["gw1"].pid)) == 1
    for name, pid in pair.pids("gw1").items():
        assert not unix_datagram_sockets(pid), name


def test_json_is_one_object_a_line_from_every_process(pairs: MakePair) -> None:
    pair = pairs(arguments=["--log-format", "json"])
    pair.kill("gw1", "member-0")
    until(lambda: "killed by SIGKILL" in pair.log("gw1"), what="the death is told")
    pair.stop("gw2")
    pair.write_secret("gw2")
    pair.secret = os.urandom(32)
    pair.launch("gw2")
    pair.wait_ready("gw2")
    pair.ping(count=3)
    until(lambda: '"audit.bad_icv"' in pair.log("gw2"), what="the audit log")
    for host in ("gw1", "gw2"):
        assert pair.stop(host) == 0
    told = [json.loads(line) for host in ("gw1", "gw2") for line in pair.log(host).splitlines()]
    assert all(list(one) == ["time", "level", "process", "event", "message", "fields"] for one in told)
    assert {"supervisor", "to-gw2-0/member-0"} <= {one["process"] for one in told}
    (death,) = [one for one in told if one["event"] == "process.ended" and one["fields"]["exit_code"] == -9]
    assert death["fields"]["name"] == "to-gw2-0/member-0"
    refused = next(one for one in told if one["event"] == "audit.bad_icv")
    assert (refused["fields"]["source"], refused["fields"]["destination"]) == (
        pair.topology.outer("gw1"), pair.topology.outer("gw2"),
    )  # fmt: skip


def test_the_journal_gets_priorities_and_no_times(pairs: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = pairs(start=False)
    log = pair.topology.run_dir / "gw1.log"
    log.touch()
    stat = log.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{stat.st_dev}:{stat.st_ino}")
    pair.start()
    pair.kill("gw1", "member-0")
    until(lambda: "killed by SIGKILL" in pair.log("gw1"), what="the death is told")
    lines = pair.log("gw1").splitlines()
    assert all(re.match(r"<[0-7]>\S+: ", line) for line in lines), lines
    assert any(re.match(r"<4>supervisor: .*killed by SIGKILL", line) for line in lines)
    assert any(re.match(r"<6>to-gw2-0/member-\d: sends on SPI", line) for line in lines)
    assert all(re.match(r"\d{4}-", line) for line in pair.log("gw2").splitlines()), "its stream is another"
