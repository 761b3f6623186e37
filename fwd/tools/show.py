"""`fwd show`: the fleet at one look, as the controller's API tells a viewer; a text as wide as there is room for."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Final

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fwd.model.seen import Fleet, Json, carries, clusters_of, health_of, pairs_of, plain
from fwd.tools.fleet import fetch

_PIPE_COLUMNS: Final = 120
_GOOD, _WAITING, _BAD = "green", "yellow", "red"
_STYLES: Final = {
    "up": _GOOD, "degraded": _WAITING, "draining": _WAITING, "joining": _WAITING, "unreachable": _WAITING,
    "unknown": _WAITING, "empty": _WAITING, "down": _BAD, "left": _BAD,
}  # fmt: skip
_SHORT: Final = ("KIND", "STATE", "FOR", "PAIRS", "RTT", "LOSS")  # columns that a narrow terminal does not break
_SKEW_S: Final = 30.0
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def run(*, as_json: bool) -> None:
    """Ask the controller, and print. Raises UserError."""
    fleet = fetch()
    if as_json:
        print(json.dumps(fleet, indent=2))
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS, highlight=False)
    for part in drawn(fleet, time.time()):
        console.print(part)


def drawn(fleet: Fleet, now: float) -> Iterator[RenderableType]:
    """Draw each VPC with its hosts, then what joins them. `now`: the time of day."""
    if not fleet["vpcs"]:
        yield "nothing yet: `fwd vpc create NAME cidrs=…` makes the first VPC"
    for vpc in fleet["vpcs"]:
        yield Text.assemble((f"VPC {plain(vpc['name'])}", "bold"), f"  {_listed(vpc.get('cidrs'))}")
        yield from _indented(_clusters(fleet, vpc["name"]), _hosts(fleet, vpc["name"], now))
        yield from _reasons(fleet, vpc["name"])
        yield ""
    for peering in fleet["peerings"]:
        yield _peering(peering)
        yield from _indented(_pairs(fleet, peering["name"]))


def _indented(*tables: Table) -> Iterator[RenderableType]:
    for one in tables:
        if one.row_count:
            yield Padding(one, (0, 0, 0, 2), expand=False)


def _clusters(fleet: Fleet, vpc: str) -> Table:
    rows = ((one["name"], _listed(one.get("gateways"))) for one in fleet["clusters"] if one.get("vpc") == vpc)
    return _table(("CLUSTER", "OF"), rows)


def _hosts(fleet: Fleet, vpc: str, now: float) -> Table:
    return _table(("HOST", "KIND", "IN", "STATE", "FOR", "PAIRS"), _host_rows(fleet, vpc, now))


def _hosts_of(fleet: Fleet, vpc: str) -> Iterator[tuple[str, Json]]:
    for kind in ("router", "gateway"):
        yield from ((kind, one) for one in fleet[f"{kind}s"] if one.get("vpc") == vpc)


def _host_rows(fleet: Fleet, vpc: str, now: float) -> Iterator[tuple[object, ...]]:
    for kind, one in _hosts_of(fleet, vpc):
        pairs = pairs_of(fleet, one["name"])
        counted = f"{sum(map(carries, pairs))} of {len(pairs)}" if pairs else "-"
        within = _listed(clusters_of(fleet, one["name"])) if kind == "gateway" else "-"
        since = (one.get("health") or {}).get("since")
        yield one["name"], kind, within, _state(health_of(one)), _age(since, now), counted


def _reasons(fleet: Fleet, vpc: str) -> Iterator[RenderableType]:
    """Why hosts are as they are, and what they wait for a person to do: lines of their own, for they may be long."""
    for _, one in _hosts_of(fleet, vpc):
        reasons = [(one.get("health") or {}).get("reason")]
        reasons += _hints(one)
        if told := "; ".join(plain(reason) for reason in reasons if reason):
            yield Padding(Text.assemble((f"{plain(one['name'])}: ", "bold"), told, overflow="fold"), (0, 0, 0, 2))


def _hints(host: Json) -> Iterator[str]:
    """What a person is to see to, whatever its state."""
    if host.get("held"):
        yield "holds a document back until `fwd apply --accept-shrink` there"
    if host.get("outdated"):
        yield f"runs fwd {host.get('version')}, which is older than the controller"
    skew_s = host.get("clock_skew_s")
    if isinstance(skew_s, int | float) and abs(skew_s) > _SKEW_S:
        yield f"its clock is {skew_s:+.0f} s off"


def _peering(one: Json) -> Text:
    ends, state = " - ".join(map(plain, one.get("clusters", ()))), str(one.get("state", "unknown"))
    counted = f"{one.get('pairs_up', 0)} of {one.get('pairs', 0)} pairs"
    how = f"  {ends}, {plain(one.get('path', '-'))}, {plain(one.get('payload', '-'))}: "
    return Text.assemble((f"peering {plain(one['name'])}", "bold"), how, _state(state), f", {counted}")


def _pairs(fleet: Fleet, peering: str) -> Table:
    rows = (
        (f"{plain(one.get('a'))} - {plain(one.get('b'))}", _state(str(one.get("state", "unknown"))),
         "-" if one.get("rtt_ms") is None else f"{one['rtt_ms']:.1f} ms", f"{one.get('loss') or 0:.1%}")
        for one in fleet["pairs"] if one.get("peering") == peering
    )  # fmt: skip
    return _table(("PAIR", "STATE", "RTT", "LOSS"), rows)


def _table(headings: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> Table:
    """Lay out rows; what is too long goes on in the next line, so nothing is lost in a narrow terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for one in headings:
        table.add_column(one, overflow="fold", no_wrap=one in _SHORT, min_width=len(one))
    for row in rows:
        table.add_row(*(one if isinstance(one, Text) else Text(plain(one)) for one in row))
    return table


def _state(state: str) -> Text:
    return Text(plain(state), _STYLES.get(state, ""))


def _listed(values: object) -> str:
    return ", ".join(map(plain, values)) or "-" if isinstance(values, list) else "-"


def _age(since: object, now: float) -> str:
    """For how long something holds, by its largest unit; a clock that is set back makes it 0 s."""
    if not isinstance(since, int | float):
        return "-"
    seconds = max(0, int(now - since))
    size, unit = next((one for one in _UNITS if seconds >= one[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"
