"""What a gateway says of its members and of what it drops: read as a stranger's word, and never believed to be of a
form. An older gateway says nothing of either: pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from fwd.controller.sights import TABLES_MAX
from fwd.proto.drops import DropReason
from fwd.proto.text import line_of

BYTES_MAX: Final = 2**63
_WORD_MAX: Final = 40
_SPIS_MAX: Final = 4
_SENTENCES: Final = {one.label: one.sentence for one in DropReason}
Key = tuple[str, int]  # a peering and a member's index


@dataclass(frozen=True)
class Member:
    """A member. `far`: what IKE calls the gateway that it is paired with; times are of the SA that it sends on."""

    peering: str
    index: int
    state: str
    path: str
    far: str = ""
    mtu: int | None = None
    restarts: int | None = None
    buckets: int | None = None
    bytes: int | None = None  # both ways
    spi_out: str = ""
    spis_in: tuple[str, ...] = ()
    age_s: int | None = None
    rekey_s: int | None = None
    ends_s: int | None = None

    @property
    def key(self) -> Key:
        """By what it is known again."""
        return self.peering, self.index


@dataclass(frozen=True)
class Drop:
    """How much was dropped for a reason."""

    peering: str
    reason: str
    count: int
    sentence: str


def members_in(status: Mapping[str, Any]) -> tuple[Member, ...]:
    """Read the members of all peerings: of no more rows than a gateway has members, whatever they are."""
    members = (_member(peering, row) for peering, row in islice(_rows(status), TABLES_MAX) if isinstance(row, dict))
    return tuple({one.key: one for one in members if one is not None}.values())


def drops_in(status: Mapping[str, Any]) -> tuple[Drop, ...]:
    """Read what was dropped, the most first; a reason that this release does not know has no sentence."""
    found: list[Drop] = []
    for peering, table in _peerings(status):
        rows = table.get("drops")
        for reason, told in list(rows.items())[:TABLES_MAX] if isinstance(rows, dict) else ():
            if (count := _whole(told)) and len(found) < 4 * TABLES_MAX:
                found.append(Drop(peering, line_of(reason, _WORD_MAX), count, _SENTENCES.get(reason, "")))
    return tuple(sorted(found, key=lambda one: (-one.count, one.peering, one.reason)))


def _rows(status: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for peering, table in _peerings(status):
        rows = table.get("each")
        for row in rows if isinstance(rows, list) else ():
            yield peering, row


def _peerings(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    tables = status.get("peerings")
    for table in tables[:TABLES_MAX] if isinstance(tables, list) else ():
        if isinstance(table, dict):
            yield line_of(table.get("name", ""), _WORD_MAX), table


def _member(peering: str, row: Mapping[str, Any]) -> Member | None:
    index, spis = _whole(row.get("index")), row.get("spis_in")
    if index is None or index >= TABLES_MAX:
        return None
    out, into = _whole(row.get("out")), _whole(row.get("in"))
    return Member(
        peering=peering, index=index, state=_word(row.get("state")), path=_word(row.get("path")),
        far=_word(row.get("far")), mtu=_whole(row.get("mtu")), restarts=_whole(row.get("restarts")),
        buckets=_whole(row.get("buckets")), bytes=out + into if out is not None and into is not None else None,
        spi_out=_word(row.get("spi_out")),
        spis_in=tuple(map(_word, spis[:_SPIS_MAX])) if isinstance(spis, list) else (),
        age_s=_whole(row.get("age_s")), rekey_s=_whole(row.get("rekey_s")), ends_s=_whole(row.get("ends_s")),
    )  # fmt: skip


def _whole(value: object) -> int | None:
    """Read a whole number that is not negative, and in which no sum overflows a counter."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < BYTES_MAX else None


def _word(value: object) -> str:
    return line_of(value, _WORD_MAX) if isinstance(value, str) else ""
