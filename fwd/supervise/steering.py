"""The shell of steering by the kernel: its table and program, loaded by bpf(2), and put on a TUN device.

The supervisor loads them once; what they are lives on with the descriptors, so no child needs bpf(2), and whoever is
given the table's may map it. Refuses, as `SteeringError` with one line that says what is missing: a process without
CAP_BPF, a kernel without mapped tables (5.5) or whose TUN devices take no program, a machine whose system calls this
file does not know.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from fwd.proto.ebpf import INSTRUCTION_BYTES
from fwd.proto.errors import UserError
from fwd.proto.steering import TABLE_BYTES, program

_SYSTEM_CALLS: Final = {"x86_64": 321, "aarch64": 280}
_TUNSETSTEERINGEBPF = 0x800454E0
_NO_PROGRAM = -1  # takes a program off a device
_ARRAY, _SOCKET_FILTER = 2, 1  # kinds of maps and programs
_MMAPABLE = 1 << 10
_ATTRIBUTES_BYTES = 128  # of what bpf(2) is given: more than a kernel knows must be 0
_VERIFIER_LOG_BYTES = 1 << 20
_RIGHTS = "CAP_BPF (before Linux 5.8 CAP_SYS_ADMIN), bpf(2) and, before 5.11, more locked memory (LimitMEMLOCK=)"
_libc = ctypes.CDLL(None, use_errno=True)


class SteeringError(UserError):
    """The kernel cannot steer here; one line for the user."""


class Command(IntEnum):
    """Of bpf(2): those that are used here, and by tests."""

    MAP_CREATE = 0
    PROG_LOAD = 5
    PROG_TEST_RUN = 10


class Steering:
    """A table and the program that goes by it."""

    def __init__(self) -> None:
        """Load them. Raises SteeringError."""
        with contextlib.ExitStack() as undo:
            self.table_fd = _make_table()
            undo.callback(os.close, self.table_fd)
            self.program_fd = _load(program(self.table_fd))
            undo.callback(os.close, self.program_fd)
            self._undo = undo.pop_all()

    def put_on(self, tun_fd: int) -> None:
        """Have a TUN device steer by the program, until it goes. Raises SteeringError."""
        _set_program(tun_fd, self.program_fd)

    def close(self) -> None:
        """Close both; a device that has the program keeps it, and the table."""
        self._undo.close()


def take_off(tun_fd: int) -> None:
    """Have a TUN device choose its queues by itself. Raises SteeringError."""
    _set_program(tun_fd, _NO_PROGRAM)


def call(command: Command, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Call bpf(2); `attributes` is what it reads, and writes to. Raises OSError."""
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"bpf(2) of {platform.machine()} is not known to fwd")
    found: int = _libc.syscall(number, ctypes.c_int(command), attributes, ctypes.c_uint(len(attributes)))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def attributes(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    """Return what bpf(2) is given, by a layout of `struct`."""
    return ctypes.create_string_buffer(struct.pack(layout, *values), _ATTRIBUTES_BYTES)


def _make_table() -> int:
    with _told("a table that processes map, which Linux has since 5.5"):
        return call(Command.MAP_CREATE, attributes("<IIIII", _ARRAY, 4, TABLE_BYTES, 1, _MMAPABLE))


def _load(instructions: bytes) -> int:
    """Load a program. What its verifier found is a part of the error, if it was that which refused it."""
    code, license_ = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    heard = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
    of = (_SOCKET_FILTER, len(instructions) // INSTRUCTION_BYTES, ctypes.addressof(code), ctypes.addressof(license_))
    with _told("the program that chooses queues"):
        try:
            return call(Command.PROG_LOAD, attributes("<IIQQ", *of))
        except OSError as error:
            if error.errno == errno.EPERM:
                raise

        # Once more, to hear why.
        try:
            told = 1, len(heard), ctypes.addressof(heard)
            return call(Command.PROG_LOAD, attributes("<IIQQIIQ", *of, *told))
        except OSError as error:
            lines = heard.value.decode(errors="replace").strip().splitlines()
            raise OSError(error.errno, f"{error.strerror} ({lines[-1][:200]})" if lines else error.strerror) from None


def _set_program(tun_fd: int, program_fd: int) -> None:
    with _told("a program on a TUN device (TUNSETSTEERINGEBPF), which Linux has since 4.16"):
        fcntl.ioctl(tun_fd, _TUNSETSTEERINGEBPF, struct.pack("i", program_fd))


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn an OSError into one line: what the kernel refuses, why, and what helps."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EPERM:
            raise SteeringError(f"the kernel refuses {what}: not permitted; it takes {_RIGHTS}") from None
        if error.errno == errno.ENOSYS:
            raise SteeringError(
                f"the kernel refuses {what}: {reason}; it has no bpf(2), or a filter hides it"
            ) from None
        raise SteeringError(f"the kernel refuses {what}: {reason}") from None
