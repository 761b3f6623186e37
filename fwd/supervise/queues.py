"""A peering's TUN device: one queue, which the demux reads; or, where the kernel steers, one more for each member.

A queue's number is its place among those that are open: the demux's is the first, and only the last member's may be
closed. What cannot be had is no trouble: the demux steers then, and the offloads say why.
"""

from __future__ import annotations

import contextlib

from fwd.datapath.gates import Table
from fwd.datapath.memory import map_descriptor
from fwd.datapath.tun import STEERING, Offloads, Tun
from fwd.model.config import Peering
from fwd.proto.flow import NOBODY
from fwd.proto.steering import TABLE_BYTES
from fwd.supervise.steering import Steering, SteeringError


class Queues:
    """The device, as `tun`, and the members' queues."""

    def __init__(self, peering: Peering, offloads: Offloads) -> None:
        """Open the device; raises TunError."""
        self._name, self._offloads = peering.tun, offloads
        self._steering = self._load() if peering.steering == "kernel" else None
        self._more: list[Tun] = []
        try:
            self.tun = self._open()
        except BaseException:
            self._forget_steering()
            raise

    @property
    def steered(self) -> bool:
        """Whether the kernel steers."""
        return self._steering is not None

    def table(self) -> Table | None:
        """Map what the kernel steers by, for the demux; None: it steers itself."""
        if self._steering is None:
            return None
        return Table(map_descriptor(self._steering.table_fd, TABLE_BYTES, "write"))

    def fd(self, member: int) -> int:
        """Return the descriptor of the device that a member has: its own queue, if it has one."""
        return self._more[member].fd if self.steered else self.tun.fd

    def add(self) -> None:
        """Open the next member's queue, if members have any."""
        if self.steered:
            self._more.append(Tun(self._name, more=True))

    def drop_from(self, member: int) -> None:
        """Close the queues of a member, the last one, and of whoever was to come behind it."""
        while len(self._more) > member:
            self._more.pop().close()

    def renew(self) -> None:
        """Make the device anew, with all its queues or not at all, when somebody has deleted it. Raises TunError."""
        old, more = [self.tun, *self._more], list[Tun]()
        with contextlib.ExitStack() as undo:
            tun = self._open()
            undo.callback(tun.close)
            for _ in self._more if self.steered else ():
                more.append(Tun(self._name, more=True))
                undo.callback(more[-1].close)
            undo.pop_all()
        self.tun, self._more = tun, more
        for one in old:
            one.close()

    def close(self) -> None:
        """Give the device back."""
        self.drop_from(0)
        self.tun.close()
        self._forget_steering()

    def _load(self) -> Steering | None:
        """Load what the kernel steers by, with nobody in its table."""
        try:
            found = Steering()
        except SteeringError as error:
            self._offloads.refused[STEERING] = str(error)
            return None
        Table(map_descriptor(found.table_fd, TABLE_BYTES, "write")).owners[:] = NOBODY
        return found

    def _open(self) -> Tun:
        """Open the first queue, which steers by the program then; or the device as it is without."""
        if self._steering is None:
            return Tun(self._name)
        tun = Tun(self._name, queues=True)
        try:
            self._steering.put_on(tun.fd)
        except SteeringError as error:
            tun.close()
            self._forget_steering()
            self._offloads.refused[STEERING] = str(error)
            return Tun(self._name)
        self._offloads.steered = True
        return tun

    def _forget_steering(self) -> None:
        if self._steering is not None:
            self._steering.close()
        self._steering, self._offloads.steered = None, False
