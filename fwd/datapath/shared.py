"""What the processes of one peering share beside the rings: words in shared memory, each with one writer.

| words | memory (its writer) | readers |
|---|---|---|
| masks; what members that left had counted; the demux's row; tuning.py's | supervisor | demux, members, agent |
| a member's row | supervisor-I | member, keyd, agent |
| heartbeat, counters, bucket table, last use | demux | supervisor, agent, successor |
| heartbeat, link words, replay slots, ledger, counters, where the peer is, how far the ring is | member-I | all |
| offloads that the far side takes; how many members it has | keyd | supervisor, agent |
| next epoch; where the far member is, what it answers, keepalives | keyd-I | keyd's successor; member; supervisor |

All words are aligned and written through a view of their own size (the bucket table 16 and 32 bits, the rest 64), so
that a store is never torn. A process has the attributes of the memories that memory.ACCESS gives it, and no others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address, ip_address
from typing import Final

import numpy as np
import numpy.typing as npt

from fwd.datapath.board import Board, Mailbox
from fwd.datapath.counters import MEMBER_COUNTERS, BeaconCounter, CheckWord, CounterBlock, DemuxCounter
from fwd.datapath.geometry import PATH_MTU_MIN
from fwd.datapath.heard import Heard
from fwd.datapath.ledger import LEDGER_ENTRIES, Ledger, ReplaySlots
from fwd.datapath.memory import Maps, anonymous
from fwd.model.config import MEMBERS_MAX
from fwd.proto.flow import BUCKETS
from fwd.proto.sa import SLOTS

REST_S: Final = 5.0  # a loop that has nothing to do blocks for so long, unless something comes
REST_MAX_S: Final = 30.0  # demux and members for so long, if nothing came in REST_S either; and nobody for longer
RING_WORDS: Final = 16  # how far a member is with its ring (ring.py)
_DRAIN_MAX_S = 65535
_PAGE_BYTES = 4096
_HEARD_AT = 2048  # in the beacon's page
_MEMBER_BYTES = 16384


class ProcessState(IntEnum):
    """Where a process is in its lives; decided by supervise.policy."""

    STOPPED = 0
    RUNNING = 1
    BACKOFF = 2  # dead, to be started again soon
    FAILED = 3  # died too often: left alone for a while


class _Words:
    """Hands out views of one memory, each on cache lines of its own."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def take(self, count: int) -> memoryview:
        """Give the next `count` words of 64 bits."""
        start = self._at
        self._at = start + -(-count * 8 // 64) * 64
        assert self._at <= len(self._view)
        return self._view[start : start + count * 8].cast("Q")

    def take_bytes(self, count: int) -> memoryview:
        """Give the next `count` octets."""
        return self.take(count // 8).cast("B")


class ProcessWords:
    """One row of the process table (supervisor) and the process's heartbeat (itself)."""

    STATE, PID, RESTARTS, STARTED_NS, INCARNATION = range(5)
    SIZE = 5

    def __init__(self, table: memoryview, heartbeat: memoryview) -> None:
        self.table = table
        # time.monotonic_ns of the loop's last turn; while it rests, of the next one at the latest.
        self.heartbeat = heartbeat

    def get(self) -> ProcessRow:
        """Read the row."""
        state, pid, restarts, started_ns, incarnation = self.table.tolist()
        return ProcessRow(ProcessState(state), pid, restarts, started_ns, incarnation, self.heartbeat[0])

    def put(self, state: ProcessState, pid: int, restarts: int, started_ns: int, incarnation: int) -> None:
        """Write the row. Supervisor only."""
        self.table[self.STATE] = state
        self.table[self.PID] = pid
        self.table[self.RESTARTS] = restarts
        self.table[self.STARTED_NS] = started_ns
        self.table[self.INCARNATION] = incarnation

    def beat_at(self, since: float) -> float:
        """When the loop last turned or, while it rests, will turn (monotonic seconds); 0: not after `since`.

        A time beyond any rest is no heartbeat either: it would hide a hang.
        """
        beat_at = self.heartbeat[0] / 1e9
        return beat_at if since <= beat_at <= time.monotonic() + REST_MAX_S else 0.0

    @property
    def state(self) -> ProcessState:
        """Where the process is in its lives."""
        return ProcessState(self.table[self.STATE])

    @property
    def incarnation(self) -> int:
        """Which life of the process this is; 1 is the first."""
        return self.table[self.INCARNATION]


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """One row of the process table, and the process's heartbeat, as they were read."""

    state: ProcessState
    pid: int
    restarts: int
    started_ns: int
    incarnation: int
    heartbeat_ns: int


class MaskWord(IntEnum):
    """Indices in the words by which the supervisor tells a demux of its members; bit i of a mask is member i."""

    LIVE = 0  # may own buckets
    DRAINING = 1  # get no more buckets
    OVER = 2  # get no more, and give up those that are busy
    RINGS = 3  # no mask: how many notices of rings were sent to this demux (rings.py)


class LinkWord(IntEnum):
    """Indices in a member's link words."""

    SPI_OUT = 0  # the SA it sends on; 0: none
    RX_TAKEN = 1  # ESP packets taken from the socket, counted before they are looked at
    PATH_DOWN = 2  # 1: echoes are not answered
    PATH_MTU = 3  # in force
    CHUNK = 4  # data octets of a row, for the demux's next segment
    GSO_REFUSED = 5  # 1: the egress refused segmentation offload while running
    LOSS = 6  # share of echoes that were not answered lately, in 1/1000
    RTT_US = 7  # the longest time that an answer took lately; 0: none has come
    QUEUE_READ = 8  # records read from its own queue of the TUN device, told before they are looked at (queue.py)


class AddressWords:
    """An IP address and UDP port, changed at once; IPv4 as IPv6 has it mapped. Port 0: there is none."""

    SIZE: Final = CounterBlock.size(3)

    def __init__(self, words: memoryview) -> None:
        self._block = CounterBlock(words, 3)

    def get(self) -> tuple[str, int] | None:
        """Read the address that was put last; None: none was."""
        port, high, low = self._block.read()
        if not 0 < port <= 65535:
            return None
        address = IPv6Address(high << 64 | low)
        return str(address.ipv4_mapped or address), port

    def put(self, address: tuple[str, int]) -> None:
        """Write an address. Its writer only."""
        ip = ip_address(address[0])
        value = int(ip) | (0xFFFF << 32 if ip.version == 4 else 0)
        values = self._block.attach()
        values[0], values[1], values[2] = address[1], value >> 64, value & (2**64 - 1)
        self._block.publish()


class MemberShared:
    """What one member shares."""

    def __init__(self, maps: Maps, index: int) -> None:
        words = _Words(maps[f"member-{index}"])
        heartbeat = words.take(1)
        self.link = words.take(len(LinkWord))
        self.ring = words.take(RING_WORDS)
        self.slots = ReplaySlots(words.take(2 * SLOTS), words.take(SLOTS))
        self.ledger = Ledger(words.take(1 + 4 * LEDGER_ENTRIES))
        self.counters = CounterBlock(words.take(CounterBlock.size(MEMBER_COUNTERS)), MEMBER_COUNTERS)
        self.peer = AddressWords(words.take(AddressWords.SIZE))  # where the far member was heard
        self.elsewhere = AddressWords(words.take(AddressWords.SIZE))  # likewise, at another address than keyd's

        self.check = CounterBlock(words.take(CounterBlock.size(len(CheckWord))), len(CheckWord))

        # What others write for this member.
        if shown := maps.get("supervisor"):
            self.tuning = Board(shown[_PAGE_BYTES:])
        if row := maps.get(f"supervisor-{index}"):
            words = _Words(row)
            self.process = ProcessWords(words.take(ProcessWords.SIZE), heartbeat)
            self.checks = words.take(1)  # how many checks of its path were asked for (echoes.py)
            self.leaves = words.take(1)  # 1: the peering is about to be closed, and routers are to look elsewhere
        if told := maps.get(f"keyd-{index}"):
            words = _Words(told)
            self.next_epoch = words.take(1)
            self.far = AddressWords(words.take(AddressWords.SIZE))  # where the far member is, as IKE knows it
            self.keepalive = words.take(1)  # 1: we are behind a NAT, whose mapping of this member's port must be kept
            self.echoes = words.take(1)  # 1: the far member answers echoes in payload esp, too
            self.far_leaves_until = words.take(1)  # time.monotonic_ns: till then the far gateway is about to close

    @property
    def path_down(self) -> bool:
        """Whether the far member leaves echoes unanswered."""
        return self.link[LinkWord.PATH_DOWN] != 0

    @property
    def has_begun(self) -> bool:
        """Whether the member's present incarnation has had an SA to send on."""
        sender = self.ledger.sender
        return sender > 0 and sender == self.process.incarnation

    @property
    def can_send(self) -> bool:
        """Whether nothing is known that keeps it from sending, such as a path that is down or an SA that has ended."""
        return not self.path_down and (self.link[LinkWord.SPI_OUT] != 0 or not self.has_begun)

    @property
    def loss(self) -> float:
        """Share of its echoes that went unanswered lately."""
        return min(self.link[LinkWord.LOSS], 1000) / 1000

    @property
    def path_mtu(self) -> int:
        """The path MTU in force; 0: none that could be one."""
        mtu: int = self.link[LinkWord.PATH_MTU]
        return mtu if PATH_MTU_MIN <= mtu <= 65535 else 0


class PeeringShared:
    """What the processes of one peering with `members` members share; without `maps`, in memory of this process."""

    def __init__(self, members: int, maps: Maps | None = None) -> None:
        maps = anonymous(peering_sizes(members)) if maps is None else maps
        if table := maps.get("supervisor"):
            words = _Words(table)
            self.live = words.take(len(MaskWord))
            row = words.take(ProcessWords.SIZE)
            self.left = LeftBehind(words.take(LeftBehind.SIZE))
            self.tuning = Board(table[_PAGE_BYTES:])

        # The demux's: heartbeat, counters, and of each bucket its owner and when it was used last.
        if own := maps.get("demux"):
            words = _Words(own)
            self.demux = ProcessWords(row, words.take(1))
            counters = DemuxCounter.HEADS + MEMBERS_MAX
            self.demux_counters = CounterBlock(words.take(CounterBlock.size(counters)), counters)
            self.owner_words = words.take_bytes(BUCKETS * 2).cast("H")
            self.used_words = words.take_bytes(BUCKETS * 4).cast("I")
            self.owners: npt.NDArray[np.uint16] = np.frombuffer(self.owner_words, np.uint16)
            self.last_used: npt.NDArray[np.uint32] = np.frombuffer(self.used_words, np.uint32)

        # keyd's: what the far side has told in IKE_AUTH.
        if told := maps.get("keyd"):
            words = _Words(told)
            self._far_offloads = words.take(1)
            self.far_words = words.take(2)  # those of `far_members`
        self.members = [MemberShared(maps, i) for i in range(members)]

    @property
    def far_offloads(self) -> int | None:
        """Flags of TUNSETOFFLOAD whose super-packets the far side takes; None: it has not told."""
        word: int = self._far_offloads[0]
        return word - 1 if word else None

    @far_offloads.setter
    def far_offloads(self, flags: int | None) -> None:
        """Write what the far side has told. keyd only."""
        self._far_offloads[0] = 0 if flags is None else flags + 1

    @property
    def far_members(self) -> tuple[int, float]:
        """How many members the far side has (0: it has not told), and for how long (s) those that left may be busy."""
        count, drain_s = self.far_words.tolist()
        return min(count, MEMBERS_MAX), float(min(drain_s, _DRAIN_MAX_S))

    @far_members.setter
    def far_members(self, told: tuple[int, float]) -> None:
        """Write what the far side has told. keyd only."""
        self.far_words[1] = int(told[1])
        self.far_words[0] = told[0]


class LeftBehind:
    """What members that have left had counted, so that sums never go back; and how many are there.

    Both change at once: no reader counts a member twice, or not at all.
    """

    _COUNT: Final = MEMBER_COUNTERS + 1
    SIZE: Final = CounterBlock.size(_COUNT)

    def __init__(self, words: memoryview) -> None:
        self._block = CounterBlock(words, self._COUNT)

    def read(self) -> tuple[list[int], int]:
        """Read the sums, and how many members there are (0: none has ever left)."""
        *sums, members = self._block.read()
        return sums, members

    def add(self, counted: Sequence[int], members: int) -> None:
        """Add what a member that has left had counted; `members` are there now. Supervisor only."""
        values = self._block.attach()
        for index, value in enumerate(counted):
            values[index] += value
        values[MEMBER_COUNTERS] = members
        self._block.publish()


def peering_sizes(members: int) -> dict[str, int]:
    """Return the octets of each memory of a peering, but for its rings' (ring.sizes)."""
    sizes = {"supervisor": _PAGE_BYTES + Board.BYTES, "demux": BUCKETS * 6 + _MEMBER_BYTES, "keyd": _PAGE_BYTES}
    for i in range(members):
        sizes |= member_sizes(i)
    return sizes


def member_sizes(index: int) -> dict[str, int]:
    """Return the octets of each memory that a member adds, but for its ring's."""
    return {f"supervisor-{index}": _PAGE_BYTES, f"member-{index}": _MEMBER_BYTES, f"keyd-{index}": _PAGE_BYTES}


class GatewayShared:
    """What belongs to no one peering. Boards are JSON: `ike` is keyd's, `troubles`, with TUN devices, the supervisor's,
    `summary` the agent's; `link_told`, and what came from the controller, link's.
    """

    SIZES: Final = {
        **dict.fromkeys(("supervisor", "keyd", "agent"), _PAGE_BYTES + Board.BYTES), "beacon": _PAGE_BYTES,
        "link": _PAGE_BYTES + 2 * Board.BYTES + Mailbox.BYTES,
    }  # fmt: skip

    def __init__(self, maps: Maps | None = None) -> None:
        maps = anonymous(self.SIZES) if maps is None else maps
        keyd = agent = beacon = link = memoryview(b"")

        # Each writer's memory, if this process has it: the supervisor's first, with the rows of all others.
        if table := maps.get("supervisor"):
            rows = _Words(table)
            keyd, agent = rows.take(ProcessWords.SIZE), rows.take(ProcessWords.SIZE)
            self.log_level = rows.take(1)  # of keyd and the agent, as logging numbers it; 0: as they began
            self.drains = rows.take(1)  # 1: a user has drained the gateway
            beacon, link = rows.take(ProcessWords.SIZE), rows.take(ProcessWords.SIZE)
            self.turned = rows.take(1)  # time.monotonic_ns of the supervisor's last turn, or step of one
            self.troubles = Board(table[_PAGE_BYTES:])

        # A heartbeat of each child's own, and what it tells.
        if own := maps.get("keyd"):
            self.keyd = ProcessWords(keyd, _Words(own).take(1))
            self.ike = Board(own[_PAGE_BYTES:])
        if own := maps.get("agent"):
            self.agent = ProcessWords(agent, _Words(own).take(1))
            self.summary = Board(own[_PAGE_BYTES:])  # of the status, once a second, for link
        if own := maps.get("beacon"):
            self.beacon = ProcessWords(beacon, _Words(own).take(1))
            self.beacon_counters = CounterBlock(own[64:_HEARD_AT].cast("Q"), len(BeaconCounter))
            self.beacon_heard = Heard(own[_HEARD_AT:_PAGE_BYTES])
        if own := maps.get("link"):
            words = _Words(own)
            self.link = ProcessWords(link, words.take(1))
            self.link_connected = words.take(1)  # 1: the controller answers
            boards, at = own[_PAGE_BYTES:], Board.BYTES
            self.link_told, self.certificates = Board(boards), Board(boards[at:])
            self.documents = Mailbox(boards[2 * at :])

    def beat(self) -> None:
        """Show that the supervisor goes on. Supervisor only."""
        self.turned[0] = time.monotonic_ns()

    def follow_log_level(self) -> None:
        """Take the log level that the supervisor has put in force. keyd and the agent only."""
        level: int = self.log_level[0]
        if level and level != logging.root.level:
            logging.root.setLevel(level)
