"""Shared memory by need: each writer's words are a memfd of their own, and a process maps what ACCESS gives it.

The supervisor makes every `Region`. Its own maps are not inherited (MADV_DONTFORK): a child maps its own after the
fork, before it closes the descriptors and gives up root. What it only reads it maps through a descriptor that was
opened for reading, so no mprotect brings writing back. A region cannot be resized (a shorter one would kill who reads).

Whatever a child wrote is looked at as a stranger's word: whoever reads it bounds it.

Words are stored plainly, without barriers: rows, then what describes them, then the word that hands them over. That is
right where stores, and loads, stay in their order, as on x86-64; `check_machine` refuses others.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import platform
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal

from fwd.proto.errors import UserError

Access = Literal["read", "write"]
Maps = Mapping[str, memoryview]  # by the memory's name within its gateway or peering

# Memory → who has it. It is called by its writer; `-I` is what member I writes, or what another writes for it alone.
# docs/ARCHITECTURE.md shows the same table, and tests hold both against the maps of living processes.
ACCESS: Final[Mapping[str, Mapping[str, Access]]] = {
    "supervisor": {"supervisor": "write", "keyd": "read", "agent": "read", "beacon": "read", "link": "read"},
    "keyd": {"supervisor": "read", "keyd": "write", "agent": "read"},
    "agent": {"supervisor": "read", "agent": "write", "link": "read"},
    "beacon": {"supervisor": "read", "beacon": "write", "agent": "read"},
    "link": {"supervisor": "read", "link": "write", "agent": "read"},
    "NAME/supervisor": {"supervisor": "write", "demux": "read", "member-I": "read", "agent": "read", "beacon": "read"},
    "NAME/supervisor-I": {
        "supervisor": "write", "member-I": "read", "keyd": "read", "agent": "read", "beacon": "read",
    },
    "NAME/demux": {"supervisor": "read", "demux": "write", "agent": "read", "beacon": "read"},
    "NAME/demux-I": {"demux": "write", "member-I": "read", "agent": "read", "beacon": "read"},
    "NAME/rows-I": {"demux": "write", "member-I": "write"},
    "NAME/member-I": {
        "supervisor": "read", "demux": "read", "member-I": "write", "keyd": "read", "agent": "read", "beacon": "read",
    },
    "NAME/keyd": {"supervisor": "read", "keyd": "write", "agent": "read"},
    "NAME/keyd-I": {"supervisor": "read", "member-I": "read", "keyd": "write", "beacon": "read"},
}  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED: Final = 2 ** (8 * ctypes.sizeof(ctypes.c_void_p)) - 1


def access(memory: str, process: str) -> Access | None:
    """How `process` ("agent", "demux", "member-3") has a memory ("keyd", "NAME/demux-3"), if at all."""
    peering, _, name = memory.rpartition("/")
    kind, _, index = name.partition("-")
    role, _, own = process.partition("-")
    if own and index and own != index:
        return None
    row = ACCESS[("NAME/" if peering else "") + kind + ("-I" if index else "")]
    return row.get(role + ("-I" if own else ""))


def check_machine(machine: str | None = None) -> None:
    """Refuse, as UserError, a machine on which a process may see another's stores in another order."""
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        raise UserError(
            f"this machine is {machine or platform.machine()}: a gateway needs x86-64 (its order of stores)"
        )


class Region:
    """The memory of one name, at least `size` octets, all zero."""

    def __init__(self, name: str, size: int) -> None:
        self.size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        self.fd = os.memfd_create(f"fwd/{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(self.fd, 0o600)
            os.ftruncate(self.fd, self.size)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        except OSError:
            self.close()
            raise

    def map(self, access: Access) -> memoryview:
        """Map it into this process, not into those that it forks. It stays mapped for as long as a view is used."""
        if access == "write":
            found = mmap.mmap(self.fd, self.size)
        else:
            fd = self.open("read")
            try:
                found = mmap.mmap(fd, self.size, prot=mmap.PROT_READ)
            finally:
                os.close(fd)
        found.madvise(mmap.MADV_DONTFORK)
        return memoryview(found)

    def open(self, access: Access) -> int:
        """Open it once more, for a process that is given the descriptor: to write to only if it may."""
        how = os.O_RDWR if access == "write" else os.O_RDONLY
        return os.open(f"/proc/self/fd/{self.fd}", how | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor; the memory goes with its last map."""
        os.close(self.fd)


class Memory:
    """The regions of a peering, or of the gateway itself (`peering` is empty), with their sizes by name."""

    def __init__(self, sizes: Mapping[str, int], peering: str = "") -> None:
        self._prefix = f"{peering}/" if peering else ""
        self.regions: dict[str, Region] = {}
        self.add(sizes)

    def add(self, sizes: Mapping[str, int]) -> None:
        """Make more regions; all of them or none."""
        try:
            for name, size in sizes.items():
                self.regions[name] = Region(self._prefix + name, size)
        except OSError:  # no descriptor left: it is tried again, and must not cost more of them each time
            self.drop(sizes)
            raise

    def drop(self, names: Iterable[str]) -> None:
        """Close these regions; each goes with its last map."""
        for name in names:
            if (region := self.regions.pop(name, None)) is not None:
                region.close()

    def map(self, process: str, names: Iterable[str] | None = None) -> dict[str, memoryview]:
        """Map what `process` is given, of these regions or of all."""
        found = {name: access(self._prefix + name, process) for name in (self.regions if names is None else names)}
        return {name: self.regions[name].map(how) for name, how in found.items() if how}

    def sizes(self, process: str) -> dict[str, int]:
        """Return the octets of what `process` is given; "agent" and "keyd" have that of all members."""
        return {name: one.size for name, one in self.regions.items() if access(self._prefix + name, process)}

    @contextlib.contextmanager
    def opened(self, process: str, names: Iterable[str]) -> Iterator[dict[str, int]]:
        """Open these of its memories for a process that runs; the descriptors are closed when they have been sent."""
        found: dict[str, int] = {}
        try:
            for name in names:
                how = access(self._prefix + name, process)
                assert how is not None
                found[name] = self.regions[name].open(how)
            yield found
        finally:
            for fd in found.values():
                os.close(fd)

    def map_to_write(self, names: Iterable[str]) -> dict[str, memoryview]:
        """Map these to write to, for what must be there before the first process is."""
        return {name: self.regions[name].map("write") for name in names}

    def close(self) -> None:
        """Close the descriptors."""
        self.drop(list(self.regions))


def map_descriptor(fd: int, size: int, access: Access) -> memoryview:
    """Map memory that a process was given while it ran. It stays mapped for as long as a view is used.

    Not by Python's mmap, which asks the kernel about the descriptor: no child's system call filter lets that through.
    """
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if access == "write" else 0)
    at = _libc.mmap(None, size, prot, mmap.MAP_SHARED, fd, 0)
    if at in (None, _MAP_FAILED):
        number = ctypes.get_errno()
        raise OSError(number, f"shared memory cannot be mapped: {os.strerror(number)}")
    found = (ctypes.c_ubyte * size).from_address(at)
    weakref.finalize(found, _libc.munmap, at, size).atexit = False
    view = memoryview(found).cast("B")
    return view if access == "write" else view.toreadonly()


def anonymous(sizes: Mapping[str, int]) -> dict[str, memoryview]:
    """Memory of this process and its heirs alone, where nobody is to be kept from anything."""
    return {name: memoryview(mmap.mmap(-1, size)) for name, size in sizes.items()}
