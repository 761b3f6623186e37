"""The TUN device's MTU follows the path, down and up, and never below what IPv6 needs (payload esp)."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fwd.datapath.geometry import Geometry
from fwd.datapath.shared import LinkWord, PeeringShared
from fwd.model.config import Peering
from fwd.model.keys import LabKeys
from fwd.supervise.patience import TOLD_AT_ONCE, TOLD_EVERY_S, Allowance
from fwd.supervise.peering import MTU_EVERY_S, PeeringParts
from fwd.supervise.queues import Queues

V4, V6 = "10.2.0.0/24", "fd00:2::/64"


class Device:
    """Takes MTUs down; refuses to when told to."""

    name = "fwd0"

    def __init__(self) -> None:
        self.mtus: list[int] = []
        self.refuses = False

    def set_mtu(self, mtu_bytes: int) -> None:
        if self.refuses:
            raise OSError(24, "Too many open files")
        self.mtus.append(mtu_bytes)


def parts_of(remote_ts: str, **changes: Any) -> tuple[PeeringParts, Device]:
    """A peering's parts, as far as its MTU goes."""
    parts, device = object.__new__(PeeringParts), Device()
    parts.peering = Peering.model_validate(
        {
            "name": "far", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2", "payload": "esp", "members": 2,
            "local_ts": ["fd00:1::/64" if ":" in remote_ts else "10.1.0.0/24"], "remote_ts": [remote_ts],
            "keys": LabKeys(source="lab", secret=Path("x")), **changes,
        }
    )  # fmt: skip
    parts.geometry, parts.shared = Geometry(1500, 4), PeeringShared(2)
    parts.inner_mtu = parts._inner_mtu()
    parts._mtu_lines, parts._mtu_changes = Allowance(), Allowance(MTU_EVERY_S)
    parts.queues = cast(Queues, SimpleNamespace(tun=device))
    return parts, device


def follow(parts: PeeringParts, *paths: int, now: float = 0.0) -> int:
    for member, path in zip(parts.shared.members, paths, strict=True):
        member.link[LinkWord.PATH_MTU] = path
    parts.follow_path_mtu(now)
    return parts.inner_mtu


def test_it_goes_down_and_comes_back() -> None:
    parts, device = parts_of(V4)
    whole = parts.inner_mtu
    narrow = follow(parts, 1500, 1400)
    assert narrow == parts.geometry.inner_mtu_for(1400) < whole
    assert follow(parts, 1500, 1400) == narrow
    assert follow(parts, 1500, 1500) == whole
    assert device.mtus == [narrow, whole]


@pytest.mark.parametrize(("remote_ts", "least"), [(V4, 576), (V6, 1280)])
def test_it_is_never_below_what_the_inner_packets_need(remote_ts: str, least: int) -> None:
    parts, _ = parts_of(remote_ts)
    assert follow(parts, 552, 552) >= least
    assert (follow(parts, 1300, 1300) == 1280) == (remote_ts == V6)


def test_what_a_member_says_beyond_the_path_is_not_believed() -> None:
    parts, device = parts_of(V4)
    follow(parts, 2**63, 9000)
    assert device.mtus == []


def test_a_refusal_is_tried_again() -> None:
    parts, device = parts_of(V4)
    device.refuses = True
    with pytest.raises(OSError, match="Too many"):
        follow(parts, 1400, 1400)
    device.refuses = False
    assert follow(parts, 1400, 1400) == device.mtus[-1]


def test_a_member_that_says_ever_another_path_costs_a_change_a_second_and_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each change is news of the kernel, and costs a look at it."""
    caplog.set_level(logging.INFO)
    parts, device = parts_of(V4)
    seconds = 100
    for turn in range(50 * seconds):
        follow(parts, [1400, 1500, 1300][turn % 3], 1500, now=turn / 50)
    assert len(device.mtus) <= TOLD_AT_ONCE + seconds / MTU_EVERY_S
    assert len(caplog.records) <= TOLD_AT_ONCE + seconds / TOLD_EVERY_S
    told = vars(caplog.records[-1])["fields"]["suppressed"]
    assert told > 0


def test_what_a_member_said_last_is_followed_though_it_says_no_more() -> None:
    parts, device = parts_of(V4)
    for turn in range(50):
        follow(parts, [1400, 1500][turn % 2], 1500)
    narrow = parts.geometry.inner_mtu_for(1300)
    assert follow(parts, 1300, 1500) != narrow
    assert parts.mtu_waits
    assert follow(parts, 1300, 1500, now=MTU_EVERY_S) == narrow == device.mtus[-1]
    assert not parts.mtu_waits
