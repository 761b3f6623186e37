"""What the kernel drops at IKE's sockets, so that a flood of it costs keyd nothing: a classic BPF program.

Dropped is what keyd would refuse by its header alone (RFC 7296 §3.1): a datagram that is too short for a header and one
payload, one whose length is not what its header says, and an IKE_SA_INIT request that is longer than any stranger's may
be (proto/ike/limits.py), or begins with payloads that are for later messages. All else, whatever it is, keyd reads for
itself.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from fwd.datapath import udp
from fwd.proto.ike.limits import INIT_BYTES_MAX
from fwd.proto.ike.message import HEADER_BYTES
from fwd.proto.ike.numbers import Exchange, Flag, Payload

SHORTEST_BYTES: Final = HEADER_BYTES + 4  # a payload's own header follows (§3.2)
# What IKE_SA_INIT cannot have (strangers.py refuses it wherever it stands).
LATER: Final = tuple(
    kind
    for kind in Payload
    if kind and kind not in (Payload.SA, Payload.KE, Payload.NONCE, Payload.NOTIFY, Payload.VENDOR)
)
_SO_ATTACH_FILTER: Final = 26
_UDP_BYTES: Final = 8  # the program sees the UDP header, too
_MARKER_BYTES: Final = 4
_FIRST_AT, _EXCHANGE_AT, _FLAGS_AT, _LENGTH_AT = 16, 18, 19, 24
_TAKE, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)


def attach(sock: socket.socket, *, marked: bool) -> None:
    """Let only what may be IKE through to `sock`; `marked`: behind four zeros, where ESP comes, too (RFC 3948 §2.2)."""
    before = _UDP_BYTES + (_MARKER_BYTES if marked else 0)
    steps: list[tuple[int, str, str, int]] = [
        (0x80, "", "", 0),  # A = length
        (0x35, "", "drop", before + SHORTEST_BYTES),  # shorter
        (0x14, "", "", before),  # A = the message's length
        (0x07, "", "", 0),  # X = A
        (0x20, "", "", before + _LENGTH_AT),
        (0x1D, "", "drop", 0),  # not what its header says
        (0x30, "", "", before + _EXCHANGE_AT),
        (0x15, "", "take", Exchange.IKE_SA_INIT),
        (0x30, "", "", before + _FLAGS_AT),
        (0x45, "take", "", Flag.RESPONSE),
        (0x87, "", "", 0),  # A = X
        (0x25, "drop", "", INIT_BYTES_MAX),  # too long for a stranger's request
    ]
    # The first payload's kind, and the second's, which stands in the first: none that is for later messages.
    for at in (_FIRST_AT, HEADER_BYTES):
        steps += [(0x30, "", "", before + at), *((0x15, "drop", "", kind) for kind in LATER)]
    udp.attach(sock, _SO_ATTACH_FILTER, _assembled(steps))


def _assembled(steps: Sequence[tuple[int, str, str, int]]) -> list[tuple[int, int, int, int]]:
    """Put numbers in the place of the two labels, which are the last two steps."""
    places = {"take": len(steps), "drop": len(steps) + 1}

    def skip(label: str, here: int) -> int:
        return places[label] - here - 1 if label else 0

    found = [(code, skip(yes, at), skip(no, at), value) for at, (code, yes, no, value) in enumerate(steps)]
    return [*found, _TAKE, _DROP]
