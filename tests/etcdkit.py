"""A real etcd of one or three members, on loopback, for one test; `inside`: how a program is run on another host."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from portkit import free_ports

from fwd.lab.waiting import until


class Etcd:
    """The members and their endpoints."""

    def __init__(self, directory: Path, members: int = 1, inside: Sequence[str] = ()) -> None:
        program = shutil.which("etcd")
        assert program, "etcd is missing: apt-get install etcd-server"
        ports = free_ports(socket.SOCK_STREAM, 2 * members)
        peers = ",".join(f"m{n}=http://127.0.0.1:{ports[2 * n + 1]}" for n in range(members))
        self.endpoints = [f"http://127.0.0.1:{ports[2 * n]}" for n in range(members)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self._commands = []
        for n, endpoint in enumerate(self.endpoints):
            peer = f"http://127.0.0.1:{ports[2 * n + 1]}"
            argv = [*inside, program, "--name", f"m{n}", "--data-dir", str(directory / f"m{n}"), "--log-level", "error",
                    "--listen-client-urls", endpoint, "--advertise-client-urls", endpoint,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", peers]  # fmt: skip
            self._commands.append((argv, directory / f"m{n}.log"))
            self.processes.append(self._start(n))

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        argv, path = self._commands[number]
        with path.open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log)

    def kill(self, *numbers: int) -> None:
        """SIGKILL some members."""
        for number in numbers:
            self.processes[number].kill()
            self.processes[number].wait()

    def start_again(self, *numbers: int) -> None:
        """Start members that were killed, with what they have on their disks."""
        for number in numbers:
            self.processes[number] = self._start(number)

    def wait(self) -> None:
        """Until it takes writes."""
        until(self._healthy, "etcd takes writes", 60.0)

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoints[0]}/health", timeout=2) as answer:
                return b'"true"' in answer.read()
        except OSError:
            return False

    def stop(self) -> None:
        """End its members."""
        for process in self.processes:
            process.kill()
            process.wait()
