"""What a child gives up before its first act: terminal, descriptors, root, capabilities, core dumps, further processes.

Refuses to go on, as OSError, if the kernel says of the process anything but what was wanted (`faults`); `rehearse`
finds that out once, at the start. Order matters: PR_SET_PDEATHSIG is cleared by setresuid, so it comes after, and the
parent may have died in between, so that is checked last.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeVar

from fwd.proto.errors import UserError

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 15, 24, 38
_CAPABILITIES = 64
_CAP_SETPCAP = 8
_CAPABILITY_VERSION_3 = 0x20080522
_SETS: Final = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_SHORT_OCTETS: Final = 512 << 20  # of a process that lives for a moment, beyond what it inherits
_SHORT_DESCRIPTORS: Final = 16
_TOLD_BYTES_MAX: Final = 1024
_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


def set_title(name: str) -> None:
    """What `top` and `ps -o comm` show: 15 bytes of a process's name, the end being what tells it from others."""
    _libc.prctl(_PR_SET_NAME, name.encode()[-15:], 0, 0, 0)


def shed(
    title: str,
    keep: Callable[[], Iterable[int]],
    prepare: Callable[[], _T],
    stderr: int | None = None,
) -> _T:
    """Part with all of the supervisor's that a fork has, whichever it is: signals, session, terminal, descriptors.

    `stderr`: what its own words go to; None: nowhere. `prepare` is done while descriptors are still there, and what it
    returns is returned.
    """
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    set_title(title)
    result = prepare()
    _own_session(stderr)
    _close_others(keep())
    return result


def _own_session(stderr: int | None) -> None:
    """Leave the terminal of whoever started fwd: read nothing, and write to `stderr` alone."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    said = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if stderr is None else stderr
    for fd, standard in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(fd, standard)


def _close_others(keep: Iterable[int]) -> None:
    """Close every descriptor but standard ones and those to keep. The objects that had them must not be used."""
    # By what lies between those to keep: a gateway of many peerings has thousands of others.
    kept = sorted({0, 1, 2, *keep})
    for before, after in pairwise(kept):
        os.closerange(before + 1, after)
    os.closerange(kept[-1] + 1, max(kept[-1] + 1, int(_status()["FDSize"])))


def capabilities() -> int:
    """Return the mask of the capabilities that this process has in effect."""
    return int(_status()["CapEff"], 16)


def can_shrink_bounding_set() -> bool:
    """Whether CAP_SETPCAP is here; without it the bounding set stays, which no_new_privs makes harmless."""
    return bool(capabilities() >> _CAP_SETPCAP & 1)


def drop(uid: int, gid: int, parent_pid: int) -> None:
    """Become `uid` for good: no capability can come back, and the child dies with its parent. Raises OSError."""
    bounded = can_shrink_bounding_set()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if bounded:
        for capability in range(_CAPABILITIES):
            _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))

    # What root had as inheritable, setresuid leaves. The ambient set follows it.
    _libc.capset(struct.pack("=II", _CAPABILITY_VERSION_3, 0), bytes(24))
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if wrong := faults(_status(), uid, gid, bounded=bounded):
        raise PermissionError(f"privileges are not given up: {', '.join(wrong)}")
    if os.getppid() != parent_pid:
        os._exit(1)


def faults(status: dict[str, str], uid: int, gid: int, *, bounded: bool) -> list[str]:
    """Return what /proc/self/status says that is not as it must be once `drop` is done."""
    wanted = {"Uid": [str(uid)] * 4, "Gid": [str(gid)] * 4, "Groups": [], "NoNewPrivs": ["1"]}
    found = [key for key, words in wanted.items() if status.get(key, "missing").split() != words]
    sets = [key for key in _SETS if bounded or key != "CapBnd"]
    found += [key for key in sets if int(status.get(key, "f"), 16) != 0]
    return [f"{key} is {status.get(key, 'not told')}" for key in found]


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def limit(octets: int, descriptors: int | None) -> None:
    """Bound what a process may have beside what it has by now: memory of whatever kind, and descriptors if not None."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    bounds = {resource.RLIMIT_AS: pages * resource.getpagesize() + octets}
    if descriptors is not None:
        bounds[resource.RLIMIT_NOFILE] = highest + descriptors
    for kind, most in bounds.items():
        _, hard = resource.getrlimit(kind)
        least = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (least, least))


def limit_short(octets: int = _SHORT_OCTETS) -> None:
    """Bound what a process may have that answers one question: no file grows by it, either."""
    limit(octets, _SHORT_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def rehearse(uid: int, gid: int, give_up: Callable[[], None]) -> None:
    """Let one process do `give_up`, as every child of that user will. Raises UserError if it cannot.

    Found out here it is one line at the start, and not one for each attempt of each child.
    """
    near, far = os.pipe()
    with os.fdopen(near, "rb") as answer, os.fdopen(far, "wb", buffering=0) as said:
        pid = os.fork()
        if pid == 0:
            try:
                shed("rehearsal", lambda: {far}, lambda: None)
                give_up()
                said.write(b".")
            except BaseException as error:  # noqa: BLE001
                said.write((getattr(error, "strerror", None) or str(error)).encode())
            finally:
                os._exit(0)
        said.close()
        told = answer.read(_TOLD_BYTES_MAX).decode(errors="replace")
    _, ending = os.waitpid(pid, 0)
    if told != ".":
        raise UserError(
            f"children cannot become user {uid}, group {gid}: {told or f'ended with status {ending}'}; give fwd "
            "CAP_SETUID and CAP_SETGID, and in a user namespace a gateway.user that is mapped there"
        )
