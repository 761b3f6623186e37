"""The channel by which the supervisor tells keyd, or the agent, what has changed: one notice a message.

A notice is JSON; descriptors go along with it (SCM_RIGHTS), in the order of their names. Once it has been dealt with,
the process answers with its number, and whether that went well. The supervisor takes nothing else from the channel.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fwd.datapath.memory import Maps, access, map_descriptor

DESCRIPTORS_MAX: Final = 253  # of one message (SCM_MAX_FD)
_NOTICE_BYTES_MAX: Final = 1 << 17
_ANSWER = struct.Struct("=Q?")  # number of the notice; whether it was dealt with as it should be
_ANSWERS_MAX: Final = 256  # that are read at a time
_INT_BYTES: Final = array.array("i").itemsize
_LATER: Final = (errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)  # too many descriptors are on their way


class ChannelError(Exception):
    """What has come is nothing that is said on a channel."""


@dataclass(frozen=True)
class Notice:
    """What has changed. `memory`: those of `fds` that are shared memory, with their octets."""

    act: str
    peering: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    fds: Mapping[str, int] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)
    number: int = 0

    def map(self, process: str) -> Maps:
        """Map the shared memory that came along, as `process` may have it, and close its descriptors."""
        found: dict[str, memoryview] = {}
        for name, octets in self.memory.items():
            how = access(f"{self.peering}/{name}", process)
            assert how is not None
            found[name] = map_descriptor(self.fds[name], octets, how)
            os.close(self.fds[name])
        return found

    def close(self) -> None:
        """Close all that came along."""
        for fd in self.fds.values():
            os.close(fd)

    def kept(self) -> dict[str, int]:
        """Return the descriptors that are no shared memory."""
        return {name: fd for name, fd in self.fds.items() if name not in self.memory}


# -- the supervisor -----------------------------------------------------------------------------------------------


def send(sock: socket.socket, notice: Notice, number: int) -> bool:
    """Send a notice; False: there is no room for it now.

    Raises OSError if nobody is there any more, and ChannelError if it is more than one message takes.
    """
    words = {"number": number, "act": notice.act, "peering": notice.peering, "body": notice.body}
    data = json.dumps({**words, "fds": list(notice.fds), "memory": dict(notice.memory)}).encode()
    if len(data) > _NOTICE_BYTES_MAX or len(notice.fds) > DESCRIPTORS_MAX:
        raise ChannelError(f"{len(data)} octets and {len(notice.fds)} descriptors are more than one notice takes")
    rights = array.array("i", notice.fds.values())
    try:
        sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else [])
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _LATER:
            return False
        raise
    return True


def answered(sock: socket.socket, last: int) -> tuple[int, list[int]]:
    """Return the highest number that was answered, and those that went wrong; `last`: so far. Raises ChannelError."""
    wrong: list[int] = []
    with contextlib.suppress(BlockingIOError, ConnectionError):
        for _ in range(_ANSWERS_MAX):
            data = sock.recv(_ANSWER.size + 1)
            number, well = _ANSWER.unpack(data) if len(data) == _ANSWER.size else (0, False)
            if number != last + 1:
                raise ChannelError("an answer that is none")
            last = number
            wrong += [] if well else [number]
    return last, wrong


# -- who is told --------------------------------------------------------------------------------------------------


def hear(sock: socket.socket, act: Callable[[Notice], object]) -> bool:
    """Deal with the next notice, if there is one, and answer it, whatever comes of that; False: there is none."""
    try:
        data, ancillary, flags, _ = sock.recvmsg(
            _NOTICE_BYTES_MAX, socket.CMSG_SPACE(DESCRIPTORS_MAX * _INT_BYTES), socket.MSG_CMSG_CLOEXEC
        )
    except BlockingIOError:
        return False

    # Descriptors are ours from here on, whatever the words say.
    fds = array.array("i")
    for level, kind, octets in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(octets[: len(octets) - len(octets) % _INT_BYTES])
    if not data:
        return False

    # Answered in any case: the supervisor tells again what was not done.
    number, well = 0, False
    try:
        words = json.loads(data)
        number = words["number"]
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(words["fds"]) != len(fds):
            raise ChannelError(f"{words['act']} {words['peering']}: descriptors are missing: the limit is too low")
        given = dict(zip(words["fds"], fds, strict=True))
        notice = Notice(words["act"], words["peering"], words["body"], given, words["memory"], number)
        fds = array.array("i")  # they are the notice's
        act(notice)
        well = True
    finally:
        for fd in fds:
            os.close(fd)
        with contextlib.suppress(OSError):  # the supervisor is gone, or has it all told anew
            sock.send(_ANSWER.pack(number, well))
    return True
