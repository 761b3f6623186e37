"""fwd with processes that are taken over: `taken_over.py demux …` is `fwd demux …`, but for what later lives do.

The first life of each process is its own. When it is killed, those that follow are forked as always, and then run an
attack in the loop's place, one a life, until all have been tried; the next one is its own again.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import pickle
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fwd import cli
from fwd.supervise.children import Child

_libc = ctypes.CDLL(None, use_errno=True)
FLOOD = 3000
FORGED = "forged by a process that was taken over"
_LASTS_S = 0.6  # longer than a short life, so that the next attack comes at once
log = logging.getLogger(__name__)


class Pickled:
    """What would make the supervisor log, if it unpickled anything."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.write, (2, f"{FORGED}: unpickled\n".encode())


def supervisor() -> int:
    return os.getppid()


def sibling(child: Child) -> int:
    """A process that was forked just before this one, or just after: of the same user or of another."""
    return os.getpid() - 1


def read_memory(pid: int) -> None:
    here = ctypes.create_string_buffer(8)
    iovec = (ctypes.c_size_t * 2)(ctypes.addressof(here), 8)
    _libc.process_vm_readv(pid, iovec, 1, iovec, 1, 0)


def forge(child: Child) -> None:
    """Be somebody else in the log, by record and by line."""
    record = log.makeRecord("fwd", logging.ERROR, "f", 1, f"{FORGED}\nERROR supervisor: {FORGED}", (), None)
    record.processName, record.process = "supervisor", supervisor()
    logging.getLogger().handle(record)
    texts = f"supervisor\0process.ended\0{{}}\0\n2026-01-01 00:00:00,000 ERROR supervisor: {FORGED}"
    child.log.far.send(struct.pack("=BdI", 40, time.time(), 0) + texts.encode())
    os.write(2, f"2026-01-01 00:00:00,000 ERROR supervisor: {FORGED}\n".encode())


def flood(child: Child) -> None:
    """Fill the log."""
    for number in range(FLOOD):
        log.warning("flood %d %s", number, "x" * 500)
    time.sleep(_LASTS_S)  # the next record says how many there was no room for


def unpickle(child: Child) -> None:
    """Write a pickle, and one as multiprocessing frames it, wherever one can write."""
    octets = pickle.dumps(Pickled())
    for fd in range(3, 200):
        for data in (octets, struct.pack("!i", len(octets)) + octets):
            if _libc.send(fd, data, len(data), socket.MSG_DONTWAIT) < 0:
                _libc.write(fd, data, len(data)) if fd == child.log.stderr else None


BOUNDED: dict[str, Callable[[Child], object]] = {"forge": forge, "flood": flood, "unpickle": unpickle}
ENDED: dict[str, Callable[[Child], object]] = {
    "execve": lambda _: os.execv("/bin/sh", ["sh", "-c", f"echo {FORGED}"]),
    "open": lambda _: os.open("/etc/fwd/fwd.toml", os.O_RDONLY),
    "open /proc": lambda _: os.open(f"/proc/{supervisor()}/mem", os.O_RDONLY),
    "read the supervisor's memory": lambda _: read_memory(supervisor()),
    "read another's memory": lambda child: read_memory(sibling(child)),
    "ptrace": lambda child: _libc.ptrace(16, sibling(child), None, None),
    "kill the supervisor": lambda _: os.kill(supervisor(), signal.SIGKILL),
    "kill another": lambda child: os.kill(sibling(child), signal.SIGKILL),
    "kill all": lambda _: os.kill(-1, signal.SIGKILL),
    "setuid": lambda _: os.setresuid(0, 0, 0),
    "unshare": lambda _: _libc.unshare(0x10000000),
    "netlink": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "connect out": lambda _: socket.create_connection(("127.0.0.1", 22), 1),
    "run code": lambda _: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "fork": lambda _: os.fork(),
}
ATTACKS = {**BOUNDED, **ENDED}


def attack(child: Child) -> int:
    """The one of this life."""
    name = list(ATTACKS)[child.life.incarnation - 2]
    log.warning("tries: %s", name)
    time.sleep(_LASTS_S)
    ATTACKS[name](child)
    log.warning("survived: %s", name)
    return 0


def main() -> None:
    """Be fwd."""
    plain = Child.__post_init__

    def with_attacks(self: Child) -> None:
        plain(self)
        own = self.prepare
        attacks = range(2, 2 + len(ATTACKS))
        self.prepare = lambda child: partial(attack, child) if child.life.incarnation in attacks else own(child)

    Child.__post_init__ = with_attacks  # type: ignore[method-assign]
    cli.main()


if __name__ == "__main__":
    main()
