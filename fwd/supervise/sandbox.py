"""What system calls a child may make once it has given up root: a seccomp filter for each kind, and Landlock.

The filter is classic BPF, made for this machine's numbers: what its kind needs is allowed, some of it with certain
arguments only; anything else ends the process at once (SIGSYS), and the supervisor says so. No kind may open a file,
run a program, make a process or thread, map code, signal or look into another process. Who asks the host for names,
with the host's own modules, may read files and map code: what else those try is refused, and does not end it. Landlock,
where the kernel has it, takes away the file system and TCP a second time. Refuses, as OSError: a kernel that has
filters and not this one.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import importlib
import os
import platform
import struct
import sys
from collections.abc import Collection, Mapping
from importlib.machinery import BuiltinImporter, FrozenImporter
from typing import Final

Check = tuple[int, int, tuple[int, ...]]  # argument, mask, and what may be left of it
Step = tuple[int, int, int, int]  # of BPF: code, jump if true, jump if false, operand

_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH, column of _NUMBERS
_NUMBERS: Final = {
    "accept4": (288, 242), "bind": (49, 200), "brk": (12, 214), "clock_getres": (229, 114), "clock_gettime": (228, 113),
    "clock_nanosleep": (230, 115), "close": (3, 57), "connect": (42, 203), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "epoll_wait": (232, None), "exit": (60, 93),
    "exit_group": (231, 94), "futex": (202, 98), "getegid": (108, 177), "geteuid": (107, 175), "getgid": (104, 176),
    "getpid": (39, 172), "getppid": (110, 173), "getpeername": (52, 205), "getrandom": (318, 278),
    "getsockname": (51, 204),
    "getsockopt": (55, 209), "gettid": (186, 178), "gettimeofday": (96, 169), "getuid": (102, 174), "ioctl": (16, 29),
    "lseek": (8, 62), "madvise": (28, 233), "mmap": (9, 222), "mprotect": (10, 226), "mremap": (25, 216),
    "munmap": (11, 215), "nanosleep": (35, 101), "pause": (34, None), "poll": (7, None), "ppoll": (271, 73),
    "pread64": (17, 67), "pselect6": (270, 72),
    "read": (0, 63), "readv": (19, 65), "recvfrom": (45, 207), "recvmsg": (47, 212), "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sched_yield": (24, 124),
    "select": (23, None),
    "sendmsg": (46, 211), "sendto": (44, 206), "setsockopt": (54, 208),
    "sigaltstack": (131, 132), "socket": (41, 198), "sysinfo": (99, 179), "tgkill": (234, 131), "time": (201, None),
    "write": (1, 64), "writev": (20, 66),
    "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439), "fadvise64": (221, 223), "fcntl": (72, 25),
    "fstat": (5, 80), "getcwd": (79, 17), "getdents64": (217, 61), "lstat": (6, None), "newfstatat": (262, 79),
    "open": (2, None), "openat": (257, 56), "prlimit64": (302, 261), "readlink": (89, None), "readlinkat": (267, 78),
    "recvmmsg": (299, 243), "rseq": (334, 293), "sched_getaffinity": (204, 123), "sendmmsg": (307, 269),
    "set_robust_list": (273, 99), "shutdown": (48, 210), "stat": (4, None), "statx": (332, 291), "uname": (63, 160),
}  # fmt: skip

# The interpreter's own: memory, time, how a socket shows itself, and a traceback (faulthandler) at SIGABRT.
_COMMON: Final = (
    "clock_gettime", "poll", "ppoll", "read", "write", "sendto", "futex", "mmap", "munmap", "madvise", "brk", "mremap",
    "mprotect", "close", "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "getrandom",
    "clock_getres", "gettimeofday", "time", "clock_nanosleep", "nanosleep", "pause", "select", "pselect6",
    "sched_yield", "rt_sigaction",
    "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "getsockname", "getpeername",
    "tgkill", "sysinfo", "exit", "exit_group",
)  # fmt: skip
_READING: Final = ("read", "readv", "pread64")  # of any descriptor, the first argument; others are of sockets
_EPOLL: Final = ("epoll_wait", "epoll_pwait", "epoll_create1", "epoll_ctl")
ALLOWED: Final = {
    # By recvmsg it is given the rings of members that come.
    "demux": ("readv", "recvmsg", *_COMMON),
    # A UDP socket of its own for a moment: to ask for the path's MTU. It reads its own queue of the TUN device, if any.
    "member": (
        "readv", "sendmsg", "recvmsg", "writev", "setsockopt", "recvfrom", *_EPOLL,
        "socket", "bind", "connect", "getsockopt", *_COMMON,
    ),
    "keyd": (*_EPOLL, "recvfrom", "recvmsg", "sendmsg", "pread64", "lseek", *_COMMON),
    # No shutdown: what it has is its successors', too, and the supervisor and keyd read the other ends.
    "agent": (*_EPOLL, "accept4", "recvfrom", "recvmsg", "ioctl", *_COMMON),
    "beacon": ("recvfrom", "recvmsg", *_COMMON),
    "link": ("recvfrom", "socket", "connect", "getsockopt", "ioctl", *_COMMON),  # TCP alone, and to whom it likes
}  # fmt: skip
# Of getaddrinfo, with whatever modules the host has for it: files, sockets to name servers and to who caches for them.
_RESOLVER: Final = (
    *_COMMON, *_EPOLL,
    "access", "connect", "faccessat", "faccessat2", "fadvise64", "fcntl", "fstat", "getcwd", "getdents64",
    "getsockopt", "ioctl", "lseek", "lstat", "newfstatat", "open", "openat", "pread64", "prlimit64", "readlink",
    "readlinkat", "readv", "recvfrom", "recvmmsg", "recvmsg", "rseq", "sched_getaffinity", "sendmmsg", "sendmsg",
    "set_robust_list", "setsockopt", "shutdown", "socket", "stat", "statx", "uname", "writev",
)  # fmt: skip
_PROT_EXEC, _FIONBIO, _FIONREAD = 4, 0x5421, 0x541B
_AF_UNIX, _AF_NETLINK, _SOCK_STREAM, _SOCK_RAW = 1, 16, 1, 3
_FLAGS_OF_DESCRIPTORS: Final = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_WRITES: Final = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_RECVERR: Final = (11, 25)  # IP_RECVERR, IPV6_RECVERR
_AF_INET, _AF_INET6, _SOCK_DGRAM, _SOCK_TYPE_MASK = 2, 10, 2, 0xF
_SOL_IP, _SOL_IPV6 = 0, 41
_MEMBERS_OPTIONS = (1, 10, 23, 67)  # IP_TOS, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, IPV6_TCLASS

_LD, _AND, _JEQ, _RET = 0x20, 0x54, 0x15, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JEQ|K, BPF_RET|K
_ALLOW, _KILL_PROCESS = 0x7FFF0000, 0x80000000
_NOT_PERMITTED = 0x00050000 | errno.EPERM  # SECCOMP_RET_ERRNO
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_EFAULT = 14

_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_VERSION = 1
_FILES = ((1, 0x1FFF), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))  # since which version, which accesses
_READS, _BIND = 0xC, 0x1  # of files and directories; of TCP
_TCP, _SCOPES = (4, 0x3), (6, 0x3)  # bind and connect; abstract Unix sockets and signals of others
_libc = ctypes.CDLL(None, use_errno=True)

# Imported when they are first used, which is too late in a child: keys and signatures of any kind that a certificate
# may have, and the encodings of names in it.
for _module in ("backends.openssl.backend", "decrepit.ciphers.algorithms", "decrepit.ciphers.modes"):
    importlib.import_module(f"cryptography.hazmat.{_module}")
for _encoding in ("ascii", "latin_1", "utf_8", "utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "idna"):
    codecs.lookup(_encoding)


def missing(machine: str | None = None) -> list[str]:
    """What this machine does not give a child, as texts."""
    machine, found = machine or platform.machine(), []
    if machine not in _MACHINES:
        found.append(f"no system call filter: fwd has none for {machine}")
    elif not _has_filters():
        found.append("no system call filter: this kernel has none (CONFIG_SECCOMP_FILTER)")
    if _landlock_version() < 1:
        found.append("no Landlock: this kernel has none, or the service's own filter forbids it")
    return found


def enter(kind: str, unread: Collection[int] = ()) -> None:
    """Take everything away that a process of `kind` does not need, for good. No new privileges are set already.

    `unread`: descriptors that it may write and not read; a child cannot give them other numbers.
    """
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter]  # an import that was forgotten raises, and ends nothing
    _restrict_files(tcp_taken=_BIND if kind == "link" else _TCP[1])
    machine = platform.machine()
    if machine in _MACHINES and _has_filters():
        _filter(program(kind, os.getpid(), machine, unread))


def enter_resolver() -> None:
    """Take away what nobody needs who asks the host for a name: to change a file, run a program, reach a process."""
    _restrict_files(_READS, _BIND)
    machine = platform.machine()
    if machine in _MACHINES and _has_filters():
        _filter(resolver_program(os.getpid(), machine))


def _filter(steps: list[Step]) -> None:
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    memory = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(code) // 8, ctypes.addressof(memory))
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0) != 0:
        raise _error("the system call filter is refused")


def program(kind: str, pid: int, machine: str, unread: Collection[int] = ()) -> list[Step]:
    """The filter of a process, the most frequent calls first."""
    checks: dict[str, tuple[Check, ...]] = {
        "mmap": ((2, _PROT_EXEC, (0,)),),
        "mprotect": ((2, _PROT_EXEC, (0,)),),
        "tgkill": ((0, 0xFFFFFFFF, (pid,)),),  # abort()
        "ioctl": ((1, 0xFFFFFFFF, (_FIONBIO,)),),
        "socket": (
            (0, 0xFFFFFFFF, (_AF_INET, _AF_INET6)),
            (1, _SOCK_TYPE_MASK, (_SOCK_STREAM if kind == "link" else _SOCK_DGRAM,)),
        ),
        # TOS and DF, which are set anew in each life: the socket is its successors', too.
        "setsockopt": ((1, 0xFFFFFFFF, (_SOL_IP, _SOL_IPV6)), (2, 0xFFFFFFFF, _MEMBERS_OPTIONS)),
    }
    return _program(ALLOWED[kind], machine, checks, _KILL_PROCESS, unread)


def resolver_program(pid: int, machine: str) -> list[Step]:
    """The filter of who asks the host for names."""
    families, kinds = (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK), (_SOCK_STREAM, _SOCK_DGRAM, _SOCK_RAW)
    checks: dict[str, tuple[Check, ...]] = {
        "tgkill": ((0, 0xFFFFFFFF, (pid,)),),
        "ioctl": ((1, 0xFFFFFFFF, (_FIONBIO, _FIONREAD)),),
        "socket": ((0, 0xFFFFFFFF, families), (1, _SOCK_TYPE_MASK, kinds)),
        "setsockopt": ((1, 0xFFFFFFFF, (_SOL_IP, _SOL_IPV6)), (2, 0xFFFFFFFF, _RECVERR)),
        "fcntl": ((1, 0xFFFFFFFF, _FLAGS_OF_DESCRIPTORS),),
        "prlimit64": ((0, 0xFFFFFFFF, (0,)),),  # its own
        "open": ((1, _WRITES, (0,)),),
        "openat": ((2, _WRITES, (0,)),),
    }
    return _program(_RESOLVER, machine, checks, _NOT_PERMITTED)


def _program(
    names: Collection[str],
    machine: str,
    checks: Mapping[str, tuple[Check, ...]],
    verdict: int,
    unread: Collection[int] = (),
) -> list[Step]:
    """A filter that allows these calls, as far as their checks go; on anything else it passes the verdict."""
    arch, column = _MACHINES[machine]
    steps: list[Step] = [
        (_LD, 0, 0, _AT_ARCH),
        (_JEQ, 1, 0, arch),
        (_RET, 0, 0, _KILL_PROCESS),
        (_LD, 0, 0, _AT_NUMBER),
    ]
    for name in names:
        number = _NUMBERS[name][column]
        if number is not None:
            checked = [step for check in checks.get(name, ()) for step in _block(*check, verdict)]
            body = [*checked, (_RET, 0, 0, _ALLOW)]
            if name in _READING and unread:
                body = _bar(0, unread, verdict) + body
            steps += [(_JEQ, 0, len(body), number), *body]
    return [*steps, (_RET, 0, 0, verdict)]


def _block(argument: int, mask: int, values: tuple[int, ...], verdict: int) -> list[Step]:
    """Pass the verdict unless an argument, masked, is one of `values`: ints, of which the low word is all."""
    looks = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(_LD, 0, 0, _AT_ARGUMENTS + 8 * argument), (_AND, 0, 0, mask), *looks, (_RET, 0, 0, verdict)]


def _bar(argument: int, values: Collection[int], verdict: int) -> list[Step]:
    """Pass the verdict if an argument is one of `values`."""
    last = len(values) - 1
    looks = [(_JEQ, last - i, int(i == last), value) for i, value in enumerate(values)]  # the last one: over the end
    return [(_LD, 0, 0, _AT_ARGUMENTS + 8 * argument), *looks, (_RET, 0, 0, verdict)]


def _has_filters() -> bool:
    """A filter at no address: a kernel that knows filters looks there first."""
    return _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0) != 0 and ctypes.get_errno() == _EFAULT


def _landlock_version() -> int:
    """0 or less: there is none."""
    return int(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION))


def _restrict_files(kept: int = 0, tcp_taken: int = _TCP[1]) -> None:
    """Take all access to files away but `kept`, and of TCP what is named."""
    version = _landlock_version()
    if version < 1:
        return
    files = sum(bits for since, bits in _FILES if version >= since) & ~kept
    tcp, scopes = (bits if version >= since else 0 for since, bits in ((_TCP[0], tcp_taken), _SCOPES))
    attributes = struct.pack("=QQQ", files, tcp, scopes)[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = _libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise _error("Landlock's rules are refused")
    try:
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) != 0:
            raise _error("Landlock is refused")
    finally:
        os.close(ruleset)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
