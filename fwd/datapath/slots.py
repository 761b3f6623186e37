"""Where receives lie until they are opened: slots of one packet's size, one behind the other, in one buffer.

The kernel writes merged datagrams of one size into consecutive slots by itself. One that is shorter than its slot is
remembered. Merged datagrams of another size never become slots: `pieces` shows them where they were received, and
`others` as a table of their own. If enough of them come, slots of their size would be better: the sender's path has
changed. A short one that came alone says nothing of the path: there was no more to send.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from fwd.datapath.udp import RECEIVE_BYTES
from fwd.proto import core
from fwd.proto.esp import BATCH_MAX, OVERHEAD_BYTES, TRAILER_BYTES, PacketTable

ESP_MIN: Final = OVERHEAD_BYTES + TRAILER_BYTES  # octets of the shortest ESP packet
RECEIVE_MAX: Final = 128  # datagrams of a receive: GRO merges 64, but what a peer on the same host sends stays whole
_RECEIVES: Final = 4  # that may wait to be opened together
_TABLES_MAX: Final = 32  # of other sizes, that are kept
ROW_MIN: Final = 256  # no path is so narrow that full rows would be shorter
_RESIZE_AFTER: Final = 16  # authentic packets that do not fit, before slots should be of their size


class Slots:
    """Slots [first, used) hold datagrams that are not opened yet."""

    def __init__(self, packet_bytes: int) -> None:
        """`packet_bytes`: of a slot, which is a full packet of ESP."""
        of_one_receive = min(RECEIVE_MAX, RECEIVE_BYTES // packet_bytes + 1)
        count = min(BATCH_MAX, _RECEIVES * of_one_receive)
        self.packet_bytes = packet_bytes
        self._count = count
        self._used_max = count - of_one_receive  # up to here there is room for one receive more
        self._buffer = bytearray(count * packet_bytes + RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self.table = PacketTable(self._buffer, packet_bytes, count)
        self._beside = bytearray(RECEIVE_BYTES + packet_bytes)  # one receive of another size, the last may be short
        self._tables: dict[int, PacketTable] = {}  # over that, by size
        self._first = self._used = 0
        self._short: list[tuple[int, int]] = []  # slot, and octets in it
        self._stride = packet_bytes - OVERHEAD_BYTES
        self._longest = self._longer = 0  # rows that are longer than a slot's
        self._shorter_size = self._shorter = 0  # equal ones that are shorter, came merged, and no full one since
        self.better_stride = 0  # the size of row that authentic packets have had instead, often enough

    def note(self, octets: int, merged: int) -> None:
        """Remember the size of the row of an authentic packet that was opened alone.

        `merged`: the row's size if the packet came merged with others of the same size, or with them and shorter, else
        0. Sizes under ROW_MIN, and those that full rows cannot have, say nothing.
        """
        if octets <= ROW_MIN or octets % 4:
            return
        if octets > self._stride:
            self._longest, self._longer = max(self._longest, octets), self._longer + 1
        elif octets == merged:
            self._shorter = self._shorter + 1 if octets == self._shorter_size else 1
            self._shorter_size = octets

        # What never fits matters more than what only does not fit when merged.
        if self._longer >= _RESIZE_AFTER:
            self.better_stride = self._longest
        elif self._shorter >= _RESIZE_AFTER:
            self.better_stride = self._shorter_size

    def note_full(self) -> None:
        """Remember that authentic packets have filled their slots: the path is not narrower."""
        if self._shorter:
            self._shorter = 0
            self.better_stride = self._longest if self._longer >= _RESIZE_AFTER else 0

    @property
    def has_room(self) -> bool:
        """Whether another receive fits behind what waits."""
        return self._used <= self._used_max

    def space(self) -> memoryview:
        """Where the next receive goes: behind what waits."""
        return self._view[self._used * self.packet_bytes :]

    def pieces(self, length: int, size: int) -> list[memoryview]:
        """Datagrams of `size` octets, the last may be shorter, of which `length` were received into `space`."""
        start = self._used * self.packet_bytes
        return [self._view[at : min(at + size, start + length)] for at in range(start, start + length, size or 1)]

    def others(self, length: int, size: int) -> PacketTable:
        """Move `length` octets that were received into `space` aside; return them as a table of packets of `size`."""
        self._beside[:length] = self.space()[:length]
        table = self._tables.get(size)
        if table is None:
            if len(self._tables) >= _TABLES_MAX:
                self._tables.clear()
            count = min(RECEIVE_MAX, RECEIVE_BYTES // size + 1)
            table = self._tables[size] = PacketTable(self._beside, size, count)
        return table

    def fill(self, length: int) -> memoryview | None:
        """Keep `length` octets received into `space`: datagrams of a slot's size, the last may be shorter.

        Returns the last if it is too short for ESP, or nothing at all; then it is not kept.
        """
        full, tail = divmod(length, self.packet_bytes)
        self._used += full
        if tail >= ESP_MIN:
            self._short.append((self._used, tail))
            self._used += 1
        elif tail or not length:
            return self.at(self._used, tail)
        return None

    def describe(self, it: core.Memory) -> None:
        """Tell the compiled core (stages.h, fwd_socket) where slots are, and how many."""
        it.buffer, it.buffer_octets = self.table.memory, len(self._buffer)
        it.slot_octets, it.slots, it.used_max = self.packet_bytes, self._count, self._used_max

    @property
    def used(self) -> int:
        """How many slots are used."""
        return self._used

    def filled(self, used: int, short: Iterable[tuple[int, int]]) -> None:
        """Note that others have filled slots, up to `used`; `short` are those that are not full, with their octets."""
        self._used = used
        self._short += short

    def at(self, index: int, octets: int) -> memoryview:
        """Return the first octets of a slot."""
        start = index * self.packet_bytes
        return self._view[start : start + octets]

    def runs(self) -> Iterator[tuple[int, int, int, list[tuple[int, int]]]]:
        """Give what waits, run by run of one SPI: SPI, first slot, count, and which are short (index in it, octets)."""
        at, end, size = self._first, self._used, self.packet_bytes
        short, self._short = self._short, []
        self._first = end
        if end - at == 1:
            yield int.from_bytes(self.at(at, 4), "big"), at, 1, [(0, octets) for _, octets in short]
            return

        spis, buffer = self.table.spi, self._buffer
        while at < end:
            stop, spi = end, int(spis[at])
            if end - at > 1 and spis[at:end].tobytes() != buffer[at * size : at * size + 4] * (end - at):
                stop = at + int((spis[at:end] != spi).argmax())
            yield spi, at, stop - at, [(slot - at, octets) for slot, octets in short if at <= slot < stop]
            at = stop

    def clear(self) -> None:
        """Forget what waits."""
        self._first = self._used = 0
        self._short.clear()
