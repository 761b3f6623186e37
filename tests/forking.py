"""`subprocess.Popen` that has the nursery fork what is a Python program and nothing special, in a namespace or not.

The caller sees no difference: pipes, `communicate`, exit status and signals are those of `subprocess`. Executed as ever
is `fwd demux`, for which a test asks the nursery itself, and whatever has another program before it, a directory, a
session or descriptors of its own, or other variables for the interpreter.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from nursery import Forked, Nursery

_EXECUTE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_IN_NAMESPACE = ("ip", "netns", "exec")
# What is to be as it is when nobody says anything of it.
_USUAL: Mapping[str, Any] = {
    "executable": None,
    "preexec_fn": None,
    "close_fds": True,
    "pass_fds": (),
    "cwd": None,
    "shell": False,
    "gid": None,
    "gids": None,
    "uid": None,
    "umask": -1,
    "start_new_session": False,
}


class Popen(subprocess.Popen[Any]):
    """See the module."""

    nursery: ClassVar[Nursery]
    _forked: Forked | None = None

    def _execute_child(self, *values: Any, **named: Any) -> None:
        given = _EXECUTE.bind(self, *values, **named).arguments
        environment = os.environ if given["env"] is None else given["env"]
        found = forkable(given["args"])
        if found is None or not _is_usual(given, environment):
            super()._execute_child(*values, **named)  # type: ignore[misc]
            return

        # Where no pipe or file is given, the caller's own.
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        streams = [number if stream == -1 else stream for number, stream in enumerate(streams)]
        namespace, program = found
        self._forked = self.nursery.fork(namespace, program, streams, environment)
        self.pid, self._child_created = self._forked.pid, True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[end] for end in ends))  # type: ignore[attr-defined]

    def _internal_poll(self, *values: Any, **named: Any) -> int | None:
        if self._forked is None:
            return super()._internal_poll(*values, **named)  # type: ignore[misc, no-any-return]
        self.returncode = self._forked.poll()
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if self._forked is None:
            return super()._wait(timeout)  # type: ignore[misc, no-any-return]
        try:
            self.returncode = self._forked.wait(timeout)
        except subprocess.TimeoutExpired:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout) from None
        return self.returncode

    def send_signal(self, sig: int) -> None:
        if self._forked is None:
            super().send_signal(sig)
        else:
            self._forked.send_signal(sig)


def forkable(argv: Sequence[object]) -> tuple[Path | None, list[str]] | None:
    """Return the namespace and the Python program of a command, if it is one that can be forked."""
    if isinstance(argv, (str, bytes, os.PathLike)):
        return None
    words, namespace = [str(word) for word in argv], None
    if tuple(words[:3]) == _IN_NAMESPACE:
        namespace, words = Path("/run/netns") / words[3], words[4:]
    if words[:1] != [sys.executable]:
        return None
    program = words[2:] if words[1:2] == ["-P"] else words[1:]
    match program:
        case ["-m", "fwd", "demux", *_]:
            return None
        case ["-m", module, *_] if module.partition(".")[0] == "fwd":
            return namespace, program
        case ["-c", _, *_]:
            return namespace, program
    return None


def _is_usual(given: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    def of_python(variables: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in variables.items() if name.startswith("PYTHON")}

    return all(given[name] == value for name, value in _USUAL.items()) and of_python(environment) == of_python(
        os.environ
    )


@contextlib.contextmanager
def forking(nursery: Nursery) -> Iterator[None]:
    """Have `subprocess` fork by this nursery while the block runs."""
    Popen.nursery = nursery
    with mock.patch.object(subprocess, "Popen", Popen):
        yield
