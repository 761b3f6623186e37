"""A gateway that the nursery has forked is as one that was executed: else it would be another's tests that pass."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from gwkit import MakePair, Pair

# Signals, rights, limits of what may be called; not what is counted, nor what says who it is.
STATUS = ("Sig", "Shd", "Cap", "Groups", "Uid", "Gid", "NoNewPrivs", "Seccomp", "Threads", "Umask")


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    """gw1 forked, gw2 executed."""
    pair = module_pairs(start=False)
    pair.secret = os.urandom(32)
    pair.launch("gw1")
    pair.nursery, nursery = None, pair.nursery
    pair.launch("gw2")
    pair.nursery = nursery
    pair.wait_ready()
    return pair


def looks(pair: Pair, host: str) -> dict[str, Any]:
    """What the kernel tells of a supervisor."""
    proc = Path("/proc", str(pair.running[host].pid))
    status = (proc / "status").read_text().splitlines()
    environment = dict(item.partition("=")[::2] for item in (proc / "environ").read_text().split("\0"))
    return {
        "status": [line for line in status if line.startswith(STATUS)],
        "limits": (proc / "limits").read_text(),
        "environment": {name: value for name, value in environment.items() if name != "PYTEST_CURRENT_TEST"},
        "name": (proc / "comm").read_text(),
        "directory": os.readlink(proc / "cwd"),
        "program": os.readlink(proc / "exe"),
        "session": (os.getsid(int(proc.name)), os.getpgid(int(proc.name))),
        "descriptors": sorted(kind(os.readlink(entry)) for entry in (proc / "fd").iterdir()),
        "devices": sorted(os.listdir(proc / "root/sys/class/net")),
        "network": os.readlink(proc / "ns/net") == f"net:[{pair.network(host).stat().st_ino}]",
        "own mounts": os.readlink(proc / "ns/mnt") != os.readlink("/proc/self/ns/mnt"),
    }


def kind(target: str) -> str:
    """What a descriptor is of, without numbers."""
    return re.sub(r"\d+", "N", target.partition(":[")[0])


@pytest.mark.parametrize("what", ["status", "limits", "environment", "name", "directory", "program", "session",
                                  "descriptors", "devices", "network", "own mounts"])  # fmt: skip
def test_it_is_the_same(pair: Pair, what: str) -> None:
    forked, executed = looks(pair, "gw1")[what], looks(pair, "gw2")[what]
    assert forked == executed


def test_its_end_is_told(pair: Pair) -> None:
    assert pair.running["gw1"].poll() is None
    assert pair.stop("gw1") == 0
    pair.launch("gw1")
    pair.running["gw1"].kill()
    assert pair.running.pop("gw1").wait(60) == -9
