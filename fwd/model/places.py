"""Where in a TOML file something stands that is wrong: by its line, and by the name of its table.

tomllib keeps no places. A line is looked for as people write configurations, a header or a key to a line; where the
file is written otherwise, the line of what it is in is found, or none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

_HEADER: Final = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*\]\]?\s*(?:#.*)?")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
_AT: Final = re.compile(r"\(at line (\d+), column (\d+)\)")
_BARE: Final = re.compile(r"[A-Za-z0-9_./:-]+")
_QUOTES: Final = "“”„‟‘’‚‛«»‹›″′`´"


def named(words: Sequence[str], data: object) -> list[str]:
    """Return a place with the name of the table that it is in, where it has one, in the place of a number."""
    found, at = list(words), data
    for n, word in enumerate(words):
        try:
            at = at[int(word)] if isinstance(at, list) else at[word]  # type: ignore[index]
        except (LookupError, TypeError, ValueError):
            break
        name = at.get("name") if isinstance(at, dict) and word.isdecimal() else None
        if isinstance(name, str) and _NAME.fullmatch(name):
            found[n] = name
    return found


def line_of(words: Sequence[str], text: str) -> int | None:
    """Return the line of a place, or else of the table that it is in or belongs to; None: it cannot be told."""
    counts: dict[str, int] = {}
    table: tuple[str, ...] = ()
    best, line = 0, None
    for number, row in enumerate(text.split("\n"), 1):
        if header := _HEADER.fullmatch(row):
            table = _table(header[1] == "[[", [part.strip() for part in header[2].split(".")], counts)
            place = table
        elif key := _KEY.match(row):
            place = (*table, key[1])
        else:
            continue
        if best < len(place) <= len(words) and tuple(words[: len(place)]) == place:
            best, line = len(place), number
    return line


def _table(is_several: bool, parts: list[str], counts: dict[str, int]) -> tuple[str, ...]:
    """Return which table a header begins: of [[several]] the next one, and what is in one is in the last."""
    first, *rest = parts
    if is_several and not rest:
        counts[first] = counts.get(first, -1) + 1
    number = [str(counts[first])] if first in counts else []
    return (first, *number, *rest)


def remedy(message: str, text: str) -> str:
    """Say what to do about one of tomllib's messages: quotes are missing, or are none in TOML, or it stands twice."""
    if message.startswith(("Cannot declare", "Cannot overwrite")):
        return "; it stands above already: write it once"
    if not (at := _AT.search(message)):
        return ""

    # Quotes and blanks of a text processor first: where they are, texts seem to have no quotes.
    row, column = text.split("\n")[int(at[1]) - 1], int(at[2]) - 1
    for one in row[column : column + 1] + row.partition("#")[0]:
        if found := strange(one):
            return f"; {found}"

    # Of 192.0.2.1 tomllib reads 192.0, and expects the line's end behind it.
    words = (word[0] for word in _BARE.finditer(row) if word.start() <= column < word.end())
    is_bare = any(not word.isdecimal() for word in words)
    is_value = message.startswith(("Expected newline", "Unclosed array")) and is_bare
    return "; texts are in quotes" if is_value or message.startswith("Invalid value") else ""


def strange(text: str) -> str:
    """Say which character of a text is a quote or a blank that is none in TOML; empty: there is none."""
    for one in text:
        if one in _QUOTES:
            return f'{one} is no straight quote: write "…" as a plain keyboard does'
        if one not in " \t\r" and unicodedata.category(one) in ("Zs", "Zl", "Zp", "Cf"):
            return f"there is an unseen character (U+{ord(one):04X}): remove it, and type a plain space"
    return ""
