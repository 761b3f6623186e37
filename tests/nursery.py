"""Starts `fwd` without the second of CPU that its imports take: a process that has made them forks one after the other.

Run as a program this file is that process. What it forks moves into a host's namespace as `ip netns exec` does, has the
caller's environment, input and output, and nothing else from here; then it is `python -P -m fwd`, or another module or
script, from its first line to its exit functions. It was never executed, and its interpreter is not taken apart: what
depends on that is to start `fwd` in earnest. `forking.py` has the tests' tools and commands forked here, too.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
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
    """A program that the nursery has forked, and reaps: it tells the exit status."""

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
        self._asking = threading.Lock()
        with theirs:
            argv = [sys.executable, "-P", __file__, str(theirs.fileno())]
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )

    def close(self) -> None:
        self._socket.close()
        assert self._process.wait(60) == 0

    def fork(
        self, namespace: Path | None, program: Sequence[str], streams: Sequence[int], environment: Mapping[str, str]
    ) -> Forked:
        """Start what `python -P` would start with these words, in a network namespace or where the caller is.

        `streams`: its input, output and errors.
        """
        with (namespace or Path("/proc/self/ns/net")).open("rb") as net, self._asking:
            message = json.dumps([namespace is not None, list(program), dict(environment)]).encode()
            assert len(message) < _MESSAGE_MAX
            socket.send_fds(self._socket, [message], [net.fileno(), *streams])
            pid, fds, *_ = socket.recv_fds(self._socket, 16, 2)
        return Forked(program, int(pid), *fds)

    def start(self, namespace: Path, arguments: Sequence[str], stdout: IO[bytes], stderr: IO[bytes]) -> Forked:
        """Start `fwd` with these arguments in a network namespace."""
        with Path(os.devnull).open("rb") as nothing:
            streams = [nothing.fileno(), stdout.fileno(), stderr.fileno()]
            return self.fork(namespace, ["-m", "fwd", *arguments], streams, os.environ)

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
        return subprocess.CompletedProcess(["fwd", *arguments], status, *said)


def _all_of(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


# -- the process that forks ---------------------------------------------------------------------------------------


def _serve(server: socket.socket) -> list[str] | None:
    """Fork for whoever asks. Returns the program in each child, and None when nobody is left to ask."""
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
            message, fds, *_ = socket.recv_fds(server, _MESSAGE_MAX, 4)
            if not message:
                return None
            moves, program, environment = json.loads(message)
            _import_for(program)
            pid = os.fork()
            if not pid:
                server.detach()
                _take_over(*fds[1:])
                if moves:
                    _move(fds[0])
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                os.environ.clear()
                os.environ.update(environment)
                return list(program)
            for given in fds:
                os.close(given)
            told, tell = os.pipe()
            pidfd = os.pidfd_open(pid)
            alive[pidfd] = pid, tell
            poll.register(pidfd, select.POLLIN)
            socket.send_fds(server, [str(pid).encode()], [pidfd, told])
            os.close(told)


def _take_over(*streams: int) -> None:
    """Give a new process its input, output and errors."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)


def _move(net: int) -> None:
    """Take a new process to its namespace, as `ip netns exec` does."""
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


def _run(program: Sequence[str]) -> None:
    """Be `python -P` with these words."""
    how, what, *arguments = program
    if how == "-m" and what == "fwd":
        import fwd.cli

        sys.argv = [fwd.cli.__file__, *arguments]
        fwd.cli.main()
    elif how == "-m":
        sys.argv = ["-m", *arguments]
        sys.modules.pop(what, None)  # imported here only
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = ["-c", *arguments]
        sys.modules["__main__"] = main = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


def _end(status: object) -> NoReturn:
    """End as an interpreter does, but for freeing its modules: that would copy all the pages that are shared here."""
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status or 0)


def _import_for(program: Sequence[str]) -> None:
    """Import what not every program needs, before the first that does is forked."""
    if list(program[:3]) == ["-m", "fwd", "controller"] and "fwd.controller.service" not in sys.modules:
        _share_all()


def _warm() -> None:
    """Work out once what each `fwd` would work out for itself, the same whatever its arguments are."""
    import typer.main

    import fwd.cli
    import fwd.control.join
    import fwd.lab.commands
    import fwd.router.service
    import fwd.supervise.running  # what `fwd demux` imports last
    from fwd.proto import flow

    made = functools.cache(typer.main.get_command)
    typer.main.get_command = made
    made(fwd.cli.app)
    flow.scores_of(0)
    _share_all()


def _share_all() -> None:
    """Have the collector of garbage leave alone what is there: it would write to pages, and so copy those shared."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _warm()
    wanted = _serve(socket.socket(fileno=int(sys.argv[1])))
    if wanted is not None:
        try:
            _run(wanted)
        except SystemExit as ending:
            _end(ending.code)
        _end(0)
