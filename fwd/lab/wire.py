"""A capture on the wire while a block runs (`capture.py`), and what it saw."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fwd.lab import tools
from fwd.lab.hosts import Hosts


@contextmanager
def watched(
    hosts: Hosts, host: str, directory: Path, outer: Sequence[str], *options: str, iface: str = "wan"
) -> Iterator[dict[str, Any]]:
    """Capture on a host's interface what the `outer` addresses send one another; filled in when the block has ended.

    `directory` is for the capture's result, `options` are its own (`python -m fwd.lab.capture --help`). Raises LabError
    if it does not start or end.
    """
    out = directory / "capture.json"
    argv = ["fwd.lab.capture", "--iface", iface, "--out", str(out), *options]
    argv += [word for address in outer for word in ("--outer", address)]
    seen: dict[str, Any] = {}
    with tools.tool(hosts, host, argv) as capture:
        yield seen
        tools.stop(capture)
    seen |= json.loads(out.read_text())
    out.unlink()


def missed(seen: dict[str, Any]) -> str:
    """Return why what a capture has seen proves nothing; empty if it does."""
    drops = seen["capture_drops"]
    return f"the capture missed {drops} frames: nobody knows what they were" if drops else ""
