"""Starts `fwd` without the second of CPU that its imports take: a process that has made them forks one after the other.

Run as a program this file is that process. What it forks moves into a host's namespace as `ip netns exec` does, has the
caller's environment and output, and nothing else from here; then it is `python -P -m fwd` from its first line to its
exit functions. It was never executed, has no pipe, and its interpreter is not taken apart: what depends on that is to
start `fwd` in earnest.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NoReturn, Protocol

_NEWNS, _NEWNET = 0x20000, 0x40000000  # sched.h
_RDONLY, _REC, _SLAVE = 1, 0x4000, 1 << 19  # sys/mount.h
_DETACH = 2
_MESSAGE_MAX = 1 << 16


class Running(Protocol):
    """A process that was started: what of `subprocess.Popen` is asked of it."""

    pid: int

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


class Forked:
    """A `fwd` that the nursery has forked, and reaps: it tells the exit status."""

    def __init__(self, argv: Sequence[str], pid: int, pidfd: int, told: int) -> None:
        self.args = argv
        self.pid = pid
        self.returncode: int | None = None
        self._pidfd = pidfd
        self._told = told

    def poll(self) -> int | None:
        return self._ended(0.0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._ended(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        return status

    def send_signal(self, sig: int, /) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._told)
            if not poll.poll(None if timeout is None else timeout * 1000):
                return None
            self.returncode = int(os.read(self._told, 16))
            os.close(self._told)
            os.close(self._pidfd)
        return self.returncode


class Nursery:
    """The process that forks, as its user sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    def close(self) -> None:
        self._socket.close()
        assert self._process.wait(60) == 0

    def start(self, namespace: Path, arguments: Sequence[str], stdout: IO[bytes], stderr: IO[bytes]) -> Forked:
        """Start `fwd` with these arguments in a network namespace."""
        with namespace.open("rb") as net:
            message = json.dumps([list(arguments), dict(os.environ)]).encode()
            assert len(message) < _MESSAGE_MAX
            socket.send_fds(self._socket, [message], [net.fileno(), stdout.fileno(), stderr.fileno()])
        pid, fds, *_ = socket.recv_fds(self._socket, 16, 2)
        return Forked(["fwd", *arguments], int(pid), *fds)

    def run(self, namespace: Path, arguments: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """Run `fwd` to its end."""
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.start(namespace, arguments, stdout, stderr)
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            said = [_all_of(file) for file in (stdout, stderr)]
        return subprocess.CompletedProcess(process.args, status, *said)


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


# -- the process that forks ---------------------------------------------------------------------------------------


def _serve(server: socket.socket) -> list[str] | None:
    """Fork for whoever asks. Returns the arguments in each child, and None when nobody is left to ask."""
    poll = select.poll()
    poll.register(server, select.POLLIN)
    alive: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its exit status is told
    while True:
        for fd, _ in poll.poll():
            if fd in alive:
                poll.unregister(fd)
                pid, tell = alive.pop(fd)
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(tell, str(status).encode())
                os.close(tell)
                os.close(fd)
                continue
            message, fds, *_ = socket.recv_fds(server, _MESSAGE_MAX, 3)
            if not message:
                return None
            arguments, environment = json.loads(message)
            pid = os.fork()
            if not pid:
                server.detach()
                _move(*fds)
                os.environ.clear()
                os.environ.update(environment)
                return list(arguments)
            for given in fds:
                os.close(given)
            told, tell = os.pipe()
            pidfd = os.pidfd_open(pid)
            alive[pidfd] = pid, tell
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(server, [str(pid).encode()], [pidfd, told])
            os.close(told)


def _move(net: int, stdout: int, stderr: int) -> None:
    """Take a new process to its namespace, as `ip netns exec` does, and its output to where it is wanted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    libc = ctypes.CDLL(None, use_errno=True)
    read_only = os.statvfs("/sys").f_flag & _RDONLY
    for done in (
        libc.setns(net, _NEWNET),
        libc.unshare(_NEWNS),
        libc.mount(b"", b"/", b"none", _SLAVE | _REC, None),
        libc.umount2(b"/sys", _DETACH),
        libc.mount(b"net", b"/sys", b"sysfs", read_only, None),
    ):
        if done:
            raise OSError(ctypes.get_errno(), "moving into the namespace")
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))


def _end(status: object) -> NoReturn:
    """End as an interpreter does, but for freeing its modules: that would copy all the pages that are shared here."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    assert status is None or isinstance(status, int)
    os._exit(status or 0)


def _warm() -> None:
    """Work out once what each `fwd` would work out for itself, the same whatever its arguments are."""
    import typer.main

    import fwd.cli
    import fwd.supervise.running  # what `fwd demux` imports last
    from fwd.proto import flow

    made = functools.cache(typer.main.get_command)
    typer.main.get_command = made
    made(fwd.cli.app)
    flow.scores_of(0)

    # The collector of garbage would write to pages that are shared with those that are forked, which copies them.
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm()
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        import fwd.cli

        sys.argv = [fwd.cli.__file__, *wanted]
        try:
            fwd.cli.main()
        except SystemExit as ending:
            _end(ending.code)
