"""What the kernel says of the TUN devices, which the agent is told, since it may not ask."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

EVERY_S: Final = 1.0
_SIOCGIFMTU = 0x8921
_TX_DROPPED = 11  # column of /proc/net/dev, counted behind the name


class Devices:
    """Looks at the devices once in EVERY_S; of one that is gone, what was seen last stands."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[int, int]] = {}  # MTU in bytes and packets that found the queue full, by name
        self._look_at = 0.0

    def look(self, names: Iterable[str], now: float) -> None:
        """Look at these and forget others, if it is time."""
        if now < self._look_at:
            return
        self._look_at = now + EVERY_S
        text = Path("/proc/self/net/dev").read_text(encoding="utf-8", errors="replace")
        drops, wanted = queue_drops(text), set(names)
        self.seen = {name: seen for name, seen in self.seen.items() if name in wanted}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name in wanted & drops.keys():
                with contextlib.suppress(OSError):  # it has just gone
                    answer = fcntl.ioctl(sock, _SIOCGIFMTU, struct.pack("16s16x", name.encode()))
                    self.seen[name] = struct.unpack_from("i", answer, 16)[0], drops[name]


def queue_drops(text: str) -> dict[str, int]:
    """Packets dropped on their way out, by device, as /proc/net/dev has them."""
    lines = [line.rpartition(":") for line in text.splitlines() if ":" in line]
    return {name.strip(): int(numbers.split()[_TX_DROPPED]) for name, _, numbers in lines}
