"""The states of IKE SAs and Child SAs, and every move between them (RFC 7296 §1.4.1, §2.8, §2.21, §2.25).

Two machines, each a table: from a state, to which others, and what makes it so. All of a machine's changes go through
one method (IkeSa.move, Child.move), which asks the table. A move that is not in it is a fault of fwd's, whatever a peer
has sent: IllegalMoveError, before anything has changed. docs/ike.md shows the tables as docs/states.py reads them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar


class State(Enum):
    """Of an IKE SA. It begins as CONNECTING."""

    CONNECTING = "IKE_SA_INIT and IKE_AUTH are under way"
    ESTABLISHED = "in use"
    REKEYING = "in use; our request for its successor is under way"
    REKEYED = "its successor has taken over; it waits for its Delete"
    DELETING = "our Delete is under way"
    DEAD = "forgotten, with all its Child SAs"


class Use(Enum):
    """Of a Child SA. It begins as INSTALLED."""

    INSTALLED = "in use, or a spare"
    REKEYING = "in use; our request for its successor is under way"
    REKEYED = "it has a successor; whoever made that deletes this one"
    DELETING = "our Delete is under way"
    GONE = "neither side sends or accepts on it"


IKE_MOVES: Final[dict[State, dict[State, str]]] = {
    State.CONNECTING: {
        State.ESTABLISHED: "the peer has proved who it is, or this SA replaces one on which it had",
        State.DEAD: "refused by either side; no answer; half open for too long",
    },
    State.ESTABLISHED: {
        State.REKEYING: "our request for a successor goes out",
        State.REKEYED: "we answered the peer's rekey request; or this is the peer's rival successor and lost to ours",
        State.DELETING: "our Delete goes out",
        State.DEAD: "the peer's Delete; silence; a message that breaks the format",
    },
    State.REKEYING: {
        State.ESTABLISHED: "the peer wants another group, or refuses: again later",
        State.REKEYED: "the successor is there: ours, or the peer's that has won",
        State.DELETING: "the peer's answer cannot be used",
        State.DEAD: "the peer's Delete; silence; a message that breaks the format",
    },
    State.REKEYED: {
        State.DELETING: "our Delete goes out, if the successor is ours",
        State.DEAD: "the peer's Delete, or none in time",
    },
    State.DELETING: {
        State.DEAD: "our Delete is answered, or never will be; the peer's own Delete",
    },
    State.DEAD: {},
}

CHILD_MOVES: Final[dict[Use, dict[Use, str]]] = {
    Use.INSTALLED: {
        Use.REKEYING: "our request for a successor goes out",
        Use.REKEYED: "the peer's request for a successor is answered",
        Use.DELETING: "our Delete goes out",
        Use.GONE: "the peer's Delete; the end of the IKE SA",
    },
    Use.REKEYING: {
        Use.INSTALLED: "the peer wants another group, or refuses: again later",
        Use.REKEYED: "the successor is there; or the peer refuses, having made one itself",
        Use.GONE: "the peer's Delete; the end of the IKE SA",
    },
    Use.REKEYED: {
        Use.DELETING: "our Delete goes out, if the successor is ours",
        Use.GONE: "the peer's Delete; the end of the IKE SA",
    },
    Use.DELETING: {
        Use.GONE: "our Delete is answered; the peer's own Delete; the end of the IKE SA",
    },
    Use.GONE: {},
}


class IllegalMoveError(AssertionError):
    """A state would follow that cannot."""


_S = TypeVar("_S", State, Use)


def check_move(moves: Mapping[_S, Mapping[_S, str]], old: _S, new: _S) -> None:
    """Raises IllegalMoveError unless `new` may follow `old`."""
    if new not in moves[old]:
        raise IllegalMoveError(f"{new.name} after {old.name}")
