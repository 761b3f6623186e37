"""What the kernel drops at IKE's sockets, so that a flood of it costs keyd nothing: a classic BPF program.

Dropped is what keyd would refuse by its header alone (RFC 7296 §3.1): a datagram that is too short for a header and one
payload, one whose length is not what its header says, and an IKE_SA_INIT request that is longer than any stranger's may
be (proto/ike/limits.py). All else, whatever it is, keyd reads for itself.
"""

from __future__ import annotations

import socket
from typing import Final

from fwd.datapath import udp
from fwd.proto.ike.limits import INIT_BYTES_MAX
from fwd.proto.ike.message import HEADER_BYTES
from fwd.proto.ike.numbers import Exchange, Flag

SHORTEST_BYTES: Final = HEADER_BYTES + 4  # a payload's own header follows (§3.2)
_SO_ATTACH_FILTER: Final = 26
_UDP_BYTES: Final = 8  # the program sees the UDP header, too
_MARKER_BYTES: Final = 4
_EXCHANGE_AT, _FLAGS_AT, _LENGTH_AT = 18, 19, 24
_TAKE, _DROP = (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)


def attach(sock: socket.socket, *, marked: bool) -> None:
    """Let only what may be IKE through to `sock`; `marked`: behind four zeros, where ESP comes, too (RFC 3948 §2.2)."""
    before = _UDP_BYTES + (_MARKER_BYTES if marked else 0)
    program = [
        (0x80, 0, 0, 0),  # 0: A = length
        (0x35, 0, 11, before + SHORTEST_BYTES),  # 1: shorter: drop
        (0x14, 0, 0, before),  # 2: A = the message's length
        (0x07, 0, 0, 0),  # 3: X = A
        (0x20, 0, 0, before + _LENGTH_AT),  # 4
        (0x1D, 0, 7, 0),  # 5: not what its header says: drop
        (0x30, 0, 0, before + _EXCHANGE_AT),  # 6
        (0x15, 0, 4, Exchange.IKE_SA_INIT),  # 7: another exchange: take
        (0x30, 0, 0, before + _FLAGS_AT),  # 8
        (0x45, 2, 0, Flag.RESPONSE),  # 9: a response: take
        (0x87, 0, 0, 0),  # 10: A = X
        (0x25, 1, 0, INIT_BYTES_MAX),  # 11: too long for a stranger's request: drop
        _TAKE,  # 12
        _DROP,  # 13
    ]
    udp.attach(sock, _SO_ATTACH_FILTER, program)
