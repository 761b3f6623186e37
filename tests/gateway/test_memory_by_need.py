"""What of the shared memory each process of a gateway has: what the table says, and no way to more."""

from __future__ import annotations

import contextlib
import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, until

from fwd.datapath.memory import access

PROCESSES = ["supervisor", "demux", "member-0", "member-1", "keyd", "agent", "beacon"]
_HEAD = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ \S+ (\d+)\s*(.*)")
_MEMORY = re.compile(r"/memfd:fwd/(.*) \(deleted\)")


@dataclass
class Mapped:
    """One memory as a process has it."""

    inode: int
    kib: int = 0
    flags: frozenset[str] = frozenset()


@pytest.fixture(scope="module", params=["superpacket", "esp"])
def pair(request: pytest.FixtureRequest, module_pairs: MakePair) -> Pair:
    pair = module_pairs([{"payload": request.param}], start=False)
    pair.answer_routers()
    return pair.start()


def pid_of(pair: Pair, process: str) -> int:
    return pair.running["gw1"].pid if process == "supervisor" else pair.pids("gw1")[process]


def mapped(pid: int) -> dict[str, Mapped]:
    """All shared memory that a process has, by name."""
    found: dict[str, Mapped] = {}
    now: Mapped | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := _HEAD.fullmatch(line):
            memory = _MEMORY.fullmatch(head[2])
            now = found.setdefault(memory[1], Mapped(int(head[1]))) if memory else None
            assert memory or not head[2].startswith(("/dev/zero", "/memfd")), f"shared without a name of ours: {line}"
        elif now and line.startswith("Size:"):
            now.kib += int(line.split()[1])
        elif now and line.startswith("VmFlags:"):
            now.flags |= set(line.split()[1:])
    return found


def regions(pair: Pair) -> dict[str, os.stat_result]:
    """All that there is: what the supervisor has descriptors of."""
    found = {}
    for entry in Path(f"/proc/{pid_of(pair, 'supervisor')}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            if target := _MEMORY.fullmatch(os.readlink(entry)):
                found[target[1]] = entry.stat()
    return found


@pytest.mark.parametrize("process", PROCESSES)
def test_a_process_maps_what_the_table_gives_it(pair: Pair, process: str) -> None:
    there = regions(pair)
    wanted = {name: how for name in there if (how := access(name, process))}
    found = mapped(pid_of(pair, process))
    assert {name: "write" if "wr" in one.flags else "read" for name, one in found.items()} == wanted
    for name, one in found.items():
        about = there[name]
        assert (one.inode, one.kib * 1024) == (about.st_ino, about.st_size), name


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_read_cannot_be_made_writable(pair: Pair, process: str) -> None:
    for name, one in mapped(pid_of(pair, process)).items():
        assert ("mw" in one.flags) == (access(name, process) == "write"), name


@pytest.mark.parametrize("process", PROCESSES[1:])
def test_no_child_keeps_a_descriptor_of_memory(pair: Pair, process: str) -> None:
    targets = []
    for entry in Path(f"/proc/{pid_of(pair, process)}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            targets.append(os.readlink(entry))
    assert not [target for target in targets if _MEMORY.fullmatch(target)]


def test_no_child_inherits_the_supervisors_maps(pair: Pair) -> None:
    """dc: do not copy on fork. So those of a child are its own."""
    assert all("dc" in one.flags for one in mapped(pid_of(pair, "supervisor")).values())


def test_a_member_has_nothing_of_another(pair: Pair) -> None:
    of_others = [name for name in mapped(pid_of(pair, "member-0")) if not name.endswith("-0")]
    assert of_others == ["to-gw2-0/supervisor"]  # what all members of the peering follow


# -- what a child that was taken over may write -------------------------------------------------------------------

JUNK = {"ones": b"\xff" * 8, "half": (1 << 40).to_bytes(8, "little"), "random": random.Random(3).randbytes(8184)}


def write_over(pair: Pair, junk: bytes) -> None:
    """Fill all that children write, and the supervisor or the agent reads."""
    supervisor = Path(f"/proc/{pid_of(pair, 'supervisor')}/fd")
    for entry in supervisor.iterdir():
        name = None
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            name = _MEMORY.fullmatch(os.readlink(entry))
        if name and not name[1].rpartition("/")[2].startswith(("supervisor", "rows")) and name[1] != "agent":
            size = entry.stat().st_size
            with entry.open("r+b", buffering=0) as file:
                file.write((junk * (size // len(junk) + 1))[:size])


def states(pair: Pair) -> dict[str, str]:
    return {one["name"]: one["state"] for one in pair.status("gw1")["processes"]}


@pytest.mark.parametrize("payload", ["superpacket", "esp"])
def test_whatever_children_write_the_supervisor_and_the_agent_go_on(pairs: MakePair, payload: str) -> None:
    pair = pairs([{"payload": payload}], start=False)
    pair.answer_routers()
    pair.start()
    supervisor, agent = pid_of(pair, "supervisor"), pid_of(pair, "agent")
    for junk in JUNK.values():
        write_over(pair, junk)
        started_s = pair.status("gw1")["gateway"]["uptime_s"]
        until(lambda then=started_s: pair.status("gw1")["gateway"]["uptime_s"] > then + 0.2)  # type: ignore[misc]
    assert pid_of(pair, "supervisor") == supervisor
    assert pair.pids("gw1")["agent"] == agent

    # The beacon reads what they write, and goes on or, for what was written in its own name, is replaced.
    until(lambda: states(pair)["beacon"] == "running", what="the beacon runs")
    assert "supervisor.trouble" not in pair.log("gw1")
    assert "it is tried again" not in pair.log("gw1")
