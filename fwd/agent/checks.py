"""What came of the checks of members' paths that a user has asked for, as the members tell it. For `fwd verify`."""

from __future__ import annotations

from typing import Any, Final

from fwd.agent.view import GatewayView
from fwd.datapath.counters import CheckWord
from fwd.datapath.shared import MemberShared
from fwd.proto.check import ECHOES

_RTT_US_MAX: Final = 10**9


def answer(view: GatewayView) -> dict[str, Any]:
    """Return all members' by peering. `asked`: how many checks were; `run`: which of them the rest is of."""
    return {
        "peerings": [
            {"name": one.config.name, "members": [_member(i, member) for i, member in enumerate(one.shared.members)]}
            for one in view.peerings
        ]
    }


def _member(index: int, member: MemberShared) -> dict[str, Any]:
    """One member's; it is a stranger's word, and no more comes back than was sent."""
    told = member.check.read()
    sent = min(told[CheckWord.SENT], ECHOES)
    return {
        "index": index,
        "asked": member.checks[0],
        "run": told[CheckWord.RUN],
        "spi": f"{told[CheckWord.SPI] & 0xFFFFFFFF:#010x}",
        "wanted": ECHOES,
        "sent": sent,
        "back": min(told[CheckWord.BACK], sent),
        "rtt_ms": min(told[CheckWord.RTT_US], _RTT_US_MAX) / 1000 if told[CheckWord.BACK] else None,
    }
