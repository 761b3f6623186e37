"""Numbered UDP probes: how long a flow was silent, and whether its order was kept.

`python -m fwd.lab.probe send` sends one numbered datagram a millisecond on each of several flows, which differ
in their source port; `… receive` notes the kernel's time of each arrival. A payload is the run's magic (16
bytes, which a capture can look for), the flow (its source port), the number and the time of sending. Datagrams
without the magic are ignored. `merge` joins both ends' results: only the sender knows what is lost at the end.
With `--arrivals` the receiver stores every arrival, too, for who wants more than the longest silence.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fwd.lab import arguments

PAYLOAD: Final = struct.Struct("!16sIQQ")  # magic, flow, number, time of sending in ns
_SO_TIMESTAMPNS = 35
_SO_RCVBUFFORCE = 33
_TIMESPEC = struct.Struct("qq")
_RECEIVE_BUFFER_BYTES = 8 << 20
_NS = 1_000_000_000
_FLOWS_MAX = 64
_ARRIVALS_MAX = 4_000_000  # of one flow: an hour at 1 kHz

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sent:
    """What the sender did on one flow."""

    count: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True)
class Arrived:
    """What came of one flow, in the order of arrival."""

    received: int
    first: int
    last: int
    lost: int
    duplicates: int
    inversions: int
    start_ns: int
    end_ns: int
    longest_gap_ms: float
    longest_gap_at_ns: int
    p99_gap_ms: float


def arrived(numbers: Ints, times_ns: Ints) -> Arrived:
    """Evaluate one flow's numbers and kernel timestamps, which stand in the order of arrival."""
    distinct = int(np.unique(numbers).size)
    first, last = int(numbers.min()), int(numbers.max())
    gaps_ms = np.diff(times_ns) / 1e6
    at = int(np.argmax(gaps_ms)) if gaps_ms.size else 0
    return Arrived(
        received=int(numbers.size),
        first=first,
        last=last,
        lost=last - first + 1 - distinct,
        duplicates=int(numbers.size) - distinct,
        inversions=int(np.count_nonzero(numbers < np.maximum.accumulate(numbers))),
        start_ns=int(times_ns[0]),
        end_ns=int(times_ns[-1]),
        longest_gap_ms=round(float(gaps_ms[at]), 3) if gaps_ms.size else 0.0,
        longest_gap_at_ns=int(times_ns[at]),
        p99_gap_ms=round(float(np.percentile(gaps_ms, 99)), 3) if gaps_ms.size else 0.0,
    )


def merge(sent: Sent, got: Arrived | None) -> Arrived:
    """The flow as a whole: what never arrived at its start and end is lost and silent, too."""
    if got is None:
        silence_ms = round((sent.end_ns - sent.start_ns) / 1e6, 3)
        return Arrived(0, 0, 0, sent.count, 0, 0, sent.start_ns, sent.start_ns, silence_ms, sent.start_ns, 0.0)
    edges = [
        (got.longest_gap_ms, got.longest_gap_at_ns),
        ((got.start_ns - sent.start_ns) / 1e6, sent.start_ns),
        ((sent.end_ns - got.end_ns) / 1e6, got.end_ns),
    ]
    gap_ms, at_ns = max(edges)
    fields = asdict(got) | {
        "lost": sent.count - (got.received - got.duplicates),
        "longest_gap_ms": round(gap_ms, 3),
        "longest_gap_at_ns": at_ns,
    }
    return Arrived(**fields)


def silences_ms(times_ns: Ints, moments_ns: Sequence[int], within_ns: int, end_ns: int) -> list[float]:
    """For each moment the longest silence of a flow that lies, wholly or in part, in the `within_ns` after it.

    A silence is counted to its end, however late; what is silent for good is so until `end_ns`.
    """
    edges = np.append(times_ns[times_ns < end_ns], end_ns)
    found = []
    for moment_ns in moments_ns:
        first = max(0, int(np.searchsorted(edges, moment_ns)) - 1)
        last = int(np.searchsorted(edges, moment_ns + within_ns))
        window = edges[first : last + 1]
        if window[0] > moment_ns:
            window = np.insert(window, 0, moment_ns)
        found.append(round(float(np.diff(window).max(initial=0)) / 1e6, 3))
    return found


def send(
    to: tuple[str, int], from_ports: Sequence[int], magic: bytes, seconds: float, rate_hz: float, stop_fd: int
) -> dict[int, Sent]:
    """Send on all flows at `rate_hz` each, until `seconds` are over or `stop_fd` is readable.

    Deadlines are absolute: a late tick is followed by the ones it delayed, and the rate is kept.
    """
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    socks = [socket.socket(family, socket.SOCK_DGRAM) for _ in from_ports]
    for sock, port in zip(socks, from_ports, strict=True):
        sock.bind(("", port))
        sock.connect(to)

    stop = select.poll()
    stop.register(stop_fd, select.POLLIN)
    counts = dict.fromkeys(from_ports, 0)
    start_ns, origin_ns, period_ns = time.time_ns(), time.monotonic_ns(), _NS / rate_hz
    now_ns = start_ns

    # One packet on each flow at each deadline.
    for number in range(int(seconds * rate_hz)):
        wait_ns = origin_ns + int(number * period_ns) - time.monotonic_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / 1e9)
        if number % 64 == 0 and stop.poll(0):
            break
        now_ns = time.time_ns()
        for sock, port in zip(socks, from_ports, strict=True):
            _send_one(sock, PAYLOAD.pack(magic, port, number, now_ns))
            counts[port] = number + 1
    for sock in socks:
        sock.close()
    return {port: Sent(count, start_ns, now_ns) for port, count in counts.items()}


def _send_one(sock: socket.socket, payload: bytes) -> None:
    """A probe that the kernel refuses (no route, an ICMP error come back) is a lost one: the number tells."""
    try:
        sock.send(payload)
    except OSError:
        return


class Receiver:
    """Notes the number and kernel time of each probe, by flow."""

    def __init__(self, port: int, magic: bytes, ipv6: bool = False) -> None:
        self._magic = magic
        self._flows: dict[int, tuple[array[int], array[int]]] = {}
        self._sock = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._sock.setblocking(False)
        self._sock.bind(("", port))

    def run(self, seconds: float, stop_fd: int) -> dict[int, Arrived]:
        """Receive until `seconds` are over or `stop_fd` is readable, and what still waits then."""
        deadline_s = time.monotonic() + seconds
        ready = select.poll()
        ready.register(self._sock, select.POLLIN)
        ready.register(stop_fd, select.POLLIN)
        while (left_s := deadline_s - time.monotonic()) > 0:
            events = ready.poll(left_s * 1000)
            self._drain()
            if any(fd == stop_fd for fd, _ in events):
                break
        self._sock.close()
        return {flow: arrived(numbers, times_ns) for flow, (numbers, times_ns) in self.arrivals().items()}

    def arrivals(self) -> dict[int, Ints]:
        """By flow: the numbers and, below them, the kernel's times in ns, in the order of arrival."""
        return {flow: np.array(arrays, np.int64) for flow, arrays in sorted(self._flows.items())}

    def _drain(self) -> None:
        space = socket.CMSG_SPACE(_TIMESPEC.size)
        while True:
            try:
                data, ancillary, _, _ = self._sock.recvmsg(256, space)
            except BlockingIOError:
                return
            if len(data) == PAYLOAD.size and ancillary:
                self._note(data, ancillary[0][2])

    def _note(self, data: bytes, timespec: bytes) -> None:
        magic, flow, number, _ = PAYLOAD.unpack(data)
        if magic != self._magic or number >= 1 << 63:
            return
        if flow not in self._flows and len(self._flows) >= _FLOWS_MAX:
            return
        numbers, times_ns = self._flows.setdefault(flow, (array("q"), array("q")))
        if len(numbers) < _ARRIVALS_MAX:
            seconds, rest_ns = _TIMESPEC.unpack(timespec)
            numbers.append(number)
            times_ns.append(seconds * _NS + rest_ns)


def read_sent(text: str) -> dict[int, Sent]:
    """The sender's result, as it prints it."""
    return {int(port): Sent(**fields) for port, fields in json.loads(text).items()}


def read_arrived(text: str) -> dict[int, Arrived]:
    """The receiver's result, as it writes it."""
    return {int(port): Arrived(**fields) for port, fields in json.loads(text).items()}


def read_arrivals(path: Path) -> dict[int, Ints]:
    """What `receive --arrivals` has stored: Receiver.arrivals."""
    with np.load(path) as stored:
        return {int(flow): stored[flow] for flow in stored}


def as_json(flows: dict[int, Sent] | dict[int, Arrived]) -> str:
    return json.dumps({str(port): asdict(flow) for port, flow in flows.items()}, indent=1) + "\n"


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return str(ip_address(host.strip("[]"))), arguments.ports(port)[0]


def _parser() -> arguments.OneLineParser:
    parser = arguments.OneLineParser("fwd.lab.probe", description="Numbered UDP probes.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    sender = verbs.add_parser("send", help="result on stdout")
    sender.add_argument("--to", type=_endpoint, required=True, help="ADDR:PORT")
    sender.add_argument("--from-port", type=arguments.ports, action="append", required=True,
                        help="source port, or ports such as 7000-7003; each is a flow")  # fmt: skip
    sender.add_argument("--rate", type=arguments.positive, default=1000.0, help="of each flow, in Hz")
    receiver = verbs.add_parser("receive", help="prints `ready` once it listens")
    receiver.add_argument("--port", type=arguments.ports, required=True)
    receiver.add_argument("--ipv6", action="store_true")
    receiver.add_argument("--out", type=arguments.new_file, required=True, help="JSON result")
    receiver.add_argument("--arrivals", type=arguments.new_file, help="every arrival, as .npz")
    for verb in (sender, receiver):
        verb.add_argument("--magic", type=arguments.magic, required=True, help="32 hex digits, one run's own")
        verb.add_argument("--seconds", type=arguments.positive, required=True, help="longest run")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options: Any = parser.parse_args(argv)
    stop_fd = os.eventfd(0, os.EFD_NONBLOCK)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.eventfd_write(stop_fd, 1))

    # Sockets are opened before `ready` is said.
    try:
        if options.verb == "send":
            flows = [port for ports in options.from_port for port in ports]
            sent = send(options.to, flows, options.magic, options.seconds, options.rate, stop_fd)
            print(as_json(sent), end="")
            return 0
        receiver = Receiver(options.port[0], options.magic, options.ipv6)
    except OSError as error:
        arguments.fail(parser.prog, f"{options.verb}: {error.strerror}")

    # The result is written even if it is stopped early.
    print("ready", flush=True)
    options.out.write_text(as_json(receiver.run(options.seconds, stop_fd)))
    if options.arrivals:
        by_flow: dict[str, Any] = {str(flow): arrivals for flow, arrivals in receiver.arrivals().items()}
        with options.arrivals.open("wb") as file:
            np.savez(file, **by_flow)
    return 0


if __name__ == "__main__":
    sys.exit(main())
