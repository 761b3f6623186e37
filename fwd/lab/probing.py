"""Numbered probes from client1 to client2 while a block runs (`probe.py`), and what became of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final

from fwd.lab import flows, probe, tools
from fwd.lab.hosts import Hosts

PORT: Final = 7777
SOURCE_PORT: Final = 20000  # the first
_UDP: Final = 17


def ports(hosts: Hosts, members: int, first: int = SOURCE_PORT, *, steered: bool = False) -> list[int]:
    """Return for each member the source port of a flow of probes that it carries while all live."""
    return flows.port_of_each_member(flows.between_clients(hosts, members, PORT, _UDP, steered=steered), members, first)


class Probes:
    """The probes' sender and receiver, both running."""

    def __init__(self, sender: subprocess.Popen[str], receiver: subprocess.Popen[str], directory: Path) -> None:
        self._sender, self._receiver = sender, receiver
        self.directory = directory

    def end(self) -> None:
        """Have the sender end now, and not when its time is over."""
        self._sender.terminate()

    @cached_property
    def sent(self) -> dict[int, probe.Sent]:
        """By source port; waits for the sender's end."""
        return probe.read_sent(tools.output(self._sender))

    @cached_property
    def came(self) -> dict[int, probe.Arrived]:
        """By source port, from the first that was sent to the last; ends the receiver once the sender has ended."""
        sent = self.sent
        tools.stop(self._receiver)
        got = probe.read_arrived(_result(self.directory).read_text())
        return {port: probe.merge(sent[port], got.get(port)) for port in sent}

    @cached_property
    def arrivals(self) -> dict[int, probe.Ints]:
        """Every arrival (probe.Receiver.arrivals), by source port, of flows that any came of."""
        assert self.came
        return probe.read_arrivals(_arrivals(self.directory))


@contextmanager
def probing(
    hosts: Hosts, directory: Path, ports: Sequence[int], seconds: float, *, magic: str = "", rate_hz: float = 1000.0
) -> Iterator[Probes]:
    """Send probes on these flows for `seconds`; neither end outlives the block. Raises LabError.

    `magic`: 32 hexadecimal digits that they bear, by which a capture finds them. `directory` is for the results.
    """
    common = ["--magic", magic or os.urandom(16).hex(), "--seconds"]
    receive = ["fwd.lab.probe", "receive", "--port", str(PORT), "--out", str(_result(directory))]
    receive += ["--arrivals", str(_arrivals(directory)), *common, str(seconds + tools.END_TIMEOUT_S)]
    send = ["fwd.lab.probe", "send", "--to", f"{hosts.address('client2')}:{PORT}", "--rate", f"{rate_hz:g}"]
    send += [word for port in ports for word in ("--from-port", str(port))]

    # The receiver first, so that nothing sent is lost for want of it.
    with (
        tools.tool(hosts, "client2", receive) as receiver,
        tools.tool(hosts, "client1", [*send, *common, str(seconds)], waits_ready=False) as sender,
    ):
        yield Probes(sender, receiver, directory)


def _result(directory: Path) -> Path:
    return directory / "probes.json"


def _arrivals(directory: Path) -> Path:
    return directory / "arrivals.npz"
