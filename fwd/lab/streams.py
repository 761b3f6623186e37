"""TCP streams with answers, between hosts of a lab, each of which ends after a while and begins anew.

`python -m fwd.lab.streams answer` sends back whatever comes. `… streams ask ADDRESS STREAMS SECONDS` keeps so many
streams, each of which sends a block every 65 ms, so that no router's slot of it falls idle, for so long; then it hears
all answers, ends, and another one from another port has its place. They begin together and first end one after the
other. At SIGTERM all end, and one JSON object is printed:

    ended       streams of which all came back
    broken      why others were not whole
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from typing import Final

from fwd.lab.arguments import OneLineParser, positive

PORT: Final = 7002
EVERY_S: Final = 0.065
BLOCK_BYTES: Final = 4096
_ANSWERS_S: Final = 30.0  # for all that is under way at a stream's end


async def _answer() -> None:
    """Send back whatever comes, for ever."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    both = socket.create_server(("", PORT), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
    server = await asyncio.start_server(meet, sock=both)
    print("ready", flush=True)
    await server.serve_forever()


class Streams:
    """Streams to one address, until `ending`."""

    def __init__(self, address: str, seconds: float, block_bytes: int) -> None:
        self._address, self._seconds, self._block_bytes = address, seconds, block_bytes
        self.ending = asyncio.Event()
        self.ended = 0
        self.broken: list[str] = []

    async def again_and_again(self, first_s: float) -> None:
        """Keep one stream, whose first life is so long."""
        seconds = first_s
        while not self.ending.is_set():
            try:
                await self._live(seconds)
                self.ended += 1
            except (OSError, EOFError, TimeoutError) as error:
                self.broken.append(str(error) or type(error).__name__)
                await asyncio.sleep(EVERY_S)
            seconds = self._seconds

    async def _live(self, seconds: float) -> None:
        """Be one stream to its end. Raises OSError, EOFError, TimeoutError."""
        reader, writer = await asyncio.open_connection(self._address, PORT)
        try:
            hearing = asyncio.create_task(_octets(reader))
            sent = 0
            async for _ in self._ticks(seconds):
                writer.write(bytes(self._block_bytes))
                sent += self._block_bytes
            writer.write_eof()
            heard = await asyncio.wait_for(hearing, _ANSWERS_S)
        finally:
            writer.close()
        if heard != sent:
            raise EOFError(f"{heard} of {sent} octets came back")

    async def _ticks(self, seconds: float) -> AsyncIterator[None]:
        """Give a moment every 65 ms, for so long."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while clock() < end and not self.ending.is_set():
            yield
            await asyncio.sleep(EVERY_S)


async def _octets(reader: asyncio.StreamReader) -> int:
    """Count what comes until the other side ends it."""
    heard = 0
    while data := await reader.read(1 << 16):
        heard += len(data)
    return heard


async def _ask(address: str, count: int, seconds: float, block_bytes: int) -> None:
    """Keep streams until SIGTERM, and say what came of them."""
    streams = Streams(address, seconds, block_bytes)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, streams.ending.set)
    print("ready", flush=True)
    await asyncio.gather(*(streams.again_and_again(seconds * (number + 1) / count) for number in range(count)))
    print(json.dumps({"ended": streams.ended, "broken": streams.broken}))


def main() -> None:
    parser = OneLineParser(prog="fwd.lab.streams", description=__doc__.partition("\n")[0] if __doc__ else "")
    roles = parser.add_subparsers(dest="role", required=True, parser_class=OneLineParser)
    roles.add_parser("answer")
    asking: argparse.ArgumentParser = roles.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("streams", type=int)
    asking.add_argument("seconds", type=positive)
    asking.add_argument("--block-bytes", type=int, default=BLOCK_BYTES)
    wanted = parser.parse_args(sys.argv[1:])
    if wanted.role == "answer":
        asyncio.run(_answer())
    else:
        asyncio.run(_ask(wanted.address, wanted.streams, wanted.seconds, wanted.block_bytes))


if __name__ == "__main__":
    main()
