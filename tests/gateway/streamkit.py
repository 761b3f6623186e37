"""TCP streams between two clients that end after a while and begin anew, for as long as something is changed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator

from gwkit import Pair

from fwd.lab import tools

TOOL = "fwd.lab.streams"
STREAMS, STREAM_S, BLOCK_BYTES = 16, 20, 35_000  # of each 4 Mbit/s, both ways


@contextlib.contextmanager
def streams(pair: Pair, said: list[str]) -> Iterator[None]:
    """Keep streams while the block runs; `said` has what came of each: "done", or why it was not whole."""
    ask = [TOOL, "ask", pair.topology.address("client2"), str(STREAMS), str(STREAM_S)]
    with (
        tools.tool(pair.topology, "client2", [TOOL, "answer"]),
        tools.tool(pair.topology, "client1", [*ask, "--block-bytes", str(BLOCK_BYTES)]) as client,
    ):
        yield
        client.terminate()
        told = json.loads(tools.output(client))
        said += ["done"] * told["ended"] + told["broken"]
