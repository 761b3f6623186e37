"""A way to a lab's controller from outside of its network: what comes to a socket goes on to an address in here.

The socket is descriptor 3, bound by who starts this, in the network where people are; this process is in the lab's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Final

_PIECE_BYTES: Final = 1 << 16


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_PIECE_BYTES):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def _serve(address: str, port: int) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, further = await asyncio.open_connection(address, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_carry(reader, further), _carry(there, writer))

    server = await asyncio.start_server(meet, sock=socket.socket(fileno=3))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2])))
