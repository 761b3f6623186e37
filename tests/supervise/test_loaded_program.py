"""The program that steers, in the kernel: the queues and times of the model, on whatever packets there are."""

from __future__ import annotations

import ctypes
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.ipsec import AH

from fwd.datapath.memory import map_descriptor
from fwd.proto.flow import BUCKETS, PARKED
from fwd.proto.steering import TABLE_BYTES, USED_AT, bucket_of, queue_of, tick_of
from fwd.supervise import steering
from fwd.supervise.steering import Command, Steering, SteeringError, attributes, call

pytestmark = [pytest.mark.netns, pytest.mark.usefixtures("needs_netns")]
_ETHERNET_BYTES = 14  # before the packet, for whoever runs a program by hand
_RUN = "<IIIIQQII"


class Loaded:
    """The program and its table, in which bucket b is member b's: a queue tells the bucket."""

    def __init__(self) -> None:
        self.steering = Steering()
        table = map_descriptor(self.steering.table_fd, TABLE_BYTES, "write")
        self.owners = np.frombuffer(table, np.uint16, BUCKETS)
        self.used = np.frombuffer(table, np.uint32, BUCKETS, USED_AT)
        self.owners[:] = np.arange(BUCKETS)
        self.model = self.owners.tolist()

    def queue_of(self, packet: bytes) -> int:
        data = ctypes.create_string_buffer(bytes(_ETHERNET_BYTES) + packet, _ETHERNET_BYTES + len(packet))
        asked = attributes(_RUN, self.steering.program_fd, 0, len(data), 0, ctypes.addressof(data), 0, 1, 0)
        call(Command.PROG_TEST_RUN, asked)
        queue: int = struct.unpack_from("<I", asked, 4)[0]
        return queue


@pytest.fixture
def loaded(needs_netns: None) -> Iterator[Loaded]:
    found = Loaded()
    yield found
    found.steering.close()


def packets(chance: random.Random) -> Iterator[bytes]:
    """Whole packets, with options and extension headers, and the same with octets changed and cut short."""
    v4, v6 = {"src": "10.1.0.10", "dst": "10.2.0.10"}, {"src": "fd00:1::10", "dst": "fd00:2::10"}
    seeds = [
        bytes(IP(**v4) / TCP()), bytes(IP(**v4, flags="MF") / UDP()), bytes(IP(**v4, options=b"\x01" * 40) / UDP()),
        bytes(IPv6(**v6) / UDP()), bytes(IPv6(**v6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / TCP()),
        bytes(IPv6(**v6) / AH(nh=17, payloadlen=4, icv=b"x" * 12) / UDP()),
        bytes(IPv6(**v6) / IPv6ExtHdrFragment(nh=17) / UDP()),
    ]  # fmt: skip
    for _ in range(3):
        deep = IPv6(**v6)
        for _ in range(chance.randrange(6, 11)):
            deep /= IPv6ExtHdrDestOpt()
        seeds.append(bytes(deep / UDP()))
    headers = (0, 6, 17, 33, 43, 44, 50, 51, 60, 132, 135, 136)
    while True:
        packet = bytearray(
            chance.choice(seeds) if chance.random() < 0.8 else chance.randbytes(chance.randrange(1, 120))
        )
        for _ in range(chance.randrange(4)):
            packet[chance.randrange(len(packet))] = chance.choice((chance.randrange(256), chance.choice(headers)))
        if chance.random() < 0.5:
            packet[6 if packet[0] >> 4 == 6 and len(packet) > 6 else min(9, len(packet) - 1)] = chance.choice(headers)
        yield bytes(packet[: chance.randrange(1, len(packet) + 1)] if chance.random() < 0.3 else packet)


def test_any_packet_gets_the_models_queue(loaded: Loaded) -> None:
    found = packets(random.Random(14))
    seen = set()
    for _ in range(20_000):
        packet = next(found)
        queue = loaded.queue_of(packet)
        assert queue == queue_of(packet, loaded.model), packet.hex()
        seen.add(queue)
    assert 0 in seen
    assert len(seen) > 2_000


def test_a_bucket_without_an_owner_is_for_queue_0_and_its_use_is_noted(loaded: Loaded) -> None:
    packet = bytes(IP(src="10.1.0.10", dst="10.2.0.10") / UDP(sport=1, dport=2))
    bucket = bucket_of(packet)
    assert bucket is not None
    loaded.used[:] = 0
    before = tick_of(time.monotonic_ns())
    try:
        for nobody in range(PARKED, 0x10000):
            loaded.owners[bucket] = nobody
            assert loaded.queue_of(packet) == 0
    finally:
        loaded.owners[bucket] = bucket
    assert before <= loaded.used[bucket] <= tick_of(time.monotonic_ns())
    assert np.flatnonzero(loaded.used).tolist() == [bucket]


def test_a_tun_device_takes_the_program_and_keeps_it(lab_name: str, loaded: Loaded) -> None:
    """In a namespace of its own: flows come out of their owners' queues, with the loader's descriptors closed."""
    script = """
import fcntl, mmap, os, socket, struct, subprocess
import numpy as np
from fwd.proto.flow import BUCKETS
from fwd.proto.steering import TABLE_BYTES, bucket_of
from fwd.supervise.steering import Steering
own = Steering()
table = mmap.mmap(own.table_fd, TABLE_BYTES)
owners = np.frombuffer(table, np.uint16, BUCKETS)
owners[:] = np.arange(BUCKETS) % 3
queues = [os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK) for _ in range(4)]
for one in queues:
    fcntl.ioctl(one, 0x400454CA, struct.pack("16sH22x", b"steered", 0x0001 | 0x1000 | 0x0100))
own.put_on(queues[0])
own.close()
for words in ("link set lo up", "addr add 10.9.0.1/24 dev steered", "link set steered up"):
    subprocess.run(["ip", *words.split()], check=True)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(1, 301):
    sock.sendto(b"x", ("10.9.0.2", port))
came = 0
for number, one in enumerate(queues):
    while True:
        try:
            packet = os.read(one, 2000)
        except BlockingIOError:
            break
        if packet[0] == 0x45 and packet[16:20] == bytes([10, 9, 0, 2]):
            came += 1
            assert number == bucket_of(packet) % 3 + 1, (number, packet.hex())
assert came == 300, came
"""
    subprocess.run(["ip", "netns", "add", lab_name], check=True)
    try:
        argv = ["ip", "netns", "exec", lab_name, sys.executable, "-c", script]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    finally:
        subprocess.run(["ip", "netns", "delete", lab_name], check=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_cap_bpf_it_says_what_it_takes() -> None:
    script = (
        "import os; from fwd.supervise.steering import Steering, SteeringError\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "try: Steering()\nexcept SteeringError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "not permitted; it takes CAP_BPF" in done.stdout


def test_what_is_no_tun_device_is_one_line() -> None:
    found = Steering()
    try:
        with pytest.raises(SteeringError, match="TUNSETSTEERINGEBPF"), open(os.devnull, "rb") as null:
            found.put_on(null.fileno())
    finally:
        found.close()


def test_a_program_that_the_verifier_refuses_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "program", lambda _: bytes.fromhex("9500000000000000"))  # leaves without R0
    with pytest.raises(SteeringError, match=r"the program that chooses queues: .* \(.+\)"):
        Steering()


def test_an_old_kernel_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(command: Command, _: object) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(steering, "call", refuse)
    with pytest.raises(
        SteeringError, match=r"a table that processes map, which Linux has since 5\.5: Invalid argument"
    ):
        Steering()
