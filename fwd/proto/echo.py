"""The octets of an echo between two members of fwd, and of the answer to one; both name a number of 32 bits.

superpacket   next header 144: sub-type, three zeros, number, zeros up to the size that is tried
esp           next header 59: sub-type, "fwd", number. For anybody else it is a dummy packet (RFC 4303 §2.6), which
              every receiver drops
"""

from __future__ import annotations

from typing import Final

from fwd.proto.aggfrag import FRAMING_BYTES, SUBTYPE_ECHO, SUBTYPE_ECHO_REPLY

ECHO_BYTES: Final = FRAMING_BYTES + 4
CHECK_FIRST: Final = 2**32 - 2**16  # numbers from here on are of checks that a user asks for (check.py)
MOVED: Final = 2**32 - 1  # in place of a number: flows of what was sent before go on with other members; not answered
_MARK: Final = b"fwd"


def in_stream(subtype: int, number: int, octets: int = 0) -> bytes:
    """An echo of payload superpacket, of `octets` if that is more than it needs."""
    return (bytes([subtype, 0, 0, 0]) + number.to_bytes(4, "big")).ljust(octets, b"\0")


def in_dummy(subtype: int, number: int) -> bytes:
    """An echo of payload esp."""
    return bytes([subtype]) + _MARK + number.to_bytes(4, "big")


def read_dummy(payload: memoryview) -> tuple[int, int] | None:
    """Sub-type and number of an echo of payload esp; None: it is an ordinary dummy packet."""
    subtype, mark = (payload[0], bytes(payload[1:4])) if len(payload) == ECHO_BYTES else (0, b"")
    if mark != _MARK or subtype not in (SUBTYPE_ECHO, SUBTYPE_ECHO_REPLY):
        return None
    return subtype, int.from_bytes(payload[4:], "big")
