"""IKE SAs whose connection is no more: their Delete is sent again until the peer has answered it, for LEAVES_S at most.

Nobody can begin anything here, and nothing is told of what becomes of them.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.ike.causes import By
from fwd.proto.ike.crypto import Random
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.events import Address
from fwd.proto.ike.exchanges import DeleteIke
from fwd.proto.ike.message import Header
from fwd.proto.ike.states import State
from fwd.proto.ike.table import Commons

LEAVES_S: Final = 6.0  # after the last one has come: the request, and four retransmissions (request.py)


class Leaving(Endpoint):
    """An endpoint without connections, for what others leave behind."""

    def __init__(self, random: Random, commons: Commons) -> None:
        super().__init__([], random, lambda: 0.0, commons=commons)
        self._until: float | None = None

    def take(self, home: Endpoint, now: float) -> None:
        """Take all IKE SAs of an endpoint that is about to be closed, and begin to delete them."""
        for sa in home._sas:
            home._forget(sa)
            if sa.state is State.CONNECTING:
                continue  # there is nothing yet that the peer could be told to delete
            sa.take_queue()
            sa.world, sa.respond = self._world, self._respond
            self._sas.adopt(sa)
            with self._barrier(sa):
                if sa.busy:
                    sa.say_farewell()  # its turn comes when that is answered, if it ever is
                sa.submit_first(DeleteIke(by=By.USER), now)
        self._until = now + LEAVES_S
        self._sweep(now)
        self._events.clear()

    def receive(self, data: bytes, local: Address, remote: Address, now: float, header: Header | None = None) -> None:
        """Take a message for one of them."""
        super().receive(data, local, remote, now, header)
        self._events.clear()

    def next_timeout(self) -> float | None:
        """When handle_timeout is due; None: nothing is left."""
        times = [at for at in (super().next_timeout(), self._until) if at is not None]
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """Send again what is due, or give up what has had no answer in time."""
        super().handle_timeout(now)
        if self._until is not None and now >= self._until:
            self._until = None
            self.close()
        self._events.clear()
