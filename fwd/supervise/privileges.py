"""What a child gives up before its first act: descriptors, root, capabilities, core dumps.

Refuses: a user that does not exist (`UserError`). Order matters: PR_SET_PDEATHSIG is cleared by setresuid, so it comes
after, and the parent may have died in between, so that is checked last.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import resource
import signal
from collections.abc import Iterable
from typing import Final

from fwd.proto.errors import UserError

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 15, 24, 38
_CAPABILITIES = 64
USERS: Final = ("fwd", "nobody")  # whom children run as, unless the configuration says: packages make the first
_libc = ctypes.CDLL(None, use_errno=True)


def find_user(name: str | None) -> tuple[int, int]:
    """uid and gid of `name`, or of the first of USERS that there is. Raises UserError."""
    for candidate in [name] if name else USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(candidate)
            return entry.pw_uid, entry.pw_gid
    raise UserError(f"gateway.user: no such user: {name or ' or '.join(USERS)}")


def set_title(name: str) -> None:
    """What `top` and `ps -o comm` show: 15 bytes of a process's name, the end being what tells it from others."""
    _libc.prctl(_PR_SET_NAME, name.encode()[-15:], 0, 0, 0)


def own_session(stderr: int) -> None:
    """Leave the terminal of whoever started fwd: read nothing, and write to `stderr` alone."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd, standard in ((nothing, 0), (stderr, 1), (stderr, 2)):
        os.dup2(fd, standard)


def close_others(keep: Iterable[int]) -> None:
    """Close every descriptor but standard ones and those to keep. The objects that had them must not be used."""
    kept = {0, 1, 2, *keep}
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:
                continue  # the listing's own


def drop(uid: int, gid: int, parent_pid: int) -> None:
    """Become `uid` for good: no capability can come back, and the child dies with its parent."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(1)
