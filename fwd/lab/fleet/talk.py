"""Numbered UDP flows with answers, between hosts of a lab: what was lost, came out of order, and how long was silence.

`python -m fwd.lab.fleet.talk answer` sends back whatever comes. `… talk ask ADDRESS FLOWS HZ` sends so many flows, each
of its own source port, so many messages a second each, until SIGTERM; half a second later it prints one JSON object:

    sent        messages of each flow
    lost        of all flows
    reordered   answers that came after a later one of their flow
    silence_s   longest time between two answers of a flow, or since the last one
"""

from __future__ import annotations

import argparse
import json
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Final

from fwd.lab.arguments import OneLineParser, positive

PORT: Final = 7001
_LATE_S: Final = 0.5  # for what is under way at the end
_RECEIVE_BUFFER_BYTES: Final = 4 << 20  # some seconds of messages: what waits for a process that has no CPU is not lost
_SO_RCVBUFFORCE: Final = 33


@dataclass
class Flow:
    """One flow as its sender sees it."""

    sock: socket.socket
    got: set[int] = field(default_factory=set)
    highest: int = -1
    reordered: int = 0
    heard_s: float = 0.0
    silence_s: float = 0.0

    def send(self, number: int) -> None:
        """Send a message; what cannot be sent is lost."""
        try:
            self.sock.send(b"%d" % number)
        except OSError:
            return

    def hear(self, now_s: float) -> None:
        """Take all answers that wait."""
        while True:
            try:
                number = int(self.sock.recv(64))
            except BlockingIOError:
                return
            except OSError:  # an ICMP error for an earlier message: it is lost
                continue
            self.got.add(number)
            self.reordered += number < self.highest
            self.highest = max(self.highest, number)
            self.silence_s = max(self.silence_s, now_s - (self.heard_s or now_s))
            self.heard_s = now_s


def answer() -> None:
    """Send back whatever comes, for ever."""
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    sock.bind(("::", PORT))
    print("ready", flush=True)
    while True:
        data, source = sock.recvfrom(64)
        sock.sendto(data, source)


def ask(address: str, count: int, rate_hz: float) -> None:
    """Send until SIGTERM, and say what came of it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    flows = [Flow(socket.socket(family, socket.SOCK_DGRAM)) for _ in range(count)]
    poll = select.poll()
    for flow in flows:
        flow.sock.setblocking(False)
        flow.sock.connect((address, PORT))
        poll.register(flow.sock, select.POLLIN)
    by_fd = {flow.sock.fileno(): flow for flow in flows}
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    print("ready", flush=True)

    # A message of each flow in turn, evenly over the interval; answers in between.
    number, sent, until_s = 0, 0, 0.0
    start_s = time.monotonic()
    while not until_s or time.monotonic() < until_s:
        now_s = time.monotonic()
        if ended and not until_s:
            until_s = now_s + _LATE_S
        while not until_s and sent < (now_s - start_s) * rate_hz * count:
            flows[sent % count].send(number)
            sent += 1
            number += sent % count == 0
        for fd, _ in poll.poll(2):
            by_fd[fd].hear(now_s)
    print(json.dumps(_result(flows, sent, time.monotonic() - _LATE_S)))


def _result(flows: list[Flow], sent: int, now_s: float) -> dict[str, object]:
    each = [sent // len(flows) + (index < sent % len(flows)) for index in range(len(flows))]
    return {
        "sent": each,
        "lost": sum(count - len(flow.got) for count, flow in zip(each, flows, strict=True)),
        "reordered": sum(flow.reordered for flow in flows),
        "silence_s": [round(max(flow.silence_s, now_s - flow.heard_s), 3) for flow in flows],
    }


def main() -> None:
    parser = OneLineParser(prog="fwd.lab.fleet.talk", description=__doc__.partition("\n")[0] if __doc__ else "")
    roles = parser.add_subparsers(dest="role", required=True, parser_class=OneLineParser)
    roles.add_parser("answer")
    asking: argparse.ArgumentParser = roles.add_parser("ask")
    asking.add_argument("address")
    asking.add_argument("flows", type=int)
    asking.add_argument("hz", type=positive)
    wanted = parser.parse_args(sys.argv[1:])
    if wanted.role == "answer":
        answer()
    else:
        ask(wanted.address, wanted.flows, wanted.hz)


if __name__ == "__main__":
    main()
