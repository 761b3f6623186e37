"""`fwd graph`: the fleet as text of a graph, Mermaid's or Graphviz's; pure, and the same for the same fleet.

A VPC is a box with its routers and gateways; a thick edge is a pair, a dashed one what a router spreads flows over.
States stand as words beside their colours. Names are quoted as each format has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fwd.model.seen import Fleet, Json, clusters_of, health_of, plain

_COLOURS: Final = {"up": "#1a7f37", "down": "#b42318", "left": "#b42318"}
_OTHER_COLOUR: Final = "#9a6700"  # neither good nor bad, or not known
_MERMAID_ENTITIES: Final = {ord(one): f"#{ord(one)};" for one in '"#<>&;`|\\'}
_DOT_ESCAPES: Final = {ord('"'): '\\"', ord("\\"): "\\\\"}


class Format(StrEnum):
    """How a graph is written."""

    MERMAID = "mermaid"
    DOT = "dot"


@dataclass(frozen=True)
class Node:
    """A host. `lines`: its label."""

    id: str
    lines: tuple[str, ...]
    state: str
    is_router: bool = False


@dataclass(frozen=True)
class Box:
    """A VPC with its hosts."""

    id: str
    lines: tuple[str, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Edge:
    """Two hosts that are joined; `state`: a pair's, empty: a router's way to a gateway."""

    ends: tuple[str, str]
    label: str = ""
    state: str = ""


@dataclass(frozen=True)
class Graph:
    """All that is drawn."""

    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def graph_of(fleet: Fleet) -> Graph:
    """Say what is drawn of a fleet. A pair whose gateway has just gone is left out."""
    boxes = tuple(
        Box(
            _id("vpc", vpc["name"]),
            (f"VPC {plain(vpc['name'])}", ", ".join(map(plain, vpc.get("cidrs", ())))),
            tuple(_nodes(fleet, vpc["name"])),
        )
        for vpc in fleet["vpcs"]
    )
    there = {node.id for box in boxes for node in box.nodes}
    edges = (*_spreads(fleet), *(_pair(one) for one in fleet["pairs"]))
    return Graph(boxes, tuple(one for one in edges if there.issuperset(one.ends)))


def _nodes(fleet: Fleet, vpc: str) -> Iterator[Node]:
    for one in fleet["routers"]:
        if one.get("vpc") == vpc:
            state = health_of(one)
            yield Node(_id("host", one["name"]), (plain(one["name"]), f"router, {plain(state)}"), state, is_router=True)
    for one in fleet["gateways"]:
        if one.get("vpc") == vpc:
            state, clusters = health_of(one), clusters_of(fleet, one["name"])
            within = f"in {', '.join(map(plain, clusters))}" if clusters else "in no cluster"
            yield Node(_id("host", one["name"]), (plain(one["name"]), f"gateway {within}, {plain(state)}"), state)


def _spreads(fleet: Fleet) -> Iterator[Edge]:
    """What a router spreads flows over: the gateways of its VPC's clusters that are peered."""
    peered = {name for one in fleet["peerings"] for name in one.get("clusters", ())}
    for router in fleet["routers"]:
        mine = (one for one in fleet["clusters"] if one.get("vpc") == router.get("vpc") and one["name"] in peered)
        for name in sorted({gateway for one in mine for gateway in one.get("gateways", ())}):
            yield Edge((_id("host", router["name"]), _id("host", name)))


def _pair(one: Json) -> Edge:
    state, rtt_ms = str(one.get("state", "unknown")), one.get("rtt_ms")
    words = [plain(one.get("peering")), plain(state)] + ([f"{rtt_ms:.1f} ms"] if rtt_ms is not None else [])
    return Edge((_id("host", str(one.get("a"))), _id("host", str(one.get("b")))), ", ".join(words), state)


def _id(kind: str, name: str) -> str:
    """Return an id that every format takes, and that no two names share: dashes are letters of names, `_` is not."""
    return f"{kind}_" + re.sub(r"[^a-z0-9]", lambda one: "_" if one[0] == "-" else f"_x{ord(one[0]):x}_", name)


def text_of(graph: Graph, format: Format) -> str:
    """Write a graph."""
    return "\n".join(_WRITERS[format](graph)) + "\n"


# -- Mermaid ----------------------------------------------------------------------------------------------------------


def _mermaid(graph: Graph) -> Iterator[str]:
    yield "flowchart LR"
    for box in graph.boxes:
        yield f"  subgraph {box.id}[{_mermaid_label(box.lines)}]"
        for node in box.nodes:
            opening, closing = ("([", "])") if node.is_router else ("[", "]")
            yield f"    {node.id}{opening}{_mermaid_label(node.lines)}{closing}"
        yield "  end"
    for edge in graph.edges:
        line = f"=={_mermaid_label((edge.label,))}===" if edge.state else "-.->"
        yield f"  {edge.ends[0]} {line} {edge.ends[1]}"

    # Styles come last: they name nodes by id and edges by their number.
    for node in (node for box in graph.boxes for node in box.nodes):
        yield f"  style {node.id} stroke:{_colour(node.state)}"
    for number, edge in enumerate(graph.edges):
        if edge.state:
            yield f"  linkStyle {number} stroke:{_colour(edge.state)}"


def _mermaid_label(lines: tuple[str, ...]) -> str:
    return '"' + "<br>".join(line.translate(_MERMAID_ENTITIES) for line in lines if line) + '"'


# -- Graphviz ---------------------------------------------------------------------------------------------------------


def _dot(graph: Graph) -> Iterator[str]:
    yield "digraph fwd {"
    yield "  rankdir=LR;"
    yield "  node [shape=box];"
    for box in graph.boxes:
        yield f"  subgraph cluster_{box.id} {{"
        yield f"    label={_dot_label(box.lines)};"
        for node in box.nodes:
            shape = "ellipse" if node.is_router else "box"
            yield f'    {node.id} [label={_dot_label(node.lines)}, shape={shape}, color="{_colour(node.state)}"];'
        yield "  }"
    for edge in graph.edges:
        attributes = "style=dashed"
        if edge.state:
            attributes = f'label={_dot_label((edge.label,))}, dir=both, penwidth=2, color="{_colour(edge.state)}"'
        yield f"  {edge.ends[0]} -> {edge.ends[1]} [{attributes}];"
    yield "}"


def _dot_label(lines: tuple[str, ...]) -> str:
    return '"' + "\\n".join(line.translate(_DOT_ESCAPES) for line in lines if line) + '"'


def _colour(state: str) -> str:
    return _COLOURS.get(state, _OTHER_COLOUR)


_WRITERS: Final[Mapping[Format, Callable[[Graph], Iterator[str]]]] = {Format.MERMAID: _mermaid, Format.DOT: _dot}
