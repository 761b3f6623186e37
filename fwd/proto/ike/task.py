"""What an IKE SA asks of whoever tells it what to say: tasks that it begins, and answers to requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from fwd.proto.ike.numbers import Exchange, ProtocolError
from fwd.proto.ike.payloads import AnyPayload

if TYPE_CHECKING:
    from fwd.proto.ike.sa import IkeSa


class Task(Protocol):
    """One exchange that this side begins."""

    exchange: Exchange
    about_children: bool  # while it is under way the peer may not replace the IKE SA (RFC 7296 §2.25.2)

    def start(self, sa: IkeSa, now: float) -> list[AnyPayload] | None:
        """The payloads of the request; None: there is nothing to be done any more."""

    def finish(self, sa: IkeSa, reply: list[AnyPayload], now: float) -> None:
        """Take the answer. Raises ProtocolError."""

    def refused(self, sa: IkeSa, error: ProtocolError, now: float) -> None:
        """The answer could not be read, or `finish` has refused it."""


# Answers a request: exchange, payloads, now → payloads. Raises ProtocolError.
Respond = Callable[["IkeSa", int, list[AnyPayload], float], list[AnyPayload]]
