"""Texts of somebody else's, before they are kept, logged or shown."""

from __future__ import annotations


def line_of(text: object, most: int) -> str:
    """Return a text as one line of `most` characters that every terminal, log and form takes: what cannot be printed,
    halves of characters (surrogates) among it, is a question mark.
    """
    line = " ".join(str(text)[:most].split())
    return line if line.isprintable() else "".join(one if one.isprintable() else "?" for one in line)
