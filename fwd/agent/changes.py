"""What the supervisor tells the agent, or the beacon, while it runs (datapath/channel.py): peerings that come, change
and go.

A peering comes in several notices: itself, then each of its members. It is shown once it is complete.
"""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, replace
from typing import Final

from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath.channel import ChannelError, Notice, hear
from fwd.datapath.ring import RingWords
from fwd.datapath.shared import MemberShared, PeeringShared
from fwd.datapath.tun import Offloads
from fwd.model.config import Peering
from fwd.model.told import told_in
from fwd.proto.logged import event

_NOTICES_MAX: Final = 16  # in a turn
log = logging.getLogger(__name__)


@dataclass
class _Opening:
    """A peering that is not complete yet."""

    notice: Notice
    config: Peering
    maps: dict[str, memoryview]
    count: int  # of its members
    members: int = 0

    def view(self) -> PeeringView:
        shared, body = PeeringShared(self.members, self.maps), self.notice.body
        rings = [RingWords(self.maps[f"demux-{i}"], one.ring) for i, one in enumerate(shared.members)]
        offloads = Offloads(**body["offloads"])
        return PeeringView(self.config, shared, rings, offloads, int(body["inner_mtu"]), list(body["warnings"]))


class Changes:
    """Brings `view` to what has been told. `process`: who is told, "agent" or "beacon"."""

    def __init__(self, channel: socket.socket, view: GatewayView, process: str = "agent") -> None:
        self.channel = channel
        self._view = view
        self._process = process
        self._opening: dict[str, _Opening] = {}

    def hear(self) -> None:
        """Do what has been told. What goes wrong ends that attempt alone."""
        for _ in range(_NOTICES_MAX):
            try:
                if not hear(self.channel, self._do):
                    break
            except Exception as error:
                log.exception("what the supervisor tells: %s", error, extra=event("agent.change_failed"))

    def _do(self, notice: Notice) -> None:
        name = notice.peering

        # What is not complete yet is not shown.
        match notice.act:
            case "open":
                peering = told_in(notice.body)
                count = int(notice.body.get("members", peering.members))  # those that leave are still there
                self._opening[name] = _Opening(notice, peering, dict(notice.map(self._process)), count)
            case "member":
                self._add_member(notice)
            case "leave":
                shown = self._shown(name, int(notice.body["index"]) + 1)
                shown.shared.members.pop()
                shown.rings.pop()
            case "close":
                self._opening.pop(name, None)
                self._view.peerings[:] = [one for one in self._view.peerings if one.config.name != name]
            case "change":
                peering = told_in(notice.body)
                self._view.peerings[:] = [
                    replace(one, config=peering) if one.config.name == name else one for one in self._view.peerings
                ]
            case other:
                raise ChannelError(f"the {self._process} does not know how to {other}")

    def _add_member(self, notice: Notice) -> None:
        name, index = notice.peering, int(notice.body["index"])
        maps, opening = notice.map(self._process), self._opening.get(name)
        if opening is None:
            shown, member = self._shown(name, index), MemberShared(maps, index)
            shown.rings.append(RingWords(maps[f"demux-{index}"], member.ring))
            shown.shared.members.append(member)
            return
        opening.maps |= maps
        opening.members += 1
        if opening.members == opening.count:
            del self._opening[name]
            self._view.peerings.append(opening.view())

    def _shown(self, name: str, members: int) -> PeeringView:
        """Return a peering that is shown with so many members. Raises ChannelError."""
        for one in self._view.peerings:
            if one.config.name == name and len(one.shared.members) == members:
                return one
        raise ChannelError(f"a member of {name} is out of turn")
