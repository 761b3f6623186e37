"""Running things on a lab's hosts, and being rid of them: a lab that stands for a block, tools that end with one.

Refuses: a tool that does not say it is ready, or does not end in time (`LabError`, one line).
"""

from __future__ import annotations

import contextlib
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, AnyStr

from fwd.lab import gateways
from fwd.lab.hosts import Hosts
from fwd.lab.topology import Topology
from fwd.lab.world import LabError

END_TIMEOUT_S = 60.0  # on a busy machine
_READY_TIMEOUT_S = 10.0


@contextlib.contextmanager
def standing(topology: Topology, **parameters: Any) -> Iterator[Topology]:
    """The lab with both gateways ready, started with `parameters` (gateways.start); gone when the block ends.

    What an earlier run left under this name goes first.
    """
    with ExitStack() as stack:
        stack.callback(topology.down)
        stack.callback(gateways.stop, topology)
        gateways.stop(topology)
        topology.down()
        topology.up()
        gateways.start(topology, **parameters)
        yield topology


@contextlib.contextmanager
def tool(
    topology: Hosts, host: str, argv: Sequence[str], *, waits_ready: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """One of the lab's own tools (a module and its arguments) in a host's namespace, ended on the way out."""
    command = [sys.executable, "-P", "-m", *argv]
    with ended(topology.popen(host, command, stdout=subprocess.PIPE, text=True)) as process:
        if waits_ready:
            await_ready(process, f"{host}: {argv[0]}")
        yield process


@contextlib.contextmanager
def ended(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Whatever happens, the process is gone and waited for."""
    with process:
        try:
            yield process
        finally:
            process.kill()


def alone(argv: Sequence[str]) -> list[str]:
    """`argv` with a /run of its own, so that a daemon finds no pid file or socket of another of its kind.

    `ip netns exec` has given it mounts of its own already; the pid remains the daemon's.
    """
    return ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh", *argv]


def output(process: subprocess.Popen[str]) -> str:
    """What a process that ends by itself has printed."""
    try:
        printed, _ = process.communicate(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"{process.args!r} did not end within {END_TIMEOUT_S:.0f} s") from None
    return printed


def stop(process: subprocess.Popen[str]) -> None:
    """Let a tool end by SIGTERM and write its result."""
    process.terminate()
    output(process)
    if process.returncode:
        raise LabError(f"{process.args!r} ended with status {process.returncode}")


def await_ready(process: subprocess.Popen[str], name: str) -> None:
    """Until a tool says that it is."""
    assert process.stdout is not None
    waiting = select.poll()
    waiting.register(process.stdout, select.POLLIN)
    if not waiting.poll(_READY_TIMEOUT_S * 1000) or process.stdout.readline() != "ready\n":
        raise LabError(f"{name} did not start")
