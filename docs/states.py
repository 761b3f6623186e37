"""Writes the tables of fwd/proto/ike/states.py and fwd/keyd/pair_states.py into docs/ike.md, each between its markers:
`python docs/states.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fwd.keyd.pair_states import FOLLOWS
from fwd.proto.ike.states import CHILD_MOVES, IKE_MOVES, State, Use

PAGE = Path(__file__).parent / "ike.md"
STATES = "<!-- states -->\n", "<!-- /states -->\n"
PAIRS = "<!-- pairs -->\n", "<!-- /pairs -->\n"


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


def table_of_pairs() -> str:
    """Return one row for everything that may happen to a pair; a state that nothing follows has one, too."""
    rows = ["| pair | | what happens | moves to |", "|---|---|---|---|"]
    for old, following in FOLLOWS.items():
        head = f"{old.name} | {old.value}"
        for happening, new in following.items():
            rows.append(f"| {head} | {happening.name}: {happening.value} | {new.name} |")
            head = " | "
        if not following:
            rows.append(f"| {head} | | |")
    return "\n".join(rows) + "\n"


def put(page: str, marks: tuple[str, str], text: str) -> str:
    """Return the page with this text between two marks."""
    begin, end = marks
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{text}{end}{after}"


def with_tables(page: str) -> str:
    """Return the page with the tables as they are now."""
    page = put(page, STATES, f"{table('IKE SA', IKE_MOVES)}\n{table('Child SA', CHILD_MOVES)}")
    return put(page, PAIRS, table_of_pairs())


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
