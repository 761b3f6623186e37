"""`fwd graph`: the fleet as Mermaid's and Graphviz's text."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
from fleetkit import fleet

from fwd.tools.graph import Format, graph_of, text_of

_STRING = r'"(?:[^"\\\n]|\\.)*"'
_DOT_ATTRIBUTES = rf"\[\w+=(?:{_STRING}|\w+)(?:, \w+=(?:{_STRING}|\w+))*\]"
_DOT_LINE = re.compile(
    rf"digraph fwd {{|rankdir=LR;|subgraph \w+ {{|label={_STRING};|\w+ (?:-> \w+ )?{_DOT_ATTRIBUTES};|}}"
)
_MERMAID_LABEL = r'"[^"\n]*"'
_MERMAID_LINE = re.compile(
    rf"flowchart LR|subgraph \w+\[{_MERMAID_LABEL}\]|end|\w+(?:\[{_MERMAID_LABEL}\]|\(\[{_MERMAID_LABEL}\]\))"
    rf"|\w+ (?:-\.->|=={_MERMAID_LABEL}===) \w+|(?:style|linkStyle) \w+ stroke:#[0-9a-f]{{6}}"
)
EVIL = 'x"];\n} <script>#&`\\'


def written(told: dict[str, list[dict[str, Any]]], format: Format) -> list[str]:
    return [line.strip() for line in text_of(graph_of(told), format).splitlines()]


@pytest.mark.parametrize(
    ("format", "line"),
    [
        (Format.MERMAID, 'subgraph vpc_vpc1["VPC vpc1<br>10.1.0.0/16, fd00:1::/64"]'),
        (Format.MERMAID, 'host_r1(["r1<br>router, up"])'),
        (Format.MERMAID, 'host_a_2["a-2<br>gateway in c1, down"]'),
        (Format.MERMAID, "host_r1 -.-> host_a1"),
        (Format.MERMAID, 'host_a1 =="one-two, up, 1.2 ms"=== host_b1'),
        (Format.MERMAID, 'host_a_2 =="one-two, down"=== host_b1'),
        (Format.MERMAID, "style host_a_2 stroke:#b42318"),
        (Format.MERMAID, "linkStyle 2 stroke:#1a7f37"),
        (Format.DOT, r'label="VPC vpc1\n10.1.0.0/16, fd00:1::/64";'),
        (Format.DOT, r'host_r1 [label="r1\nrouter, up", shape=ellipse, color="#1a7f37"];'),
        (Format.DOT, "host_r1 -> host_a_2 [style=dashed];"),
        (Format.DOT, 'host_a1 -> host_b1 [label="one-two, up, 1.2 ms", dir=both, penwidth=2, color="#1a7f37"];'),
    ],
)
def test_the_fleet_is_drawn(format: Format, line: str) -> None:
    assert line in written(fleet(), format)


@pytest.mark.parametrize(("format", "grammar"), [(Format.MERMAID, _MERMAID_LINE), (Format.DOT, _DOT_LINE)])
@pytest.mark.parametrize("name", ["a1", "end", "graph", "node", "a--b", EVIL])
def test_whatever_the_names_are_the_text_is_of_the_formats_grammar(
    format: Format, grammar: re.Pattern[str], name: str
) -> None:
    told = fleet()
    told["vpcs"][0]["cidrs"] = [name]
    told["gateways"][1]["name"] = told["clusters"][0]["gateways"][0] = told["pairs"][0]["a"] = name
    told["gateways"][0]["health"]["state"] = told["pairs"][0]["peering"] = name
    lines = written(told, format)
    strange = [line for line in lines if not grammar.fullmatch(line) and line not in ("node [shape=box];",)]
    assert not strange
    opened, closed = ("{", "}") if format is Format.DOT else ("subgraph", "end")
    heads = [line for line in lines if (line.endswith("{") if format is Format.DOT else line.startswith(opened))]
    assert len(heads) == sum(line == closed for line in lines)


def test_every_edge_is_between_hosts_that_are_drawn() -> None:
    told = fleet()
    del told["gateways"][1]  # deleted between two answers
    graph = graph_of(told)
    there = {node.id for box in graph.boxes for node in box.nodes}
    assert {end for edge in graph.edges for end in edge.ends} <= there
    assert len(graph.edges) == 2


def test_a_router_spreads_over_gateways_of_peered_clusters_alone() -> None:
    ends = {edge.ends for edge in graph_of(fleet()).edges if not edge.state}
    assert ends == {("host_r1", "host_a1"), ("host_r1", "host_a_2")}


def test_a_gateway_of_two_clusters_is_drawn_once_with_the_pairs_of_both() -> None:
    told = fleet()
    told["vpcs"].append({"name": "vpc3", "cidrs": ["10.3.0.0/16"]})
    told["gateways"].append({**told["gateways"][3], "name": "d1", "vpc": "vpc3"})
    told["clusters"] += [
        {"name": "c3", "vpc": "vpc1", "gateways": ["a1"]}, {"name": "c4", "vpc": "vpc3", "gateways": ["d1"]},
    ]  # fmt: skip
    told["peerings"].append({**told["peerings"][0], "name": "one-three", "clusters": ["c3", "c4"]})
    told["pairs"].append({**told["pairs"][0], "peering": "one-three", "b": "d1"})

    graph = graph_of(told)
    drawn = [node for box in graph.boxes for node in box.nodes if node.id == "host_a1"]
    assert [node.lines for node in drawn] == [("a1", "gateway in c1, c3, up")]
    ends = sorted((edge.ends, edge.label) for edge in graph.edges if "host_a1" in edge.ends)
    assert ends == [
        (("host_a1", "host_b1"), "one-two, up, 1.2 ms"), (("host_a1", "host_d1"), "one-three, up, 1.2 ms"),
        (("host_r1", "host_a1"), ""),
    ]  # fmt: skip


@pytest.mark.parametrize("format", list(Format))
def test_the_same_fleet_gives_the_same_text_whatever_order_it_is_told_in(format: Format) -> None:
    from fwd.model.seen import KINDS
    from fwd.tools.fleet import read

    texts = set()
    for seed in range(3):
        told = fleet()
        for items in told.values():
            random.Random(seed).shuffle(items)
        ordered = read(lambda path, told=told: {"items": told[path.removeprefix("/v1/")]})  # type: ignore[misc]
        assert tuple(ordered) == KINDS
        texts.add(text_of(graph_of(ordered), format))
    assert len(texts) == 1
