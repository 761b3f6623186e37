"""No fork keeps the supervisor's terminal, session, standard descriptors or files, whatever it is forked for."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fwd.datapath.shared import GatewayShared
from fwd.keyd import generate
from fwd.model.keys import PskKeys
from fwd.proto.errors import UserError
from fwd.supervise import examine, names, privileges
from fwd.supervise.children import Child
from fwd.supervise.reading import Reading

USER = (65534, 65534)
LONG_S = 60.0


def look_up_a_name(_: Path) -> None:
    lookup = names.begin(("gw.example", 4), USER, time.monotonic())
    os.waitid(os.P_PID, lookup.pid, os.WEXITED | os.WNOWAIT)
    names.end(lookup)


def read_a_configuration(path: Path) -> None:
    with path.open("rb") as file:
        child = Reading(file.fileno(), "new.toml", USER, time.monotonic())
    os.waitid(os.P_PID, child._pid, os.WEXITED | os.WNOWAIT)
    child.end()
    assert child.is_gone()


def examine_secrets(path: Path) -> None:
    with pytest.raises(UserError):
        examine.open_examined(PskKeys(source="psk", secret=path), USER)


def rehearse(_: Path) -> None:
    with pytest.raises(UserError):
        privileges.rehearse(*USER, lambda: privileges.drop(*USER, 0))


def start_a_child(_: Path) -> None:
    child = Child("x/member-0", GatewayShared().keyd, set, lambda child: lambda: 0)
    child.start(USER, time.monotonic(), lambda pidfd: None)
    child.reap(time.monotonic())
    child.forget()
    child.close()


KINDS = [look_up_a_name, read_a_configuration, examine_secrets, rehearse, start_a_child]
SHORT = [look_up_a_name, read_a_configuration, examine_secrets]


def seen() -> dict[str, Any]:
    """What a process has of its own."""
    fds = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the listing's own
    return {
        "fds": fds,
        "session": os.getsid(0),
        "terminal": Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[4],
        "wakes": signal.set_wakeup_fd(-1),
        "handled": [n for n in (1, 2, 15, 17) if callable(signal.getsignal(n))],
        "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
        "file": resource.getrlimit(resource.RLIMIT_FSIZE)[0],
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


@pytest.fixture
def forked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], dict[str, Any]]:
    """Forks; gives what the fork has when it is about to give up root, where it ends."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listening.bind(str(tmp_path / "told"))
    listening.settimeout(LONG_S)

    def tell(*_: object) -> None:
        told = json.dumps(seen()).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(told, str(tmp_path / "told"))
        os._exit(0)

    def fork(kind: Callable[[Path], None]) -> dict[str, Any]:
        generate.write_psk(tmp_path / "psk")
        kind(tmp_path / "psk")
        told: dict[str, Any] = json.loads(listening.recv(1 << 16))
        return told

    monkeypatch.setattr(privileges, "drop", tell)
    return fork


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_a_fork_has_nothing_of_the_terminal_and_the_log_that_fwd_was_started_with(
    kind: Callable[[Path], None], forked: Callable[[Callable[[Path], None]], dict[str, Any]]
) -> None:
    ours, told = seen(), forked(kind)
    has = told["fds"]
    assert told["session"] != ours["session"]
    assert told["terminal"] == "0"
    assert has["0"] == os.devnull
    assert has["1"] == has["2"]
    is_logs_pipe = has["1"].startswith("pipe:") and has["1"] not in ours["fds"].values()
    assert has["1"] == os.devnull or (is_logs_pipe and kind is start_a_child)
    assert not told["handled"]
    assert told["wakes"] == -1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_a_fork_has_no_descriptor_that_is_not_its_own(
    kind: Callable[[Path], None], forked: Callable[[Callable[[Path], None]], dict[str, Any]], tmp_path: Path
) -> None:
    with (tmp_path / "secret of others").open("wb") as file:
        told = forked(kind)
        assert file.name not in told["fds"].values()
    assert len(told["fds"]) <= 5  # standard ones, what it says, and what it is to look at


@pytest.mark.parametrize("kind", SHORT, ids=lambda kind: str(kind.__name__))
def test_a_fork_that_lives_for_a_moment_has_bounds(
    kind: Callable[[Path], None], forked: Callable[[Callable[[Path], None]], dict[str, Any]]
) -> None:
    told = forked(kind)
    assert told["file"] == 0
    assert told["memory"] != resource.RLIM_INFINITY
    assert told["descriptors"] < 512  # a few more than the test itself has open
