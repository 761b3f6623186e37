"""What the supervisor tells of who shares the flow table, whom a far gateway may change again and again."""

from __future__ import annotations

import logging
from ipaddress import IPv4Address
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fwd.datapath.shared import PeeringShared
from fwd.model.pairing import far_gateways
from fwd.supervise import policy
from fwd.supervise.members import Members, _Peering
from fwd.supervise.patience import TOLD_AT_ONCE, TOLD_EVERY_S


class Parts:
    """Of a peering with two members, as far as masks go."""

    peering = SimpleNamespace(name="p", fars=far_gateways([IPv4Address("192.0.2.2")]))
    count = 2

    def __init__(self) -> None:
        self.shared = PeeringShared(2)
        self.told = 0

    def tell_masks(self, live: int, draining: int, over: int) -> None:
        self.told += 1
        for word, mask in enumerate((live, draining, over)):
            self.shared.live[word] = mask


def test_every_change_is_carried_out_and_the_log_has_ten_and_then_one_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    children: Any = {f"p/member-{index}": SimpleNamespace(life=None) for index in range(2)}
    members = Members(children, lambda ended: None, lambda: None, lambda: True)
    parts = Parts()
    one = _Peering(cast(Any, parts), cast(Any, None))
    for turn in range(200):
        monkeypatch.setattr(policy, "live_mask", lambda *_, mask=1 + 2 * (turn % 2): mask)
        members._publish(one, 0, 0.0, 100.0)
    assert parts.told == 200
    assert len(caplog.records) == TOLD_AT_ONCE
    monkeypatch.setattr(policy, "live_mask", lambda *_: 1)
    members._publish(one, 0, 0.0, 100.0 + TOLD_EVERY_S)
    fields = vars(caplog.records[-1])["fields"]
    assert (fields["members"], fields["suppressed"]) == ([0], 200 - TOLD_AT_ONCE)
