"""Whom the processes of a gateway run as: three users, so that one that is taken over can signal no other kind.

The data path (demux, members) is one, keyd is one, and the agent and the beacon, which only show, are one. A gateway
with a controller has a fourth, for link. `gateway.user` is a name, NAME, and then they are NAME, NAME-keyd, NAME-agent
and NAME-link; or a number N, and then they are N, N + 1, N + 2 and N + 3, which need no names. Without it they are fwd,
fwd-keyd, fwd-agent and fwd-link, which the package makes; where those do not exist, numbers in a row that nobody has.
Refuses: a user that does not exist, root, and nobody, whom strangers' daemons run as.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Collection, Mapping
from typing import Final

from fwd.proto.errors import UserError

User = tuple[int, int]  # uid and gid
Users = Mapping[str, User]  # by kind of process

PACKAGED: Final = "fwd"
FREE: Final = range(60578, 61184)  # of no distribution, and not of systemd's (its UIDS-GIDS)
_NOBODY = 65534
_SUFFIXES = ("", "-keyd", "-agent", "-link")
_OWNERS: Final = re.compile(rb"^[UG]id:(.*)$", re.MULTILINE)
_WORDS: Final = {3: "three", 4: "four"}


def find_users(wanted: str | int | None, *, joined: bool = False) -> Users:
    """Users for `gateway.user`; `joined`: link's among them. Raises UserError."""
    suffixes = _SUFFIXES if joined else _SUFFIXES[:-1]
    if wanted is None:
        names = [PACKAGED + suffix for suffix in suffixes]
        found = [_named(name) for name in names]
        if None in found:
            numbers = free_numbers(FREE, os.getpid(), _in_use(), len(suffixes))
            return _by_kind([(number, number) for number in numbers])
    elif str(wanted).isdigit():
        names = [str(int(wanted) + i) for i in range(len(suffixes))]
        found = [(int(name), int(name)) for name in names]
    else:
        names = [f"{wanted}{suffix}" for suffix in suffixes]
        found = [_named(name) for name in names]

    # All must be there, fit to be given rights, and be different users.
    users: list[User] = []
    for name, user in zip(names, found, strict=True):
        if user is None:
            who = f"{_WORDS[len(names)]}: {', '.join(names)}"
            raise UserError(f"gateway.user: no such user: {name}; fwd runs as {who}. Make them, or give a number")
        if reason := _refusal(name, user):
            raise UserError(f"gateway.user: {name} {reason}")
        users.append(user)
    if len({uid for uid, _ in users}) < len(users):
        raise UserError(
            f"gateway.user: {', '.join(names)} are not {_WORDS[len(names)]} users: their numbers must differ"
        )
    return _by_kind(users)


def free_numbers(numbers: range, start: int, taken: Collection[int], count: int = 3) -> list[int]:
    """`count` in a row that are not taken; gateways that start at once begin to look in different places."""
    rows = len(numbers) // count
    for i in range(rows):
        at = (start + i) % rows * count
        found = list(numbers[at : at + count])
        if not set(found) & set(taken):
            return found
    where = f"from {numbers[0]} to {numbers[-1]}"
    raise UserError(f"no {_WORDS[count]} free user numbers {where}: give one with gateway.user")


def _by_kind(users: list[User]) -> Users:
    data, keyd, agent, *link = users
    found = {"demux": data, "member": data, "keyd": keyd, "agent": agent, "beacon": agent}
    return {**found, "link": link[0]} if link else found


def _named(name: str) -> User | None:
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(name)
        return entry.pw_uid, entry.pw_gid
    return None


def _refusal(name: str, user: User) -> str:
    """Why nothing may run as this user; empty if it may."""
    uid, gid = user
    nobody = _named("nobody")
    if uid == _NOBODY or (nobody is not None and uid == nobody[0]):
        return "is nobody, and so are strangers' daemons: choose another, or leave gateway.user out"
    if uid == 0 or gid == 0:
        return "is root, or of root's group: choose another, or leave gateway.user out"
    return "" if uid < 2**32 - 1 else "is no number of a user"


def _in_use() -> set[int]:
    """Numbers of users that have a name, or a process."""
    found = {entry.pw_uid for entry in pwd.getpwall()}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/status", "rb") as status:
                found |= {int(word) for line in _OWNERS.findall(status.read()) for word in line.split()}
    return found
