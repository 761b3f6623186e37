"""`fwd controller` as a process of its own, with its state in a test's directory."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from portkit import free_ports

from fwd.controller import keys
from fwd.lab.waiting import until

LIMIT_S = 60


class Running:
    """One that leads. `log`: what it has said, once it has ended."""

    def __init__(self, directory: Path, more: str = "") -> None:
        port = free_ports(socket.SOCK_STREAM, 1)[0]
        self.state, self.url, self.log = directory / "state", f"https://127.0.0.1:{port}", ""
        self.process = start(written(directory, port, more))

    def client(self) -> httpx.Client:
        """Who asks as the first admin, if there is one yet."""
        context = ssl.create_default_context(cafile=self.state / keys.CA_PEM)
        token = self.state / keys.ADMIN_TOKEN
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
        return httpx.Client(base_url=self.url, verify=context, trust_env=False, timeout=30, headers=headers)

    def wait(self) -> None:
        """Until it leads and lets its admin in."""
        until(lambda: self.process.poll() is not None or self._leads(), "the controller leads", LIMIT_S)
        assert self.process.poll() is None, self.process.communicate()

    def _leads(self) -> bool:
        try:
            with self.client() as client:
                return client.get("/v1/vpcs").status_code == client.get("/healthz").status_code == 200
        except (OSError, httpx.HTTPError):
            return False

    def stop(self) -> int:
        """End it: its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            _, self.log = self.process.communicate(timeout=LIMIT_S)
        finally:
            self.process.kill()
        return self.process.returncode


def written(directory: Path, port: int, more: str = "") -> Path:
    """Write a configuration. `more`: lines behind those of the first table."""
    path = directory / "controller.toml"
    lines = (f'listen = "127.0.0.1:{port}"', f'url = "https://127.0.0.1:{port}"', f'state = "{directory / "state"}"')
    path.write_text("\n".join(["[controller]", *lines, more]))
    return path


def start(config: Path, within: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start one. `within`: what runs it, such as `ip netns exec`."""
    argv = [*within, sys.executable, "-m", "fwd", "controller", "--config", str(config)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def running(directory: Path, more: str = "") -> Iterator[Running]:
    """One that leads, for as long as it is needed; it ends well."""
    one = Running(directory, more)
    try:
        one.wait()
        yield one
    finally:
        status = one.stop()
    assert status == 0, one.log
