"""A change of `members` opens all that are to come, or none."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from fwd.model.config import Peering
from fwd.supervise import plan
from fwd.supervise.following import follow
from fwd.supervise.standing import Standing
from fwd.supervise.troubles import Troubles


class Parts:
    """A peering whose members need no more than a port."""

    def __init__(self, members: int, port: int) -> None:
        self.peering = Peering.model_construct(name="p", members=members, shared_port=False)
        self._port = port
        self.sockets: list[socket.socket] = []
        for _ in range(members):
            self.add_member()

    @property
    def count(self) -> int:
        return len(self.sockets)

    def add_member(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(("127.0.0.9", self._port + self.count))
        except OSError:
            sock.close()
            raise
        self.sockets.append(sock)

    def drop_member(self) -> None:
        self.sockets.pop().close()

    def close(self) -> None:
        while self.sockets:
            self.drop_member()


def resize(parts: Parts, members: int) -> None:
    standing: Any = SimpleNamespace(peerings={"p": parts}, version=0, ike_sockets=None)
    Standing.resize(standing, SimpleNamespace(members=members, name="p"), spreads=False)  # type: ignore[arg-type]


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Callable[[], Parts]:
    def two_members() -> Parts:
        parts = Parts(2, 24700)
        request.addfinalizer(parts.close)
        return parts

    return two_members


def test_members_of_which_one_cannot_be_had_do_not_come_at_all(make: Callable[[], Parts]) -> None:
    parts = make()
    before = list(parts.sockets)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 24703))
        with pytest.raises(OSError, match="in use"):
            resize(parts, 4)
        assert parts.sockets == before
        assert parts.peering.members == 2
    resize(parts, 4)
    assert parts.count == parts.peering.members == 4


def test_why_members_do_not_come_is_kept_until_they_do(make: Callable[[], Parts]) -> None:
    """For the status, and for who has applied the configuration; the log says it once."""
    parts = make()
    peering = Peering.model_construct(name="p", members=4, shared_port=False, drain_deadline=60)
    standing: Any = SimpleNamespace(peerings={"p": parts}, version=0, unfollowed={}, ike_sockets=None)
    standing.resize = partial(Standing.resize, standing)
    steps, troubles = [plan.Grow(peering, 2)], Troubles()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.9", 24703))
        for _ in range(2):
            assert follow(standing, steps, troubles, secrets_due=False) == (set(), {"p"})
            assert standing.unfollowed["p"].startswith("grow from 2 to 4 members, not done yet: ")
            assert "in use" in standing.unfollowed["p"]
    assert follow(standing, steps, troubles, secrets_due=False) == ({"p"}, set())
    assert standing.unfollowed == {}
