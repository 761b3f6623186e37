"""Members that come and go while any call fails: all of a member is there, or none, and a second attempt does it."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from fwd.datapath.counters import MemberCounter
from fwd.datapath.geometry import Geometry
from fwd.datapath.memory import Memory
from fwd.datapath.shared import MemberShared, PeeringShared, peering_sizes
from fwd.datapath.tun import Offloads
from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.supervise import peering
from fwd.supervise.material import KeyMaterial
from fwd.supervise.peering import PeeringParts
from fwd.supervise.queues import Queues

PORT = 47011


class NoQueues:
    """Members without queues of their own."""

    def add(self) -> None:
        """Add none."""

    def drop_from(self, member: int) -> None:
        """Drop none."""


@pytest.fixture
def parts() -> Iterator[PeeringParts]:
    """A peering with one member, and without a TUN device."""
    made = object.__new__(PeeringParts)
    made.peering = Peering.model_validate(
        {
            "name": "there", "local_addrs": "127.0.0.1", "remote_addrs": "127.0.0.2", "local_ts": ["10.1.0.0/24"],
            "remote_ts": ["10.2.0.0/24"], "port": PORT, "members": 1,
            "keys": LabKeys(source="lab", secret=Path("unused")),
        }
    )  # fmt: skip
    made.material, made.offloads, made.geometry = KeyMaterial({}), Offloads(), Geometry(1500, 4)
    made.memory = Memory(peering_sizes(0), "there")
    made.shared = PeeringShared(0, made.memory.map("supervisor"))
    made.sockets, made.bells, made.pairs, made._members = [], [], [], []
    made.resized = made.retired = 0
    made.queues = cast(Queues, NoQueues())
    made.add_member()
    yield made
    made._close_members()
    made.memory.close()


class Failing:
    """Let the `nth` call that `peering.py` makes fail. `where`: which it was, if there were so many."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.where = ""

    def __enter__(self) -> Failing:
        sys.setprofile(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _hook(self, frame: FrameType, what: str, argument: Any) -> None:
        caller = frame if what == "c_call" else frame.f_back if what == "call" else None
        if caller is None or caller.f_code.co_filename != peering.__file__ or self.where:
            return
        callee = argument.__name__ if what == "c_call" else frame.f_code.co_name
        if callee in ("len", "max", "__exit__", "count", "_forget_from", "append", "remove"):  # these cannot
            return
        self._left -= 1
        if self._left < 0:
            self.where = f"{caller.f_code.co_name}:{caller.f_lineno} {callee}"
            raise OSError(errno.ENOMEM, "injected")


def is_whole(parts: PeeringParts) -> bool:
    """Whether all that there is of members is of as many."""
    regions = sum(name.startswith("rows-") for name in parts.memory.regions)
    counts = [len(parts.sockets), len(parts.bells), len(parts.pairs), len(parts.shared.members)]
    return [regions, *counts] == [parts.count] * 5


def each_failure(act: Callable[[], None], check: Callable[[str], None]) -> int:
    """Let each call of `act` fail once, and `check` what is left of it; how many there were."""
    for nth in range(200):
        failing = Failing(nth)
        try:
            with failing:
                act()
        except OSError:
            check(failing.where)
            continue
        if not failing.where:
            return nth
    raise AssertionError("no end of calls")


def test_a_member_that_cannot_come_leaves_nothing_behind(parts: PeeringParts) -> None:
    def check(where: str) -> None:
        if parts.count == 2:  # it is whole, and whoever wanted it has it leave again (standing.resize)
            parts.drop_member()
        assert parts.count == 1, where
        assert is_whole(parts), where

    assert each_failure(parts.add_member, check) > 5
    assert parts.count == 2
    assert is_whole(parts)


def test_a_member_that_cannot_go_goes_at_the_next_attempt_and_is_counted_once(parts: PeeringParts) -> None:
    """Its port is free then, for one that comes in its place."""
    total = 0

    def come() -> None:
        parts.add_member()
        counters = parts.memory.map_to_write(["member-1"])
        one = MemberShared(counters, 1).counters
        one.attach()[MemberCounter.OUT_RECORDS] = 7
        one.publish()

    def check(where: str) -> None:
        nonlocal total
        if parts.count == 2:
            parts.drop_member()
        total += 7
        assert parts.count == 1, where
        assert is_whole(parts), where
        assert parts.shared.left.read()[0][MemberCounter.OUT_RECORDS] == total, where
        come()

    come()
    assert each_failure(parts.drop_member, check) > 2
    assert parts.count == 1
    assert is_whole(parts)
