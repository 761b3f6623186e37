"""What ends a child: system calls that its kind does not need. And that each machine's numbers are the kernel's."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import mmap
import os
import platform
import re
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fwd.datapath.udp import path_mtu
from fwd.supervise import sandbox
from fwd.supervise.privileges import faults

KINDS = sorted(sandbox.ALLOWED)
_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_NO_NEW_PRIVS, _PR_SET_DUMPABLE = 38, 4
_PTRACE_ATTACH, _F_SETOWN = 16, 8
_SYS_PIDFD_OPEN, _SYS_CLONE3, _SYS_IO_URING_SETUP = 434, 435, 425

pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason="; ".join(sandbox.missing()))


def ending(kind: str, act: Callable[[], object], unread: Collection[int] = ()) -> int:
    """How a process of a kind ends that does `act`: an exit status, or minus a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if kind == "names":
                sandbox.enter_resolver()
            else:
                sandbox.enter(kind, unread)
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def parent() -> int:
    return os.getppid()


FORBIDDEN: dict[str, Callable[[], object]] = {
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "open": lambda: Path("/etc/passwd").read_bytes(),
    "open for writing": lambda: os.open("/tmp/x", os.O_WRONLY | os.O_CREAT),
    "stat": lambda: os.stat("/"),
    "unlink": lambda: os.unlink("/nothing"),
    "fork": os.fork,
    "clone3": lambda: _libc.syscall(_SYS_CLONE3, None, 0),
    "ptrace": lambda: _libc.ptrace(_PTRACE_ATTACH, parent(), None, None),
    "process_vm_readv": lambda: _libc.process_vm_readv(parent(), None, 0, None, 0, 0),
    "process_vm_writev": lambda: _libc.process_vm_writev(parent(), None, 0, None, 0, 0),
    "kill another": lambda: os.kill(parent(), 0),
    "kill itself": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "tgkill another": lambda: _libc.tgkill(parent(), parent(), 0),
    "pidfd_open": lambda: _libc.syscall(_SYS_PIDFD_OPEN, parent(), 0),
    "fcntl": lambda: _libc.fcntl(0, _F_SETOWN, parent()),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "shutdown": lambda: _libc.shutdown(0, 2),
    "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "tcp": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "setuid": lambda: os.setuid(0),
    "capset": lambda: _libc.capset(bytes(8), bytes(24)),
    "prctl": lambda: _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0),
    "setns": lambda: _libc.setns(0, 0),
    "unshare": lambda: _libc.unshare(0x10000000),
    "mount": lambda: _libc.mount(b"x", b"/", b"tmpfs", 0, None),
    "bpf": lambda: _libc.syscall(321 if platform.machine() == "x86_64" else 280, 0, None, 0),
    "io_uring": lambda: _libc.syscall(_SYS_IO_URING_SETUP, 1, None),
    "setpriority": lambda: os.setpriority(os.PRIO_PROCESS, parent(), 19),
    "memory with code": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC),
    "TUNSETIFF": lambda: _libc.ioctl(0, 0x400454CA, None),
}


OWN = {"link": "tcp", "member": "udp"}  # who may make which socket


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_no_kind_does_ends_it(kind: str, act: Callable[[], object]) -> None:
    assert ending(kind, act) == (0 if act is FORBIDDEN.get(OWN.get(kind, "")) else -signal.SIGSYS)


# What the host's own modules need to ask for a name; a raw socket of IP needs a capability besides.
ASKS = {"open", "stat", "netlink", "unix socket", "tcp", "udp", "memory with code", "shutdown", "raw socket"}


@pytest.mark.parametrize("name", sorted(FORBIDDEN.keys() - ASKS))
def test_what_who_asks_for_names_does_not_need_is_refused_and_does_not_end_it(name: str) -> None:
    def act() -> None:
        try:
            said = FORBIDDEN[name]()
        except OSError as error:
            number = error.errno
        else:
            assert said == -1
            number = ctypes.get_errno()
        assert number == errno.EPERM

    assert ending("names", act) == 0


@pytest.mark.parametrize(
    "act",
    [
        lambda: socket.getaddrinfo("localhost", None, socket.AF_INET, socket.SOCK_DGRAM),
        lambda: Path("/etc/nsswitch.conf").exists() and Path("/etc/nsswitch.conf").read_bytes(),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).connect_ex(("127.0.0.1", 9)),
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).setblocking(False),
        lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect_ex("/run/nscd/socket"),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno(),
        lambda: ctypes.CDLL("libresolv.so.2"),
    ],
)
def test_who_asks_for_names_may_ask(act: Callable[[], object]) -> None:
    assert ending("names", act) == 0


def test_who_asks_for_names_types_nothing_into_a_terminal_and_limits_and_signals_nobody() -> None:
    """TIOCSTI; RLIMIT_NPROC of another of its user's; SIGIO to one."""
    tried: list[Callable[[], int]] = [
        lambda: _libc.ioctl(0, 0x5412, b"x"),
        lambda: _libc.prlimit64(parent(), 6, None, ctypes.create_string_buffer(16)),
        lambda: _libc.fcntl(0, _F_SETOWN, parent()),
    ]

    def act() -> None:
        for one in tried:
            assert one() == -1
            assert ctypes.get_errno() == errno.EPERM

    assert ending("names", act) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("others", [(), (900,), (900, 901)])
def test_of_what_a_process_may_only_write_nothing_is_read(kind: str, others: tuple[int, ...]) -> None:
    """The TUN device of a member, which all members' packets come out of."""
    near, far = socket.socketpair()
    with near, far:
        far.send(b"of another member")
        for unread in {(near.fileno(), *others), (*others, near.fileno())}:
            assert ending(kind, lambda: os.read(near.fileno(), 9), unread) == -signal.SIGSYS
            assert ending(kind, lambda: os.write(near.fileno(), b"x"), unread) == 0
            assert ending(kind, lambda: os.readv(near.fileno(), [bytearray(9)]), unread) == -signal.SIGSYS
            assert ending(kind, lambda: os.pread(near.fileno(), 9, 0), unread) == -signal.SIGSYS
            assert ending(kind, lambda: _libc.dup(near.fileno()), unread) == -signal.SIGSYS
            assert ending(kind, lambda: _libc.dup2(near.fileno(), 0), unread) == -signal.SIGSYS
        assert ending(kind, lambda: os.read(near.fileno(), 2), others) == 0


def test_code_cannot_be_made_of_data() -> None:
    memory = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ending("keyd", lambda: _libc.mprotect(ctypes.c_void_p(address), 4096, 4)) == -signal.SIGSYS
    assert ending("keyd", lambda: _libc.mprotect(ctypes.c_void_p(address), 4096, 1)) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "member"])
def test_none_but_a_member_makes_sockets(kind: str) -> None:
    assert ending(kind, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) == -signal.SIGSYS


def test_a_member_asks_for_the_paths_mtu() -> None:
    home = IPv4Address("127.0.0.1")
    assert ending("member", lambda: path_mtu(home, str(home), 9) or os._exit(2)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_time_memory_chance_and_messages_are_everybodys(kind: str) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def act() -> None:
        time.sleep(0.001)
        time.monotonic()
        bytes(1 << 20)  # of the kernel, not of what was freed
        os.urandom(16)
        mmap.mmap(-1, 4096)
        select.poll().poll(0)
        far.send(b"x")
        repr(far)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    with near, far:
        assert ending(kind, act) == 0


def test_what_is_not_imported_yet_cannot_be_and_that_is_an_exception() -> None:
    """Of a module, or of an encoding, which a stranger's words may choose."""

    def act() -> None:
        for use, error in ((lambda: __import__("tarfile"), ImportError), (lambda: b"x".decode("cp273"), LookupError)):
            with pytest.raises(error):
                use()

    sys.modules.pop("tarfile", None)
    assert ending("keyd", act) == 0


@pytest.mark.parametrize("encoding", ["utf_16_be", "utf-16-be", "utf_32_be", "latin-1", "ascii", "idna"])
def test_encodings_of_names_in_certificates_are_there(encoding: str) -> None:
    assert ending("keyd", lambda: "x".encode(encoding).decode(encoding)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_abort_leaves_a_traceback(kind: str) -> None:
    near, far = os.pipe()

    def act() -> None:
        faulthandler.enable(far)
        os.abort()

    assert ending(kind, act) == -signal.SIGABRT
    os.close(far)
    with os.fdopen(near) as file:
        assert "Fatal Python error: Aborted" in file.read()


@pytest.mark.parametrize("machine", sorted(sandbox._MACHINES))
@pytest.mark.parametrize("kind", [*KINDS, "names"])
def test_every_machine_has_a_filter(kind: str, machine: str) -> None:
    steps = sandbox.resolver_program(1, machine) if kind == "names" else sandbox.program(kind, 1, machine)
    assert len(steps) < 256
    assert all(at + 1 + max(jt, jf) < len(steps) for at, (code, jt, jf, _) in enumerate(steps) if code == sandbox._JEQ)


def test_another_machine_goes_without_and_says_so() -> None:
    assert [text for text in sandbox.missing("riscv64") if "riscv64" in text]


HEADERS = {
    "x86_64": (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 0),
    "aarch64": (Path("/usr/include/asm-generic/unistd.h"), 1),
}


@pytest.mark.parametrize("machine", sorted(HEADERS))
def test_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    header, column = HEADERS[machine]
    if machine == "x86_64" and os.uname().machine != machine:
        pytest.skip("the headers of another machine are not here")
    told = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    told.setdefault("newfstatat", told.get("fstatat", ""))  # by two names
    for name, numbers in sandbox._NUMBERS.items():
        if (number := numbers[column]) is not None:
            assert int(told[name]) == number, name


GOOD = {
    "Uid": "5\t5\t5\t5", "Gid": "6\t6\t6\t6", "Groups": "", "NoNewPrivs": "1",
    **dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), "0000000000000000"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("Uid", "5\t0\t5\t5"), ("Gid", "6\t6\t6\t0"), ("Groups", "4 24"), ("NoNewPrivs", "0"),
     *((name, "0000000000000001") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))],
)  # fmt: skip
def test_a_privilege_that_is_left_is_named(wrong: str, value: str) -> None:
    assert faults(GOOD, 5, 6, bounded=True) == []
    assert faults({**GOOD, wrong: value}, 5, 6, bounded=True) == [f"{wrong} is {value}"]
    missing = {key: text for key, text in GOOD.items() if key != wrong}
    assert faults(missing, 5, 6, bounded=True) == [f"{wrong} is not told"]


def test_the_bounding_set_may_stay_without_cap_setpcap() -> None:
    assert faults({**GOOD, "CapBnd": "00000000a80425fb"}, 5, 6, bounded=False) == []
