"""What the supervisor asks of nft and of sockets' paths ends, whatever is at the other side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fwd.proto.errors import UserError
from fwd.supervise import network, sockets


def _nft(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_nft_that_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = _nft(tmp_path / "nft", "exec sleep 60")
    monkeypatch.setattr(network.shutil, "which", lambda *_, **__: binary)  # type: ignore[attr-defined]
    monkeypatch.setattr(network, "_NFT_S", 0.2)
    with pytest.raises(UserError, match="does not answer"):
        network.set_tables([""])


def test_nft_that_cannot_begin_leaves_the_other_guard_to_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.shutil, "which", lambda *_, **__: None)  # type: ignore[attr-defined]
    wait = network.begin_tables([""])
    with pytest.raises(UserError, match="nft is missing"):
        wait()


def test_interrupting_fwd_does_not_interrupt_nft(tmp_path: Path) -> None:
    """^C goes to all of the terminal's processes; one that removes a guard must carry it out."""
    script = (
        "import os, shutil, signal, sys; from fwd.supervise import network\n"
        "shutil.which = lambda *_, **__: sys.argv[1]\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "os.setpgid(0, 0)\n"
        "print(network._nft(''), end='')\n"
    )
    until_told = f"until [ -e {tmp_path}/go ]; do sleep 0.01; done"
    binary = _nft(tmp_path / "nft", f"touch {tmp_path}/begun; {until_told}; echo well")
    argv = [sys.executable, "-c", script, binary]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go").touch()
        assert process.communicate(timeout=30) == ("well\n", None)


def test_the_control_socket_of_one_that_is_frozen_is_not_waited_for(tmp_path: Path) -> None:
    """It is there, though nobody takes connections from its queue, which is full."""
    path = tmp_path / "control"
    held = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as frozen:
        frozen.bind(str(path))
        frozen.listen(1)
        for _ in range(5):
            held.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            held[-1].setblocking(False)
            held[-1].connect_ex(str(path))
        with pytest.raises(UserError, match="another fwd answers there"):
            sockets.listen_unix(path)
    for sock in held:
        sock.close()
    sockets.listen_unix(path).close()


@pytest.mark.parametrize("dead", [False, True])
def test_of_two_that_start_at_once_the_later_one_does_not_take_the_others_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    path, began = tmp_path / "control", list[socket.socket]()
    if dead:
        sockets.listen_unix(path).close()

    class Slow(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            monkeypatch.undo()
            monkeypatch.setattr(os, "getpid", lambda: 1)
            began.append(sockets.listen_unix(path))
            super().listen(backlog)

    monkeypatch.setattr(socket, "socket", Slow)
    with pytest.raises(UserError, match="File exists"):
        sockets.listen_unix(path)
    (first,) = began
    with first, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect(str(path))
        assert first.accept()
    assert [one.name for one in tmp_path.iterdir()] == ["control"]


@pytest.mark.parametrize("listen", [sockets.listen_unix, sockets.listen_admin])
def test_who_sees_a_sockets_name_can_ask_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: Callable[[Path], socket.socket]
) -> None:
    path = tmp_path / "control"

    class Watched(socket.socket):
        def listen(self, backlog: int = 0) -> None:
            assert not path.exists(), "the name was there before anybody listened"
            super().listen(backlog)

    with monkeypatch.context() as patched:
        patched.setattr(socket, "socket", Watched)
        listening = listen(path)
    with listening, socket.socket(socket.AF_UNIX, listening.type) as asking:
        asking.connect(str(path))
    assert [one.name for one in tmp_path.iterdir()] == ["control"], "and nothing else is left"
