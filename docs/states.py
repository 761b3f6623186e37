"""Writes the tables of fwd/proto/ike/states.py into docs/ike.md, between the two markers: `python docs/states.py`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fwd.proto.ike.states import CHILD_MOVES, IKE_MOVES, State, Use

PAGE = Path(__file__).parent / "ike.md"
BEGIN, END = "<!-- states -->\n", "<!-- /states -->\n"


def table(name: str, moves: Mapping[State, Mapping[State, str]] | Mapping[Use, Mapping[Use, str]]) -> str:
    """One row a move; a state that nothing follows has one, too."""
    rows = [f"| {name} | | moves to | when |", "|---|---|---|---|"]
    for old, following in moves.items():
        head = f"{old.name} | {old.value}"
        for new, why in following.items():
            rows.append(f"| {head} | {new.name} | {why} |")
            head = " | "
        if not following:
            rows.append(f"| {head} | | |")
    return "\n".join(rows) + "\n"


def with_tables(page: str) -> str:
    """The page with the tables as they are now."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table('IKE SA', IKE_MOVES)}\n{table('Child SA', CHILD_MOVES)}{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
