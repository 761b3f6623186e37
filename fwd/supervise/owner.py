"""A number for each fwd of a network namespace, by which its guards and routes are told from another one's.

The number is held by an abstract Unix socket, which goes with the process: its names are those of the network
namespace, as tables and routes are, whatever PID or mount namespace an fwd is in. One configuration gets the same
number again and again, unless another fwd has it: so what a crash has left is found by its successor. There are few
numbers: a mark beside it, of the configuration alone, keeps others from taking one with which dead guards still stand.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from fwd.proto.errors import UserError
from fwd.proto.ike.rate import Rate

# Protocols of routes (/etc/iproute2/rt_protos) that nobody else uses.
NUMBERS: Final = range(194, 254)
ALONE_S: Final = 2.0  # that others are waited for …
_ALONE_AGAIN: Final = 1 / 60  # … and so much more of each second: the supervisor's loop watches everybody
_POLL_S = 0.01
_DEAF_POLLS: Final = 10  # at which nobody listens at a name: who takes it listens at once
_UNKNOWN: Final = -1
_SETTING: Final = "\0fwd/guards"  # held by who looks at guards and sets them
_HALF: Final = 8  # characters of a mark
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Owner:
    """This fwd's number, for as long as it lives. `standing`: numbers and marks of the guards that stand.

    `file`: its configuration. Raises UserError if every number is taken.
    """

    def __init__(self, control: Path, standing: Collection[tuple[int, str]] = (), file: Path | None = None) -> None:
        first = zlib.crc32(str(control).encode())
        self.mark = mark_of(control, file)
        self._waits = Rate(_ALONE_AGAIN, ALONE_S)
        for number in candidates(first, self.mark, standing):
            self.number = number
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                if _take(self._sock, _name(self.number)):
                    return
            except OSError:
                self._sock.close()
                raise
            self._sock.close()
        raise UserError(f"{len(NUMBERS)} fwds run in this network namespace: no more can be told apart")

    def others(self) -> set[int]:
        """Numbers of the other fwds that live."""
        return {number for number in NUMBERS if number != self.number and _lives(number)}

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Look at guards and set some while no other fwd does. One that is frozen amid it is waited for ALONE_S in all.

        A stranger, who may take any abstract name, is not waited for.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            deaf, holder = 0, None
            while not _take(sock, _SETTING):
                holder = _holder(_SETTING) if holder is None else holder  # asking again and again fills its queue
                deaf += holder is None
                is_fwds = holder == os.geteuid() or (holder is None and deaf < _DEAF_POLLS)
                began = time.monotonic()
                if not is_fwds or not self._waits.allows(began, 0.0):
                    break
                time.sleep(_POLL_S)
                self._waits.charge(time.monotonic() - began)
            yield

    def close(self) -> None:
        """Give the number back."""
        self._sock.close()


def living() -> set[int]:
    """Return the numbers of all fwds that live."""
    return {number for number in NUMBERS if _lives(number)}


def mark_of(control: Path, file: Path | None) -> str:
    """Return the mark of a configuration: in containers files of one path may be several, but not their directories."""
    halves = [f"{zlib.crc32(str(control).encode()):08x}"]
    with contextlib.suppress(OSError):
        if file is not None:
            about = file.parent.stat()
            named = f"{about.st_dev} {about.st_ino} {file.name}"
            halves.append(f"{zlib.crc32(named.encode()):08x}")
    return "".join(halves)


def is_ours(mark: str, other: str) -> bool:
    """Whether two marks are of one configuration: of the same control socket, or of the same file."""
    halves = [(mark[at : at + _HALF], other[at : at + _HALF]) for at in (0, _HALF)]
    return any(one and one == another for one, another in halves)


def candidates(first: int, mark: str, standing: Collection[tuple[int, str]]) -> list[int]:
    """Numbers in the order in which they are tried: those of our own guards, those of no guards, and others' last."""
    ours = {number for number, whose in standing if is_ours(mark, whose)}
    others = {number for number, whose in standing if whose} - ours
    order = [NUMBERS[(first + step) % len(NUMBERS)] for step in range(len(NUMBERS))]
    return sorted(order, key=lambda number: (number not in ours, number in others))


def _name(number: int) -> str:
    return f"\0fwd/{number}"


def _lives(number: int) -> bool:
    """Whether a process of this user holds the number; a stranger's name is nobody's."""
    return _holder(_name(number)) in (_UNKNOWN, os.geteuid())


def _take(sock: socket.socket, name: str) -> bool:
    """Hold a name for as long as the socket is open; False: somebody else does."""
    try:
        sock.bind(name)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    sock.listen(socket.SOMAXCONN)  # nobody accepts: that it listens is all
    return True


def _holder(name: str) -> int | None:
    """Return the user who listens at a name; None: nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(name)
        except ConnectionRefusedError:
            return None
        except BlockingIOError:  # asked so often that its queue is full
            return _UNKNOWN
        _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        return int(uid)
