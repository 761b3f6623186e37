"""The admin socket: who may ask, and what a client can do to the supervisor, which is nothing."""

from __future__ import annotations

import json
import os
import selectors
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fwd.supervise import admin, sockets
from fwd.supervise.admin import REQUEST_BYTES_MAX, REQUEST_S, VISITORS_MAX, Admin, RefusedError, Request, command_in


class Served:
    """An admin socket with a loop that never waits, as the supervisor's does not."""

    def __init__(self, path: Path, user: int) -> None:
        self.path = path
        self.asked: list[Request] = []
        self.let = False
        self.selector = selectors.DefaultSelector()
        self.listening = sockets.listen_admin(path)
        self.admin = Admin(self.listening, self.selector, self.obey, user)

    def obey(self, request: Request) -> dict[str, Any] | Iterator[dict[str, Any] | None]:
        self.asked.append(request)
        if request.command == "slow":
            return self.slowly()
        if request.command == "refuse":
            raise RefusedError("it is not to be")
        return {"done": request.command}

    def slowly(self) -> Iterator[dict[str, Any] | None]:
        """Says a first thing, waits until it is let, and ends with a refusal."""
        try:
            yield {"first": True}
            while not self.let:
                yield None
            raise RefusedError("not in the end")
        finally:
            self.let = False

    def turn(self, now: float | None = None) -> None:
        """Deal with all that waits."""
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data.wake()
        self.admin.turn(time.monotonic() if now is None else now)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(5.0)
        sock.connect(str(self.path))
        return sock

    def say(self, data: bytes, fds: list[int] | None = None) -> dict[str, Any]:
        """The answer to one request."""
        with self.connect() as sock:
            socket.send_fds(sock, [data], fds or [])
            self.turn()
            answer: dict[str, Any] = json.loads(sock.recv(1 << 16))
            return answer

    def close(self) -> None:
        self.admin.close()
        self.selector.close()
        self.listening.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "admin.sock", os.getuid())
    yield made
    made.close()


def request(command: str, **words: object) -> bytes:
    return json.dumps({"command": command, **words}).encode()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_asked_for_is_done_and_answered(served: Served) -> None:
    assert served.say(request("rekey", peering="vpc2")) == {"done": "rekey"}
    assert served.asked[0].text("peering") == "vpc2"
    assert served.say(request("refuse")) == {"error": "it is not to be"}


def test_nobody_but_the_user_may_ask(tmp_path: Path) -> None:
    other = Served(tmp_path / "other.sock", os.getuid() + 1)
    assert other.say(request("rekey")) == {"error": "this is for root alone"}
    assert not other.asked
    other.close()


def test_no_other_user_gets_as_far_as_that(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "data", [b"x", b"\xff" * 100, b"[" * 4000, b"[]", b"7", b'{"peering": "a"}', b'{"command": []}', b'{"command": {}}']
)
def test_what_is_no_request_is_refused_in_one_line(served: Served, data: bytes) -> None:
    assert "\n" not in served.say(data)["error"]
    assert not served.asked
    with pytest.raises(RefusedError):
        command_in(data)


def test_a_request_is_bounded(served: Served) -> None:
    assert "longer than" in served.say(request("rekey", peering="a" * REQUEST_BYTES_MAX))["error"]


def test_descriptors_that_come_along_are_closed_whatever_is_asked(served: Served) -> None:
    with open(os.devnull) as file:
        before = descriptors()
        for data in (request("rekey"), request("refuse"), b"no request"):
            served.say(data, [file.fileno()])
            served.say(data, [file.fileno()] * 5)
        assert descriptors() == before
    assert all(one.file is not None for one in served.asked)


def test_many_who_say_nothing_keep_others_waiting_for_a_moment_only(served: Served) -> None:
    idle = [served.connect() for _ in range(2 * VISITORS_MAX)]
    served.turn()
    for _ in range(2):  # the first lot, then those that had to wait
        served.turn(time.monotonic() + 2 * REQUEST_S)
    assert served.say(request("rekey")) == {"done": "rekey"}
    for sock in idle:
        sock.close()


def test_who_is_gone_before_the_answer_costs_nothing(served: Served) -> None:
    before = descriptors()
    for _ in range(3):
        sock = served.connect()
        sock.send(request("rekey"))
        sock.close()
        served.connect().close()
    served.turn()
    assert descriptors() == before


def test_commands_have_a_rate(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    said = [served.say(request("rekey")) for _ in range(int(admin.BURST) + 1)]
    assert said[0] == {"done": "rekey"}
    assert "too many commands" in said[-1]["error"]


def test_what_takes_its_time_is_answered_bit_by_bit_and_others_are_served_meanwhile(served: Served) -> None:
    with served.connect() as sock:
        sock.send(request("slow"))
        served.turn()
        assert json.loads(sock.recv(1 << 16)) == {"first": True}
        assert served.admin.is_busy
        assert served.say(request("rekey")) == {"done": "rekey"}
        served.let = True
        served.turn()
        assert json.loads(sock.recv(1 << 16)) == {"error": "not in the end"}
        assert sock.recv(1) == b""
    assert not served.admin.is_busy


def test_who_waits_for_too_long_is_dismissed_and_what_was_begun_for_it_ended(served: Served) -> None:
    before = descriptors()
    with served.connect() as sock:
        sock.send(request("slow"))
        served.turn()
        served.let = None  # type: ignore[assignment]
        served.turn(time.monotonic() + 2 * admin.ANSWER_S)
        assert served.let is False
    assert descriptors() == before


@pytest.mark.parametrize(
    "answer",
    [
        {"plan": [f"to-{n}: guard " + "fd01:0:0:1::/64, " * 255 for n in range(64)], "confirm_s": 7},
        {"plan": [f"to-{n}: follow" for n in range(100_000)], "confirm_s": 7},
        {"plan": ["\u2026" * 400] * 300, "confirm_s": 7},
        {"plan": [], "waiting": {f"to-{n}": "why " * 10_000 for n in range(64)}, "confirm_s": 7},
        {"plan": [["x" * 100] * 100] * 100, "confirm_s": 7},
    ],
    ids=["long steps", "many steps", "long when encoded", "long reasons", "lists of lists"],
)
def test_an_answer_of_any_length_is_answered(served: Served, answer: dict[str, Any]) -> None:
    """A plan for 64 peerings of 255 subnets is longer than a message of the socket; it is in force by then."""
    served.obey = lambda request: iter([answer, {"done": True}])  # type: ignore[method-assign]
    served.admin._obey = served.obey
    with served.connect() as sock:
        sock.send(request("apply"))
        served.turn()
        served.turn()  # before the first is read
        said = json.loads(sock.recv(admin.ANSWER_BYTES_MAX))
        assert said["confirm_s"] == 7
        assert said["plan"][:1] == [] or len(said["plan"]) >= 30
        assert "more" in json.dumps(said), "it says that there is more"
        assert json.loads(sock.recv(1 << 16)) == {"done": True}


def test_an_answer_that_fits_is_answered_whole() -> None:
    answer = {"plan": [f"to-{n}: follow " + "x" * 700 for n in range(64)], "confirm_s": 0}
    assert json.loads(admin.encoded(answer)) == answer
