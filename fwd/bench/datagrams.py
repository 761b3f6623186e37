"""UDP load for the lab: a paced sender of single datagrams, and a sink that counts what reaches its socket.

`python -m fwd.bench.datagrams send` reads a line with a rate and a time, sends that many datagrams a second in turn
from several source ports, each with a system call of its own (no super-packets: the tunnel gets what small senders
give), waits a moment for what is on its way, and answers with how many it sent and how long that took. When it falls
behind it leaves out what it could not send, so that it never bursts for long: its answer tells.

`… sink` holds a socket whose filter drops every datagram that reaches it, so that no reader takes time from the tunnel
on a machine that does everything at once; the kernel has done all of its work by then, down to splitting super-packets.
Each line it reads makes it answer with the kernel's count so far (RFC 4113, udpInErrors without checksum errors).

Both say `ready` once they are, and end with their input.
"""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from fwd.datapath import udp
from fwd.lab import arguments, traffic

GRACE_S: Final = 0.01
_TICK_S = 0.00025
_CATCH_UP_S = 0.002
_SO_ATTACH_FILTER = 26
_KEEP_NOTHING = (0x06, 0, 0, 0)  # classic BPF: return 0


def send(socks: Sequence[socket.socket], payload: bytes, rate_pps: float, seconds: float) -> tuple[int, float]:
    """Send for so long; returns how many datagrams the kernel took, and the seconds that it took."""
    sends = [sock.send for sock in socks]
    turn_s = len(sends) / rate_pps
    catch_up_s = max(_CATCH_UP_S, 2 * turn_s)
    refused = turns = 0
    last_s = start_s = time.monotonic()
    while (now_s := time.monotonic()) < start_s + seconds:
        last_s = max(last_s, now_s - catch_up_s)
        due = int((now_s - last_s) / turn_s)
        last_s += due * turn_s
        for _ in range(due):
            for one in sends:
                try:
                    one(payload)
                except OSError:  # an ICMP error that came back, or no buffer
                    refused += 1
        turns += due
        time.sleep(_TICK_S)
    return turns * len(sends) - refused, time.monotonic() - start_s


def dropped(snmp: str) -> int:
    """How many datagrams sockets of this host did not take, of a /proc/net/snmp, without those that were damaged."""
    counters = traffic.counters_in(snmp, "Udp")
    return counters["InErrors"] - counters["InCsumErrors"]


def _connected(to: tuple[str, int], from_ports: Sequence[int]) -> list[socket.socket]:
    socks = []
    for port in from_ports:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("", port))
        sock.connect(to)
        socks.append(sock)
    return socks


def _sink(port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.attach(sock, _SO_ATTACH_FILTER, [_KEEP_NOTHING])
    sock.bind(("", port))
    return sock


def _parser() -> arguments.OneLineParser:
    parser = arguments.OneLineParser("fwd.bench.datagrams", description="Paced UDP load, and where it goes.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    sender = verbs.add_parser("send", help="reads `RATE SECONDS`, answers `SENT SECONDS`")
    sender.add_argument("--to", type=ip_address, required=True)
    sender.add_argument("--from-port", type=arguments.ports, required=True, help="such as 7000-7003; each is a flow")
    sender.add_argument("--bytes", type=int, required=True, help="of each payload")
    sink = verbs.add_parser("sink", help="answers each line with the count so far")
    for verb in (sender, sink):
        verb.add_argument("--port", type=arguments.ports, required=True)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options: Any = parser.parse_args(argv)
    try:
        if options.verb == "send":
            socks = _connected((str(options.to), options.port[0]), options.from_port)
        else:
            socks = [_sink(options.port[0])]
    except OSError as error:
        arguments.fail(parser.prog, f"{options.verb}: {error.strerror}")

    # It does what each line says until there are no more.
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: who started it ends it
    print("ready", flush=True)
    for line in sys.stdin:
        if options.verb == "send":
            rate_pps, seconds = map(float, line.split())
            sent, took_s = send(socks, bytes(options.bytes), rate_pps, seconds)
            time.sleep(GRACE_S)
            print(sent, took_s, flush=True)
        else:
            print(dropped(Path("/proc/net/snmp").read_text(encoding="ascii")), flush=True)

    for sock in socks:
        sock.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
