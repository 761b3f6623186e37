"""Hosts on which the lab runs commands, each in its own network: namespaces, or the testbed's containers."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Hosts(ABC):
    """Some hosts by name; a kind of them says how a command gets there."""

    @abstractmethod
    def address(self, host: str) -> str:
        """Return the address of a host."""

    @abstractmethod
    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        """Return what runs `argv` in a host's network, with a pid that is the command's own."""

    def run(self, host: str, argv: Sequence[str], check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on a host to its end; captures its output unless `kw` redirects it."""
        if "stdout" not in kw and "stderr" not in kw:
            kw.setdefault("capture_output", True)
        return subprocess.run(self.command(host, argv), check=check, text=True, **kw)

    def popen(self, host: str, argv: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        """Start a command on a host; the returned pid is the command's own."""
        return subprocess.Popen(self.command(host, argv), **kw)

    def ping(self, *options: str, host: str = "client1", to: str = "", count: int = 1) -> bool:
        """Whether a client is answered, by the other one if it is not said by whom."""
        return self.ping_output(*options, host=host, to=to, count=count).returncode == 0

    def ping_output(
        self, *options: str, host: str = "client1", to: str = "", count: int = 1
    ) -> subprocess.CompletedProcess[str]:
        """Run a client's ping to its end; of two `options` the later one holds."""
        to = to or self.address("client2" if host == "client1" else "client1")
        return self.run(host, ["ping", "-n", "-c", str(count), "-i", "0.05", "-W", "1", *options, to], check=False)
