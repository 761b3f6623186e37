"""A real etcd of one or three members, on loopback, for one test."""

from __future__ import annotations

import shutil
import socket
import subprocess
import urllib.request
from pathlib import Path

from portkit import free_ports

from fwd.lab.waiting import until


class Etcd:
    """The members and their endpoints."""

    def __init__(self, directory: Path, members: int = 1) -> None:
        program = shutil.which("etcd")
        assert program, "etcd is missing: apt-get install etcd-server"
        ports = free_ports(socket.SOCK_STREAM, 2 * members)
        peers = ",".join(f"m{n}=http://127.0.0.1:{ports[2 * n + 1]}" for n in range(members))
        self.endpoints = [f"http://127.0.0.1:{ports[2 * n]}" for n in range(members)]
        self.processes = []
        for n, endpoint in enumerate(self.endpoints):
            peer = f"http://127.0.0.1:{ports[2 * n + 1]}"
            argv = [program, "--name", f"m{n}", "--data-dir", str(directory / f"m{n}"), "--log-level", "error",
                    "--listen-client-urls", endpoint, "--advertise-client-urls", endpoint,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", peers]  # fmt: skip
            log = (directory / f"m{n}.log").open("wb")
            self.processes.append(subprocess.Popen(argv, stdout=log, stderr=log))
            log.close()

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
