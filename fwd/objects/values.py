"""What a user writes of an object, `KEY=VALUE`, and how objects are shown: pure.

`KEY=VALUE` sets a field, of a list its entries with commas between; `KEY+=VALUE` and `KEY-=VALUE` add to a list and
take from it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fwd.objects.kinds import Kind
from fwd.proto.errors import UserError

_WORD: Final = re.compile(r"([a-z_]+)(\+=|-=|=)(.*)", re.DOTALL)


def fields_in(kind: Kind, words: Iterable[str], there: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read fields. `there`: the object as it is, which += and -= need. Raises UserError."""
    found: dict[str, Any] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None:
            raise UserError(f"{word!r}: expected KEY=VALUE, with one of the keys {', '.join(kind.fields)}")
        key, sign, text = match.groups()
        if key not in kind.fields:
            raise UserError(f"{key}: unknown key: use one of {', '.join(kind.fields)}")
        if key in found:
            raise UserError(f"{key} stands here twice: entries of a list have commas between")
        found[key] = _value(kind, key, text) if sign == "=" else _edited(kind, key, sign, text, there)
    return found


def needs_object(words: Iterable[str]) -> bool:
    """Whether a field is changed by what it is."""
    return any(match and match[2] != "=" for match in map(_WORD.fullmatch, words))


def _value(kind: Kind, key: str, text: str) -> Any:
    if key in kind.lists:
        return [one.strip() for one in text.split(",") if one.strip()]
    if key not in kind.numbers:
        return text
    try:
        number = int(text) if text.isdecimal() else float(text)
    except ValueError:
        raise UserError(f"{key}: expected a number, not {text!r}") from None
    if isinstance(number, float) and not math.isfinite(number):
        raise UserError(f"{key}: expected a number that is finite, not {text!r}")
    return number


def _edited(kind: Kind, key: str, sign: str, text: str, there: Mapping[str, Any] | None) -> list[str]:
    if key not in kind.lists:
        raise UserError(f"{key}{sign}: {key} is no list: use {key}=VALUE")
    if there is None:
        raise UserError(f"{key}{sign}: there is nothing yet to add to or take from: use {key}=VALUE")
    entries, named = list(there.get(key, ())), _value(kind, key, text)
    if sign == "+=":
        return entries + [one for one in named if one not in entries]
    if missing := [one for one in named if one not in entries]:
        raise UserError(f"{key}-={missing[0]}: it is not there: {', '.join(entries) or 'it is empty'}")
    return [one for one in entries if one not in named]


def table(columns: Mapping[str, str], objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show objects as lines, a column for each heading."""
    rows = [list(columns), *([cell(path, _at(one, path)) for path in columns.values()] for one in objects)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(columns))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def cell(path: str, value: Any) -> str:
    """Show a value."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if path in ("at", "since") or path.endswith("_at"):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(value))
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def lines_of(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Show an object, a line a key."""
    lines: list[str] = []
    for key, one in value.items():
        if isinstance(one, dict):
            lines += [f"{indent}{key}:", *lines_of(one, indent + "  ")]
        elif isinstance(one, list) and key in ("plan", "steps", "evidence"):
            lines += [f"{indent}{key}:", *(f"{indent}  {line}" for line in one)]
        else:
            lines.append(f"{indent}{key}: {cell(key, one)}")
    return lines


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
