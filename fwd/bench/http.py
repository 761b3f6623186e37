"""Short HTTP requests a second: 64 at once from client1 by `ab` to nginx on client2, answers of 1 KiB.

Each over a connection of its own, or all over 64 that are kept. What is asked and not answered does not count. Refuses
(`LabError`): a program that is missing, a server that does not start, and no answer at all.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fwd.bench.tunnels.peer import require
from fwd.lab import tools
from fwd.lab.topology import Topology
from fwd.lab.waiting import Daemon, until
from fwd.lab.world import LabError

AT_ONCE: Final = 64
_ANSWER_BYTES = 1024
_PORT = 8080
_START_TIMEOUT_S = 5.0
_END_TIMEOUT_S = 60.0


@contextlib.contextmanager
def serving(topology: Topology) -> Iterator[None]:
    """client2 answers meanwhile."""
    require("nginx", "nginx")
    require("ab", "apache2-utils")
    with tempfile.TemporaryDirectory(prefix="fwd-bench-") as made:
        directory = Path(made)
        (directory / "nginx.conf").write_text(configuration(directory))
        argv = ["nginx", "-e", "stderr", "-p", made, "-c", str(directory / "nginx.conf")]
        log = directory / "log"
        with log.open("wb") as output:
            process = topology.popen("client2", argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        with tools.ended(process):
            listening = ["ss", "-Hltn", f"sport = :{_PORT}"]
            daemon = Daemon.of("client2's nginx", process, log)
            what = f"it listens on port {_PORT}"
            until(lambda: topology.run("client2", listening).stdout, what, _START_TIMEOUT_S, [daemon])
            yield


def configuration(directory: Path) -> str:
    """nginx's: one process, no log, the answer in memory."""
    return (
        f"daemon off;\nmaster_process off;\npid {directory}/pid;\nevents {{ worker_connections 1024; }}\n"
        "http {\n access_log off;\n keepalive_requests 100000000;\n"
        f" server {{\n  listen {_PORT} backlog=1024;\n  location / {{ return 200 '{'x' * _ANSWER_BYTES}'; }}\n }}\n}}\n"
    )


def run(topology: Topology, *, seconds: int, requests: int, kept: bool) -> float:
    """Requests answered a second, measured until so much time has passed, or so many have been sent."""
    argv = ["ab", "-q", "-r", "-t", str(seconds), "-n", str(requests), "-c", str(AT_ONCE)]
    argv += [*(["-k"] if kept else []), f"http://{topology.address('client2')}:{_PORT}/"]
    try:
        done = topology.run("client1", argv, check=False, timeout=seconds + _END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LabError(f"ab did not end within {seconds + _END_TIMEOUT_S:.0f} s") from None
    return answered_a_second(done.stdout)


def answered_a_second(output: str) -> float:
    """What ab's output says. Raises LabError if nothing was answered."""
    numbers = dict(re.findall(r"^(Complete requests|Failed requests|Time taken for tests): +([\d.]+)", output, re.M))
    try:
        answered = int(numbers["Complete requests"]) - int(numbers["Failed requests"])
        seconds = float(numbers["Time taken for tests"])
    except KeyError:
        raise LabError("ab gave no result") from None
    if answered <= 0 or seconds <= 0:
        raise LabError("no HTTP request is answered")
    return answered / seconds
