"""What link and the rest of the gateway tell each other, by shared memory: JSON of this form, read as a stranger's.

The supervisor tells where the controller is and what became of its documents; link tells how it stands with it, and
hands over documents and certificates as they came (datapath/shared.py).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final

Order = tuple[int, int]
REKEYS_MAX: Final = 2**31 - 1  # of a gateway's number; after it comes 0
NOTHING: Final = (0, 0)
BACKDATED_S: Final = 300  # how long before it is issued a certificate begins: clocks differ
_TEXT_MAX: Final = 400
_NUMBER_MAX: Final = 2**63 - 1


@dataclass(frozen=True)
class Validity:
    """When a certificate begins and ends, in seconds since 1970."""

    begins: int
    ends: int


@dataclass(frozen=True)
class News:
    """What the supervisor tells. `addresses`: of the controller; none while its name has not been looked up.

    `seen`: the newest document that was looked at, whatever became of it.
    """

    url: str = ""
    name: str = ""
    addresses: tuple[str, ...] = ()
    applied: Order = NOTHING
    seen: Order = NOTHING
    held: Order | None = None
    held_why: str = ""
    refused: str = ""
    link: Validity | None = None
    ike: Validity | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it as `news_in` reads it."""
        return asdict(self)


def news_in(told: object) -> News | None:
    """Read what `as_json` gave; None: it is none."""
    if not isinstance(told, dict):
        return None
    try:
        return News(
            str(told["url"]), str(told["name"]), tuple(map(str, told["addresses"])), _order(told["applied"]),
            _order(told["seen"]), None if told["held"] is None else _order(told["held"]), str(told["held_why"]),
            str(told["refused"]), _validity(told["link"]), _validity(told["ike"]),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Told:
    """What link tells. Times are monotonic, in seconds; None: never. `clock_s`: how far ours is behind its clock."""

    connected_at: float | None = None  # for as long as it is
    heard_at: float | None = None
    newest: Order = NOTHING
    clock_s: float = 0.0
    error: str = ""

    def encode(self) -> bytes:
        """Return it as `told_in` reads it."""
        return json.dumps(asdict(self)).encode()


def told_in(data: bytes) -> Told:
    """Read what link has told, whatever that is."""
    try:
        fields = json.loads(data or b"{}")
        return Told(
            _time(fields.get("connected_at")), _time(fields.get("heard_at")), _order(fields.get("newest", NOTHING)),
            _number(fields.get("clock_s", 0.0)), _text(fields.get("error", "")),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return Told(error="what link tells cannot be read")


def order_in(value: object) -> Order:
    """Read a (term, generation) that came over the net. Raises ValueError."""
    return _order(value)


def _order(value: object) -> Order:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("no term and generation")
    term, generation = value
    if type(term) is not int or type(generation) is not int:
        raise ValueError("no numbers")
    if not 0 <= min(term, generation) <= max(term, generation) <= _NUMBER_MAX:
        raise ValueError("numbers that cannot be")
    return term, generation


def _validity(value: object) -> Validity | None:
    return None if not isinstance(value, dict) else Validity(int(value["begins"]), int(value["ends"]))


def _time(value: object) -> float | None:
    return None if value is None else _number(value)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e12:
        raise ValueError("no number")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return "".join(one if one.isprintable() else " " for one in value[:_TEXT_MAX])
