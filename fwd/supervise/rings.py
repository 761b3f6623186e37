"""What a demux is told while it runs: rings of members that come and go (datapath/channel.py).

The process stays the same: it maps a new member's memories, whose descriptors come along, and lets go of those of a
member that has gone. So no record is lost, and none waits for a fork. Each life of it has a channel of its own, and is
forked with all rings that there are then; one that does not do what it is told is ended.
"""

from __future__ import annotations

import signal
import socket
from typing import Final

from fwd.datapath import channel
from fwd.datapath.channel import Notice
from fwd.datapath.shared import MaskWord
from fwd.supervise.children import Child
from fwd.supervise.peering import PeeringParts
from fwd.supervise.sockets import seqpacket_pair

LATE_S: Final = 5.0


class Rings:
    """Tells the demux of one peering."""

    def __init__(self, parts: PeeringParts) -> None:
        self._parts = parts
        self._near: socket.socket | None = None
        self.far: socket.socket | None = None
        self._known: list[object] = []  # whose ring it has: the members' socket pairs, which are no other's
        self._seen = -1  # how often there had been a member more or fewer
        self._sent = self._answered = 0
        self._told_at = 0.0

    def renew(self) -> None:
        """Make the channel of a demux that is about to be forked with all rings."""
        self.close()
        self._near, self.far = seqpacket_pair()
        self._known = list(self._parts.pairs)
        self._sent = self._answered = 0

    def channel(self) -> socket.socket:
        """Return the end that the demux itself has."""
        assert self.far is not None
        return self.far

    def tell(self, child: Child, now: float) -> None:
        """Tell what is new. A demux that answers nonsense, or not at all, is ended: its successor has it all."""
        if self._near is None or child.process is None or self.is_told:
            return
        try:
            self._answered, wrong = channel.answered(self._near, self._answered)
            late = self._answered < self._sent and now - self._told_at > LATE_S
            if wrong or late or self._answered > self._sent:
                raise channel.ChannelError("it does not do what it is told")
            while (notice := self._next()) is not None and self._send(notice, now):
                pass
            if notice is None:
                self._seen = self._parts.resized
        except (channel.ChannelError, OSError):
            child.signal(signal.SIGKILL)

    @property
    def is_told(self) -> bool:
        """Whether the demux knows all rings, and has said so."""
        return self._answered == self._sent and self._seen == self._parts.resized

    def _next(self) -> Notice | None:
        """Return the next notice that it needs: what has gone first, the last member before others."""
        known, there, name = self._known, self._parts.pairs, self._parts.peering.name
        same = next((i for i, (a, b) in enumerate(zip(known, there, strict=False)) if a is not b), len(known))
        if len(known) > min(same, len(there)):
            return Notice("unring", name, {"index": len(known) - 1})
        if len(known) < len(there):
            index = len(known)
            of = self._parts.memory.sizes("demux")
            own = {one: octets for one, octets in of.items() if one.endswith(f"-{index}")}
            return Notice("ring", name, {"index": index}, {"bell": self._parts.bells[index]}, own)
        return None

    def _send(self, notice: Notice, now: float) -> bool:
        assert self._near is not None
        parts = self._parts
        with parts.memory.opened("demux", notice.memory) as shared:
            whole = Notice(notice.act, notice.peering, notice.body, {**notice.fds, **shared}, notice.memory)
            if not channel.send(self._near, whole, self._sent + 1):
                return False
        if self._answered == self._sent:
            self._told_at = now
        self._sent += 1
        if notice.act == "ring":
            self._known.append(parts.pairs[len(self._known)])
        else:
            self._known.pop()
        parts.shared.live[MaskWord.RINGS] += 1
        parts.wake_demux()
        return True

    def close(self) -> None:
        """Close both ends."""
        for sock in (self._near, self.far):
            if sock is not None:
                sock.close()
        self._near = self.far = None
