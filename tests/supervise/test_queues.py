"""A TUN device with a queue for each member: all of them are there, or none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from fwd.datapath.tun import Offloads, TunError
from fwd.model.config import Peering
from fwd.supervise import queues
from fwd.supervise.queues import Queues


class Device:
    """A TUN device's queue that there is not."""

    opened: list[Device] = []  # noqa: RUF012
    room = 10

    def __init__(self, name: str, **of: bool) -> None:
        if len(self.opened) >= self.room:
            raise TunError(f"{name}: no descriptor left")
        self.fd = len(self.opened)
        self.opened.append(self)

    def close(self) -> None:
        self.opened.remove(self)


class Loaded:
    """A program that the kernel has taken."""

    def put_on(self, fd: int) -> None:
        """Steer by it."""


def test_a_device_that_cannot_be_made_anew_with_all_its_queues_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks after it would find it there, and members would read the old one for ever."""
    monkeypatch.setattr(queues, "Tun", Device)
    monkeypatch.setattr(Queues, "_load", lambda self: Loaded())
    monkeypatch.setattr(Device, "opened", [])
    found = Queues(cast(Peering, SimpleNamespace(tun="fwd0", steering="kernel")), Offloads())
    found.add()
    found.add()
    old = [found.tun, *found._more]

    monkeypatch.setattr(Device, "room", 5)
    with pytest.raises(TunError):
        found.renew()
    assert [found.tun, *found._more] == old == Device.opened

    monkeypatch.setattr(Device, "room", 6)
    found.renew()
    assert [found.tun, *found._more] == Device.opened
    assert not set(Device.opened) & set(old)
