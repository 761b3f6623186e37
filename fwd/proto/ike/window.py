"""The message ids of one IKE SA, in both directions, with a window of one message (RFC 7296 §2.1 to §2.3).

Of requests one is under way, and its answer has its number. Of the peer's, the next is taken, or the last once more:
its answer is kept, and is sent again as it was. What the messages say is not looked at.
"""

from __future__ import annotations

from typing import Final

from fwd.proto.ike.limits import COPIES_PER_S
from fwd.proto.ike.message import Header
from fwd.proto.ike.rate import Rate
from fwd.proto.ike.request import Request

MESSAGE_ID_MAX: Final = 2**32 - 1


class Window:
    """Which messages are in turn, and what is kept of those before: our request, and our last answer."""

    def __init__(self) -> None:
        self.request: Request | None = None  # under way
        self.next_id = 0  # of our next request, or of the one under way
        self.expected_id = 0  # of the peer's next request
        self.answer: list[bytes] = []  # to its last one
        self._copies = [Rate(COPIES_PER_S, 2 * COPIES_PER_S) for _ in range(2)]  # elsewhere, and where the peer is

    @property
    def is_used_up(self) -> bool:
        """Whether there is no number for a request of ours any more."""
        return self.next_id > MESSAGE_ID_MAX

    def takes(self, header: Header) -> bool:
        """Whether a message is the answer to our request, the peer's next request, or its last one again."""
        if header.is_response:
            return self.request is not None and header.message_id == self.request.message_id
        return header.message_id == self.expected_id or self.is_copy(header)

    def is_copy(self, header: Header) -> bool:
        """Whether a message has the number of the request that was answered last."""
        return not header.is_response and header.message_id == self.expected_id - 1

    def may_answer_again(self, now: float, *, to_the_peer: bool) -> bool:
        """Whether a copy of the last request may be answered: what it costs is limited, and elsewhere apart."""
        return self._copies[to_the_peer].allows(now)

    def take_request(self) -> Request:
        """Return the request under way, whose answer has come: the next one has the next number."""
        assert self.request is not None
        request, self.request = self.request, None
        self.next_id += 1
        return request

    def answered(self, answer: list[bytes]) -> None:
        """Note the answer to the peer's request: its next one has the next number."""
        self.expected_id += 1
        self.answer = answer
