"""What the service manager hears, and that a child of fwd could not speak for it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.datapath.shared import LinkWord, MemberShared, PeeringShared, ProcessState
from fwd.supervise.notify import EVERY_S, ServiceManager, summary


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def service(manager: socket.socket, **more: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": manager.getsockname(), **more})


def heard(manager: socket.socket) -> list[list[str]]:
    """Every message since the last call, as its lines."""
    found = []
    while True:
        try:
            found.append(manager.recv(4096).decode().split("\n"))
        except BlockingIOError:
            return found


def test_the_first_turn_is_ready_with_a_status(manager: socket.socket) -> None:
    mine = service(manager)
    mine.turn(10.0, lambda: "fine")
    mine.turn(10.5, lambda: "fine")
    mine.close()
    assert heard(manager) == [["READY=1", "STATUS=fine", "WATCHDOG=1"]]


def test_what_the_manager_had_no_room_for_is_said_again(manager: socket.socket) -> None:
    mine = service(manager)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, contextlib.suppress(BlockingIOError):
        other.setblocking(False)
        while True:
            other.sendto(b"X", manager.getsockname())
    mine.turn(10.0, lambda: "fine")
    heard(manager)
    mine.turn(11.1, lambda: "fine")
    mine.turn(11.2, lambda: "fine")
    assert [lines[:2] for lines in heard(manager)] == [["READY=1", "STATUS=fine"]]


def test_the_status_is_sent_when_it_changes_and_looked_at_once_a_second(manager: socket.socket) -> None:
    mine = service(manager)
    mine.turn(10.0, lambda: "one")
    heard(manager)
    mine.turn(10.0 + EVERY_S / 2, lambda: pytest.fail("asked too early"))
    mine.turn(10.0 + EVERY_S, lambda: "one")
    assert heard(manager) == []
    mine.turn(10.0 + 2 * EVERY_S, lambda: "two")
    mine.close()
    assert heard(manager) == [["STATUS=two"]]


def test_alive_is_told_twice_in_the_managers_patience(manager: socket.socket) -> None:
    mine = service(manager, WATCHDOG_USEC="3000000", WATCHDOG_PID=str(os.getpid()))
    told = []
    for tick in range(100):
        mine.turn(10 + tick / 10, lambda: "")
        told += [tick / 10 for lines in heard(manager) if "WATCHDOG=1" in lines]
    mine.close()
    assert told == pytest.approx([0, 1.5, 3, 4.5, 6, 7.5, 9])


def test_a_watchdog_of_another_process_is_not_ours(manager: socket.socket) -> None:
    mine = service(manager, WATCHDOG_USEC="2000", WATCHDOG_PID="1")
    for tick in range(5):
        mine.turn(10.0 + tick, lambda: "")
    mine.close()
    assert sum("WATCHDOG=1" in lines for lines in heard(manager)) == 1


def test_a_reload_begins_now_and_ends_with_the_next_turn(manager: socket.socket) -> None:
    mine = service(manager)
    mine.turn(10.0, lambda: "fine")
    heard(manager)
    before_us = time.monotonic_ns() // 1000
    mine.reloading()
    ((reloading, at),) = heard(manager)
    assert reloading == "RELOADING=1"
    key, _, value = at.partition("=")
    assert key == "MONOTONIC_USEC"
    assert before_us <= int(value) <= time.monotonic_ns() // 1000
    mine.turn(10.1, lambda: "fine")
    mine.turn(10.2, lambda: "fine")
    mine.close()
    assert heard(manager) == [["READY=1"]]


def test_the_end_is_told(manager: socket.socket) -> None:
    mine = service(manager)
    mine.stopping()
    mine.close()
    assert heard(manager)[0][0] == "STOPPING=1"


def test_an_abstract_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f"fwd-test-{os.getpid()}"
        sock.bind(f"\0{name}")
        sock.setblocking(False)
        mine = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
        mine.turn(1.0, lambda: "")
        mine.close()
        assert heard(sock)[0][0] == "READY=1"


def test_what_the_manager_gave_is_taken_from_the_environment(manager: socket.socket) -> None:
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/root"
    }  # fmt: skip
    ServiceManager(environ).close()
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}], ids=["none", "gone"])
def test_without_a_manager_nothing_happens(environ: dict[str, str]) -> None:
    mine = ServiceManager(environ)
    mine.turn(1.0, lambda: "")
    mine.reloading()
    mine.stopping()
    mine.close()


def member(shared: MemberShared, state: ProcessState, spi: int, path_down: int = 0) -> None:
    shared.process.put(state, 1, 0, 0, 1)
    shared.link[LinkWord.SPI_OUT] = spi
    shared.link[LinkWord.PATH_DOWN] = path_down


def test_the_summary_counts_who_can_send() -> None:
    two, three = PeeringShared(4), PeeringShared(1)
    for shared in two.members:
        member(shared, ProcessState.RUNNING, 0x101)
    member(three.members[0], ProcessState.RUNNING, 0x101)
    assert summary({"vpc2": two, "vpc3": three}) == "vpc2: 4 of 4 members send, vpc3: 1 of 1 members send"
    member(two.members[0], ProcessState.BACKOFF, 0x101)
    member(two.members[1], ProcessState.RUNNING, 0)
    member(two.members[2], ProcessState.RUNNING, 0x101, path_down=1)
    assert summary({"vpc2": two}) == "vpc2: 1 of 4 members send"
    behind = summary({"vpc2": two}, ["vpc4"], ["vpc2"]).split(", ", 1)[1]
    assert behind == "vpc4: not set up, vpc2: not as configured, see fwd status"
