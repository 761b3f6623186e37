"""What the processes of one peering share beside the rings: words in anonymous memory, each with one writer.

| words | writer | readers |
|---|---|---|
| process table (state, pid, restarts, …) | supervisor | all |
| heartbeat of a process | that process | supervisor, agent |
| live mask | supervisor | demux |
| bucket table, last use | demux | agent |
| counters | the process that counts | agent, successor |
| link words, replay slots, ledger | member | supervisor, keyd, agent, successor |
| next epoch; where the far member is, keepalives | keyd | keyd's successor; member |
| offloads that the far side takes | keyd | supervisor |

All words are aligned and written through a view of their own size (the bucket table 16 and 32 bits, the rest 64), so
that a store is never torn.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.counters import MEMBER_COUNTERS, CounterBlock, DemuxCounter
from fwd.proto.flow import BUCKETS
from fwd.proto.sa import SLOTS

LEDGER_ENTRIES = 256


class ProcessState(IntEnum):
    """Where a process is in its lives; decided by supervise.policy."""

    STOPPED = 0
    RUNNING = 1
    BACKOFF = 2  # dead, to be started again soon
    FAILED = 3  # died too often: left alone for a while


class _Words:
    """Hands out views of one anonymous mapping, each on cache lines of its own."""

    def __init__(self, size_bytes: int) -> None:
        self._view = memoryview(mmap.mmap(-1, size_bytes))
        self._at = 0

    def take(self, count: int) -> memoryview:
        start = self._at
        self._at = start + -(-count * 8 // 64) * 64
        return self._view[start : start + count * 8].cast("Q")

    def take_bytes(self, count: int) -> memoryview:
        return self.take(count // 8).cast("B")


class ProcessWords:
    """One row of the process table (supervisor) and the process's heartbeat (itself)."""

    STATE, PID, RESTARTS, STARTED_NS, INCARNATION = range(5)
    SIZE = 5

    def __init__(self, words: _Words) -> None:
        self._table = words.take(self.SIZE)
        self.heartbeat = words.take(1)  # time.monotonic_ns of the loop's last turn

    def get(self) -> ProcessRow:
        """The row as it stands."""
        state, pid, restarts, started_ns, incarnation = self._table.tolist()
        return ProcessRow(ProcessState(state), pid, restarts, started_ns, incarnation, self.heartbeat[0])

    def put(self, state: ProcessState, pid: int, restarts: int, started_ns: int, incarnation: int) -> None:
        """Supervisor only."""
        self._table[self.STATE] = state
        self._table[self.PID] = pid
        self._table[self.RESTARTS] = restarts
        self._table[self.STARTED_NS] = started_ns
        self._table[self.INCARNATION] = incarnation

    @property
    def incarnation(self) -> int:
        """Which life of the process this is; 1 is the first."""
        return self._table[self.INCARNATION]


@dataclass(frozen=True, slots=True)
class ProcessRow:
    state: ProcessState
    pid: int
    restarts: int
    started_ns: int
    incarnation: int
    heartbeat_ns: int


class LinkWord(IntEnum):
    """Indices in a member's link words."""

    SPI_OUT = 0  # the SA it sends on; 0: none
    RX_TAKEN = 1  # ESP packets taken from the socket, counted before they are looked at
    PATH_DOWN = 2  # 1: echoes are not answered
    PATH_MTU = 3  # in force
    CHUNK = 4  # data octets of a row, for the demux's next segment
    GSO_REFUSED = 5  # 1: the egress refused segmentation offload while running
    PEER_PORT = 6
    PEER_HIGH = 7  # the far address as learned, 128 bits
    PEER_LOW = 8
    ELSEWHERE_PORT = 9
    ELSEWHERE_HIGH = 10  # where the far member was heard and must not be followed by itself
    ELSEWHERE_LOW = 11


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The sequence numbers that one incarnation claimed on one SA."""

    incarnation: int
    spi: int
    first: int
    last: int


class Ledger:
    """The last LEDGER_ENTRIES entries, one for each SA an incarnation sent on."""

    def __init__(self, words: memoryview) -> None:
        self._words = words  # [0]: entries begun; then 4 words an entry
        self._last = 0

    def begin(self, incarnation: int, spi: int) -> None:
        """A new entry, with nothing claimed. Member only."""
        count = self._words[0]
        at = 1 + count % LEDGER_ENTRIES * 4
        self._words[at] = incarnation
        self._words[at + 1] = spi
        self._words[at + 2] = 1
        self._words[at + 3] = 0
        self._last = at + 3
        self._words[0] = count + 1

    def claim(self, last: int) -> None:
        """Numbers up to `last` are about to be sent. Member only."""
        self._words[self._last] = last

    @property
    def sender(self) -> int:
        """The incarnation that has begun an SA last; 0: none has."""
        count: int = self._words[0]
        return self._words[1 + (count - 1) % LEDGER_ENTRIES * 4] if count else 0

    def entries(self) -> list[LedgerEntry]:
        """Oldest first."""
        count = self._words[0]
        starts = [1 + i % LEDGER_ENTRIES * 4 for i in range(max(0, count - LEDGER_ENTRIES), count)]
        return [LedgerEntry(*self._words[at : at + 4].tolist()) for at in starts]


class ReplaySlots:
    """For each inbound SA: its SPI and the highest number accepted, published before anything is delivered."""

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def floor(self, slot: int, spi: int) -> int:
        """The highest number that any incarnation accepted on `spi`; takes the slot over from an older SPI."""
        if self.words[2 * slot] != spi:
            self.words[2 * slot + 1] = 0
            self.words[2 * slot] = spi
        return self.words[2 * slot + 1]

    def heard(self) -> dict[int, int]:
        """SPI → highest number, of those that have accepted anything."""
        pairs = zip(self.words[::2].tolist(), self.words[1::2].tolist(), strict=True)
        return {spi: highest for spi, highest in pairs if highest}


class AddressWords:
    """An IP address and UDP port in three words; IPv4 as IPv6 has it mapped. Port 0: there is none."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def get(self) -> tuple[str, int] | None:
        port, high, low = self._words.tolist()
        if not port:
            return None
        address = IPv6Address(high << 64 | low)
        return str(address.ipv4_mapped or address), port

    def put(self, address: tuple[str, int]) -> None:
        found = ip_address(address[0])
        value = int(found) | (0xFFFF << 32 if found.version == 4 else 0)
        self._words[1], self._words[2] = value >> 64, value & (2**64 - 1)
        self._words[0] = address[1]


class MemberShared:
    """What one member shares."""

    def __init__(self, words: _Words) -> None:
        self.process = ProcessWords(words)
        self.link = words.take(len(LinkWord))
        self.slots = ReplaySlots(words.take(2 * SLOTS))
        self.ledger = Ledger(words.take(1 + 4 * LEDGER_ENTRIES))
        self.counters = CounterBlock(words.take(CounterBlock.size(MEMBER_COUNTERS)), MEMBER_COUNTERS)
        self.next_epoch = words.take(1)
        self.peer = AddressWords(self.link[LinkWord.PEER_PORT : LinkWord.PEER_LOW + 1])  # as learned, by the member
        self.elsewhere = AddressWords(self.link[LinkWord.ELSEWHERE_PORT : LinkWord.ELSEWHERE_LOW + 1])
        self.far = AddressWords(words.take(3))  # as negotiated, by keyd
        self.keepalive = words.take(1)  # 1: a NAT is before us, and this member's port has a mapping to keep (keyd)


class PeeringShared:
    """What the processes of one peering with `members` members share."""

    def __init__(self, members: int) -> None:
        demux_counters = DemuxCounter.HEADS + members
        words = _Words(BUCKETS * 6 + members * 16384 + 65536)
        self.live = words.take(1)  # bit i: member i may own buckets
        self.demux = ProcessWords(words)
        self.demux_counters = CounterBlock(words.take(CounterBlock.size(demux_counters)), demux_counters)
        self.owner_words = words.take_bytes(BUCKETS * 2).cast("H")
        self.used_words = words.take_bytes(BUCKETS * 4).cast("I")
        self.owners: npt.NDArray[np.uint16] = np.frombuffer(self.owner_words, np.uint16)
        self.last_used: npt.NDArray[np.uint32] = np.frombuffer(self.used_words, np.uint32)
        self.members = [MemberShared(words) for _ in range(members)]
        self._far_offloads = words.take(1)

    @property
    def far_offloads(self) -> int | None:
        """Flags of TUNSETOFFLOAD whose super-packets the far side takes; None: it has not told."""
        word: int = self._far_offloads[0]
        return word - 1 if word else None

    @far_offloads.setter
    def far_offloads(self, flags: int | None) -> None:
        """keyd only."""
        self._far_offloads[0] = 0 if flags is None else flags + 1


class Board:
    """A text that one process writes and others read: whole, as it is or as it was before.

    Two halves and a commit word, as in CounterBlock. A text that is too long is not written.
    """

    SIZE: Final = 256 * 1024

    def __init__(self) -> None:
        view = memoryview(mmap.mmap(-1, 4096 + 2 * self.SIZE))
        self._words = view[:4096].cast("Q")  # commit, length of either half
        self._halves = (view[4096 : 4096 + self.SIZE], view[4096 + self.SIZE :])

    def put(self, text: bytes) -> None:
        """Writer only."""
        if len(text) <= self.SIZE:
            commit = self._words[0] + 1
            self._halves[commit & 1][: len(text)] = text
            self._words[1 + (commit & 1)] = len(text)
            self._words[0] = commit

    def get(self) -> bytes:
        """The text as it was put last; empty: none was."""
        while True:
            commit = self._words[0]
            text = bytes(self._halves[commit & 1][: self._words[1 + (commit & 1)]])
            if self._words[0] == commit:  # else the half may have been written to meanwhile
                return text


class GatewayShared:
    """What does not belong to a peering: the rows of keyd and the agent; what keyd tells of IKE, and the supervisor of
    troubles (JSON)."""

    def __init__(self) -> None:
        self.ike = Board()
        self.troubles = Board()
        words = _Words(4096)
        self.keyd = ProcessWords(words)
        self.agent = ProcessWords(words)
