"""Shared memory as processes have it: who reads cannot write, nothing is inherited, nothing can be resized."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import itertools
import mmap
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fwd.datapath.counters import CounterBlock
from fwd.datapath.memory import ACCESS, Memory, Region, access, check_machine
from fwd.datapath.shared import AddressWords, GatewayShared, peering_sizes
from fwd.proto.errors import UserError

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory(peering_sizes(2), "vpc2")
    yield made
    made.close()


def in_child(act: Callable[[], None]) -> int:
    """What `act` returns in a forked process: exit status 0, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            act()
            os._exit(0)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("process", ["demux", "member-0", "member-1", "keyd", "agent"])
def test_a_child_maps_what_it_is_given_and_writes_what_is_its_own(memory: Memory, process: str) -> None:
    def act() -> None:
        maps = memory.map(process)
        assert {name: "read" if view.readonly else "write" for name, view in maps.items()} == {
            name: how for name in peering_sizes(2) if (how := access(f"vpc2/{name}", process))
        }

    assert in_child(act) == 0


def test_writing_to_what_is_read_kills_the_writer(memory: Memory) -> None:
    """Past Python's own refusal, and mprotect does not help: the map's descriptor was opened for reading."""
    outcome = memoryview(mmap.mmap(-1, 4096))

    def act() -> None:
        view = memory.map("member-0")["supervisor-0"]
        where, size = np.frombuffer(view, np.uint8).ctypes.data, len(view)
        faulthandler.disable()
        outcome[0] = _libc.mprotect(ctypes.c_void_p(where), size, mmap.PROT_READ | mmap.PROT_WRITE) != 0
        ctypes.c_char.from_address(where).value = b"x"

    assert in_child(act) == -signal.SIGSEGV
    assert outcome[0] == 1
    assert bytes(memory.regions["supervisor-0"].map("read")[:1]) == b"\0"


def test_a_map_is_not_inherited(memory: Memory) -> None:
    views = memory.map_to_write(memory.regions)

    def act() -> None:
        assert "memfd:fwd/" not in Path("/proc/self/maps").read_text()

    assert in_child(act) == 0
    assert views


def test_what_one_process_writes_the_others_read(memory: Memory) -> None:
    def act() -> None:
        memory.map("member-1")["member-1"][:3] = b"one"

    assert in_child(act) == 0
    assert bytes(memory.map("agent")["member-1"][:3]) == b"one"


@pytest.mark.parametrize("size", [0, 8192])
def test_memory_cannot_be_resized(size: int) -> None:
    region = Region("test", 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(region.fd, size)
    region.close()


def test_memory_that_cannot_be_had_whole_keeps_no_descriptor() -> None:
    def act() -> None:
        before = os.listdir("/proc/self/fd")
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(before) + 4, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        with pytest.raises(OSError, match="Too many open files"):
            Memory(peering_sizes(8), "vpc2")
        assert os.listdir("/proc/self/fd") == before

    assert in_child(act) == 0


def test_every_memory_has_one_writer_but_for_rows() -> None:
    """Which its name tells. Rows are completed in place by the member that seals them."""
    for name, row in ACCESS.items():
        writers = {process for process, how in row.items() if how == "write"}
        writer = name.removeprefix("NAME/").removesuffix("-I")
        wanted = {"demux", "member-I"} if writer == "rows" else {"member-I" if writer == "member" else writer}
        assert writers == wanted, name


def test_every_memory_of_a_gateway_is_in_the_table() -> None:
    names = {name.replace("-0", "-I") for name in [*peering_sizes(1), "demux-0", "rows-0"]}
    assert {f"NAME/{name}" for name in names} | GatewayShared.SIZES.keys() == ACCESS.keys()


def test_the_architectures_table_is_the_one_in_force() -> None:
    lines = (Path(__file__).parents[2] / "docs/ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    head = lines.index("| memory | what is in it | supervisor | demux | member I | keyd | agent | beacon | link |")
    told = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[head + 2 :]):
        memory, _, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        processes = ("supervisor", "demux", "member-I", "keyd", "agent", "beacon", "link")
        told[memory.strip("`")] = {p: how for p, how in zip(processes, cells, strict=True) if how != "none"}
    assert told == ACCESS


@pytest.mark.parametrize("machine", ["aarch64", "riscv64", "i686"])
def test_a_machine_of_another_order_is_refused(machine: str) -> None:
    with pytest.raises(UserError, match=f"this machine is {machine}: a gateway needs x86-64"):
        check_machine(machine)


def test_x86_64_is_not_refused() -> None:
    check_machine("x86_64")


# -- words that change at once ------------------------------------------------------------------------------------


def address_words() -> memoryview:
    return memoryview(bytearray(8 * AddressWords.SIZE)).cast("Q")


def test_an_address_is_seen_whole_whatever_its_writer_has_done_last() -> None:
    """At each store of a change: the address of before, or the new one."""
    before, after = ("192.0.2.1", 4500), ("2001:db8::1", 4501)
    words = address_words()
    AddressWords(words).put(before)
    old = words.tolist()
    AddressWords(words).put(after)
    changed = [at for at in range(len(old)) if words[at] != old[at]]
    assert changed[0] == 0  # the commit word, which is stored last
    new = words.tolist()
    for stored in range(len(changed)):
        words = address_words()
        for at, value in enumerate(old):
            words[at] = value
        for at in changed[1 : stored + 1]:
            words[at] = new[at]
        assert AddressWords(words).get() == before
    assert AddressWords(words).get() == before
    words[0] = new[0]
    assert AddressWords(words).get() == after


class Restless:
    """Words whose commit changes at every look."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, at: int | slice) -> int | memoryview:
        if at == 0:
            self._words[0] += 1
        return self._words[at]


def test_a_writer_that_never_rests_does_not_hold_its_reader() -> None:
    words = memoryview(bytearray(8 * CounterBlock.size(3))).cast("Q")
    block = CounterBlock(words, 3)
    block._words = Restless(words)  # type: ignore[assignment]
    assert block.read() == [0, 0, 0]
