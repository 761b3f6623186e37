"""Fixtures for tests in network namespaces, and the check that no test leaves anything behind."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import propkit
import psutil
import pytest
from forking import forking
from hypothesis import settings
from nursery import Nursery

from fwd.lab import gateways
from fwd.lab.topology import RUN_DIR, Topology, why_not

# A shell's background job ignores SIGINT, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Test modules are compiled once, not by every worker of every run, and so is what the tests start; see the Makefile.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.load_profile(propkit.QUICK)

# Files that take longest begin first: the last of the workers is not to be busy long after the others. So does what
# forks hundreds of times, while the process is small.
_FIRST = (
    "test_sandbox.py",
    *("test_workflow.py", "test_guards_stand.py", "test_supervisor.py", "test_trouble.py", "test_traffic.py"),
    *("test_refusals.py", "test_router_live.py", "test_controller_lost.py", "test_changes_under_load.py"),
    *("test_routers.py", "test_ike.py", "test_router_joins.py", "test_gateway_lost.py", "test_books.py"),
    *("test_lab.py", "test_big_tcp.py", "test_ends.py", "test_path_mtu.py"),
)

_DESCRIPTORS = 4096  # a kernel's own hard limit
HERE = Path(__file__).parent
ALL_NETNS = ("gateway", "cluster", "long")  # directories in which every test is

_serial = itertools.count()
_MARK = "FWD_TEST_RUN"
_PREFIX = f"t{os.getpid()}-"  # of the labs of this run; others on the machine are not its business


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "tests that break a process at each place of the code do so at one place in so many"
    parser.addoption("--one-place-in", type=int, default=1, help=words)


def pytest_configure(config: pytest.Config) -> None:
    propkit.one_place_in = config.getoption("--one-place-in")

    # A shell's soft limit is often 1,024; a test holds what a whole gateway has open.
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, most))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of which `-m "netns and …"` or `-m "not netns and …"` takes nothing: each worker would."""
    wanted = str(config.getoption("markexpr"))
    if "or" in wanted.split():
        return None
    if collection_path.name in ALL_NETNS and collection_path.parent == HERE:
        return wanted.startswith("not netns") or None
    if collection_path.match("test_*.py") and wanted.startswith("netns"):
        return not _may_be_netns(collection_path) or None
    return None


def _may_be_netns(file: Path) -> bool:
    return file.parent.name in ALL_NETNS or "netns" in file.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unseen = [file for file in {i.path for i in items if i.get_closest_marker("netns")} if not _may_be_netns(file)]
    if unseen:
        raise pytest.UsageError(f"{unseen[0]}: a file with tests that are netns says so itself")
    order = {name: n for n, name in enumerate(_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish() -> None:
    # Thousands of tests and what they import stay: the collector of garbage need not look at them again and again.
    # What the tests make is looked at more seldom, too: a pair of gateways in memory is tens of thousands of views.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    # Typer makes a command line anew for each command, of functions that stay the same.
    if "typer.main" in sys.modules:
        made = functools.cache(sys.modules["typer.main"].get_command)
        pytest.MonkeyPatch().setattr("typer.main.get_command", made)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    # pytest collects five times at its end, for what __del__ of the tests' things raises; the first finds it all.
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Belongings:
    """What a test could leave on the machine, outside every namespace of its own."""

    namespaces: frozenset[str]
    children: frozenset[tuple[int, str]]
    orphans: frozenset[tuple[int, str]]
    labs: frozenset[str]
    descriptors: frozenset[str]
    devices: frozenset[str]
    routes: frozenset[str]
    nft_tables: frozenset[str]

    @classmethod
    def now(cls) -> Belongings:
        nft = _lines("nft", "list", "tables") if os.geteuid() == 0 else frozenset()
        routes = [_lines("ip", family, "route", "show", "table", "all") for family in ("-4", "-6")]
        return cls(
            namespaces=_names(Path("/run/netns"), _PREFIX),
            children=frozenset(_identity(child) for child in psutil.Process().children(recursive=True)),
            orphans=frozenset(_identity(process) for process in psutil.process_iter() if _is_ours(process)),
            labs=_names(RUN_DIR, _PREFIX),
            descriptors=_descriptors(),
            devices=_names(Path("/sys/class/net")),
            routes=frozenset().union(*routes),
            nft_tables=nft,
        )

    def left_since(self, before: Belongings) -> list[str]:
        return [
            f"{field.name}: {item}"
            for field in fields(self)
            for item in sorted(getattr(self, field.name) - getattr(before, field.name))
        ]


@pytest.fixture(scope="session", autouse=True)
def _mark_descendants() -> None:
    os.environ[_MARK] = str(os.getpid())


@pytest.fixture(scope="session")
def nursery(_mark_descendants: None) -> Iterator[Nursery]:
    """Starts this run's gateways, other `fwd`, and the tests' tools."""
    with contextlib.closing(Nursery()) as made, forking(made):
        yield made


@pytest.fixture(scope="session", autouse=True)
def _no_namespaces_of_runs_that_were_killed() -> None:
    """What SIGKILL ended could not clean up: a namespace of a run that is no more, in which nobody is, goes."""
    for name in _names(Path("/run/netns"), "t") if os.geteuid() == 0 else ():
        run = re.match(r"t(\d+)-", name)
        if run and not Path("/proc", run[1]).exists():
            with contextlib.suppress(subprocess.CalledProcessError):  # another worker was faster
                if not _lines("ip", "netns", "pids", name):
                    subprocess.run(["ip", "netns", "delete", name], check=True, capture_output=True)


@pytest.fixture(
    params=[False, pytest.param(True, marks=pytest.mark.long)],
    ids=["once", "every time"],
)
def every_time(request: pytest.FixtureRequest) -> bool:
    """For a test that breaks a process at each place of the code: at each time it comes there, or just once a place."""
    return bool(request.param)


@pytest.fixture
def undo() -> Iterator[contextlib.ExitStack]:
    """What is to be closed when the test ends."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def needs_user_namespaces() -> None:
    """For a test that tries something without root: containers may forbid user namespaces."""
    tried = subprocess.run(["unshare", "--user", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no user namespace can be made here: {tried.stderr.strip()}")


@pytest.fixture
def needs_netns(nursery: Nursery) -> Iterator[None]:
    """For a test that needs root, TUN and namespaces: skips with the reason, and looks after the test."""
    if reason := why_not():
        pytest.skip(reason)
    before = Belongings.now()
    yield
    left = Belongings.now().left_since(before)
    assert not left, "left behind: " + "; ".join(left)


@pytest.fixture
def lab_name(needs_netns: None) -> Iterator[str]:
    """A name for a lab that the test brings up by itself, say with `fwd lab up --name`; always taken down."""
    name = f"{_PREFIX}{next(_serial)}"
    yield name
    _take_down(name)


@pytest.fixture
def lab(needs_netns: None) -> Iterator[Callable[..., Topology]]:
    """Makes labs with names of their own, `lab(router=True, …)`, brings them up, and always takes them down."""
    names: list[str] = []

    def make(**parameters: Any) -> Topology:
        topology = Topology(f"{_PREFIX}{next(_serial)}", **parameters)
        names.append(topology.name)
        topology.up()
        return topology

    yield make
    for name in names:
        _take_down(name)


def _take_down(name: str) -> None:
    topology = Topology(name)
    gateways.stop(topology)
    topology.down()


def _names(directory: Path, prefix: str = "") -> frozenset[str]:
    return frozenset(entry.name for entry in directory.glob(f"{prefix}*"))


def _lines(*argv: str) -> frozenset[str]:
    output = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    # "expires 123sec" counts down by itself.
    return frozenset(line.partition(" expires ")[0].strip() for line in output.splitlines())


def _identity(process: psutil.Process) -> tuple[int, str]:
    try:
        return process.pid, " ".join(process.cmdline()[:8]) or process.name()
    except psutil.Error:
        return process.pid, "ended meanwhile"


def _is_ours(process: psutil.Process) -> bool:
    """Was it started, over whatever descendants, by this run? The environment tells, even of a daemon."""
    try:
        return bool(process.environ().get(_MARK) == str(os.getpid()))
    except psutil.Error:
        return False


def _descriptors() -> frozenset[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue  # the descriptor that listed the directory
    return frozenset(found)
