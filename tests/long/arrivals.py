"""`python arrivals.py PORT MAGIC FILE`: notes number and kernel time of every probe until standard input closes.

The lab's own receiver keeps the longest silence only; a hundred kills want every arrival.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from array import array

from fwd.lab.probe import PAYLOAD

SO_TIMESTAMPNS, SO_RCVBUFFORCE = 35, 33


def main(port: str, magic_hex: str, path: str) -> None:
    magic, numbers = bytes.fromhex(magic_hex), array("q")
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind(("", int(port)))
    print("ready", flush=True)
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(0, select.POLLIN)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if sock.fileno() in ready:
            data, ancillary, _, _ = sock.recvmsg(256, 64)
            if len(data) == PAYLOAD.size and data.startswith(magic):
                seconds, rest_ns = struct.unpack("qq", ancillary[0][2])
                numbers.extend((PAYLOAD.unpack(data)[2], seconds * 10**9 + rest_ns))
        elif 0 in ready:
            break
    with open(path, "wb") as file:
        numbers.tofile(file)


if __name__ == "__main__":
    main(*sys.argv[1:])
