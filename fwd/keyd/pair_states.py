"""The states of a pair of SAs (pairs.py), and every move between them.

A table: what happens to a pair, and what it is then. All changes go through one method (Pair.note), which asks the
table. What is not in it is a fault of fwd's: IllegalMoveError, before anything has changed. docs/ike.md shows the table
as docs/states.py reads it here. When what happens is decided in pairs.py; who deletes a pair, by its state:

    LEFT        we do, a while after the member has left it
    REPLACED    whoever made its successor, as a Child SA that is rekeyed (RFC 7296 §2.8)
    GONE        the peer has; only our inbound half stays for a while, for what is under way
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from fwd.proto.ike.states import IllegalMoveError


class Life(Enum):
    """Of a pair. It begins as SPARE if we asked for it, else as WAITING."""

    WAITING = "the peer may not have its half yet"
    SPARE = "nobody sends on it; the member may"
    USED = "its outbound SA was handed out: the member sends on it, is about to, or has died with it"
    LEFT = "the member sends on another one"
    REPLACED = "it has a successor; the member sends on it, if it did, until that takes over"
    GONE = "the peer neither sends nor accepts on it"
    OVER = "forgotten: neither side has it"


class Happening(Enum):
    """What may happen to a pair."""

    CONFIRMED = "the peer has shown that it has its half, or has had time enough"
    HANDED_OUT = "a boot record with it was taken, or the member was told to send on it"
    NOT_HANDED_OUT = "the member has no room to be told"
    SENT_ON = "the member sends on it"
    ABANDONED = "the member sends on another one"
    REPLACED = "there is a successor"
    DELETED = "the peer has deleted it"
    ENDED = "its life is over; or the peer has deleted it a while ago; or a user ends all"


L, H = Life, Happening
FOLLOWS: Final[dict[Life, dict[Happening, Life]]] = {
    L.WAITING: {
        H.CONFIRMED: L.SPARE,
        H.SENT_ON: L.USED,  # the peer has chosen an SPI once more, and the member sends on the other one
        H.REPLACED: L.REPLACED,
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.SPARE: {
        H.HANDED_OUT: L.USED,
        H.SENT_ON: L.USED,
        H.REPLACED: L.REPLACED,
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.USED: {
        H.HANDED_OUT: L.USED,  # as the member has shown before its record was missed
        H.NOT_HANDED_OUT: L.SPARE,
        H.SENT_ON: L.USED,
        H.ABANDONED: L.LEFT,
        H.REPLACED: L.REPLACED,
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.LEFT: {
        H.HANDED_OUT: L.LEFT,
        H.SENT_ON: L.USED,  # it was told to, and does so later than it was thought to
        H.REPLACED: L.REPLACED,
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.REPLACED: {
        H.HANDED_OUT: L.REPLACED,  # its boot record was taken before that could be taken back
        H.SENT_ON: L.REPLACED,
        H.REPLACED: L.REPLACED,  # both sides have rekeyed it: the younger successor counts
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.GONE: {
        H.HANDED_OUT: L.GONE,
        H.SENT_ON: L.GONE,  # as REPLACED: it is moved to another at once
        H.REPLACED: L.GONE,
        H.DELETED: L.GONE,
        H.ENDED: L.OVER,
    },
    L.OVER: {},
}


def after(life: Life, happening: Happening) -> Life:
    """Return what a pair is after something has happened to it. Raises IllegalMoveError if that cannot be."""
    following = FOLLOWS[life].get(happening)
    if following is None:
        raise IllegalMoveError(f"{happening.name} while {life.name}")
    return following
