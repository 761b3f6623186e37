"""What keeps a peering from being set up: what may come by itself, and what is for the user to mend."""

from __future__ import annotations

import errno

from fwd.proto.errors import UserError


class NotYetError(UserError):
    """What is missing may come by itself: an address."""


class NamelessError(NotYetError):
    """The far gateway's name has no address yet."""


def is_short_of_descriptors(error: Exception) -> bool:
    """Whether the limit on file descriptors is too low for what the configuration asks for.

    What a user is told of a file may come of nothing else.
    """
    if isinstance(error, UserError) and isinstance(error.__context__, Exception):
        return is_short_of_descriptors(error.__context__)
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def is_final(error: Exception) -> bool:
    """Whether it is for the user to mend, and not for time."""
    return (isinstance(error, UserError) and not isinstance(error, NotYetError)) or is_short_of_descriptors(error)
