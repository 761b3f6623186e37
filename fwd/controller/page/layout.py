"""Where everything is on the map: pure, and the same for the same fleet, whatever its states.

VPCs stand in two columns, so that peerings cross the space between them: VPCs that are peered stand on opposite sides
wherever that can be. Each is a box with its clusters, gateways in rows within, and routers at its outer edge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log10
from typing import Final

from fwd.controller.page.looks import Look
from fwd.controller.page.views import ClusterView, FleetView, HostView, PairView, PeeringView, VpcView

WIDTH: Final = 1160
_BOX_W: Final = 400
_SIDES: Final = (24, WIDTH - 24 - _BOX_W)
_TOP: Final = 16
_GAP: Final = 28
_HEAD: Final = 52  # of a VPC: its name, its subnets
_TITLE: Final = 28  # of a cluster
_ROW: Final = 28
_PAD: Final = 12
_LABEL_H: Final = 60
_LABEL_W: Final = (150.0, 304.0)  # the more of the line is seen, the shorter its texts are
_LETTER_W: Final = 7.6
_MARK_W: Final = 42.0
_SUMS: Final = 3  # states that are summed in a row
_SUM_W: Final = 122
_SUBNETS_MAX: Final = 46  # letters that a box has room for
_WIDTHS: Final = (4.0, 16.0)  # of a peering's line
_QUIET_BITS_S: Final = 1e6  # up to which a line is thinnest; a thousand times as much makes it thickest


@dataclass(frozen=True)
class Node:
    """A gateway's or router's row: the middle of its shape, and from where to where it reaches."""

    host: HostView
    x: float
    y: float
    left: float
    right: float


@dataclass(frozen=True)
class Sum:
    """How many gateways of a cluster are in a state; (x, y): the middle of its shape."""

    look: Look
    number: int
    x: float
    y: float


@dataclass(frozen=True)
class ClusterBox:
    """A cluster's box, with the gateways that are drawn, and all of them summed if that are not all."""

    cluster: ClusterView
    x: float
    y: float
    w: float
    h: float
    nodes: tuple[Node, ...]
    sums: tuple[Sum, ...]


@dataclass(frozen=True)
class VpcBox:
    """A VPC's box. `side`: 0 left, 1 right. `subnets`: as many as there is room for."""

    vpc: VpcView
    subnets: str
    side: int
    x: float
    y: float
    w: float
    h: float
    clusters: tuple[ClusterBox, ...]
    loose: tuple[Node, ...]
    routers: tuple[Node, ...]


@dataclass(frozen=True)
class Line:
    """A peering's line, or a pair's. `path`: as SVG has it; (x, y): the middle of its label, which is
    `label_w` wide.
    """

    path: str
    x: float
    y: float
    width: float
    peering: PeeringView
    pair: PairView | None = None

    @property
    def label_w(self) -> float:
        """How wide a label its texts need."""
        one = self.peering
        texts = one.name, f"{one.look.word}, {one.counted}" + (" (old)" if one.old else "")
        least, most = _LABEL_W
        return min(max(least, _MARK_W + _LETTER_W * max(map(len, texts))), most)


@dataclass(frozen=True)
class Map:
    """All of it."""

    width: float
    height: float
    boxes: tuple[VpcBox, ...]
    lines: tuple[Line, ...]


def layout(fleet: FleetView, opened: str = "") -> Map:
    """Lay a fleet out. `opened`: the peering whose pairs are drawn."""
    sides = _sides(fleet)
    down, boxes = [_TOP, _TOP], []
    for vpc in fleet.vpcs:
        side = sides[vpc.name]
        box = _vpc(vpc, side, down[side])
        down[side] += round(box.h) + _GAP
        boxes.append(box)

    # Labels of lines must not cover each other, so they may need more room than the boxes.
    clusters = {one.cluster.name: (box, one) for box in boxes for one in box.clusters}
    lines = _apart([line for one in fleet.peerings for line in _peering(one, clusters)])
    lines += [line for one in fleet.peerings if one.name == opened for line in _pairs(one, clusters)]
    lowest = max((line.y + _LABEL_H / 2 for line in lines), default=0.0)
    return Map(WIDTH, max(*down, lowest + _PAD, 120), tuple(boxes), tuple(lines))


def _sides(fleet: FleetView) -> dict[str, int]:
    """Say on which side each VPC stands: peered ones on opposite ones, the rest where there are fewer."""
    near: dict[str, list[str]] = {one.name: [] for one in fleet.vpcs}
    for one in fleet.peerings:
        a, b = one.vpcs
        if a in near and b in near:
            near[a].append(b)
            near[b].append(a)

    # From one VPC over its peerings to all that hang together; those without any come last.
    found: dict[str, int] = {}
    for first in sorted(near, key=lambda name: (not near[name], name)):
        if first in found:
            continue
        count = [list(found.values()).count(side) for side in (0, 1)]
        found[first] = int(count[1] < count[0])

        waiting = [first]
        while waiting:
            name = waiting.pop(0)
            for other in sorted(near[name]):
                if other not in found:
                    found[other] = 1 - found[name]
                    waiting.append(other)
    return found


def _vpc(vpc: VpcView, side: int, y: float) -> VpcBox:
    x, at = float(_SIDES[side]), y + _HEAD
    clusters = []
    for cluster in vpc.clusters:
        box = _cluster(cluster, x + _PAD, at)
        clusters.append(box)
        at += box.h + _PAD
    loose = _rows(vpc.loose, x + _PAD, at)
    at += _ROW * len(loose)

    # Routers stand at the outer edge: their VPC's flows come in there.
    edge = x if side == 0 else x + _BOX_W
    routers = tuple(replace(node, x=edge) for node in _rows(vpc.routers, x + _PAD, at))
    at += _ROW * len(routers)
    return VpcBox(vpc, _subnets(vpc.cidrs), side, x, y, _BOX_W, at + _PAD - y, tuple(clusters), loose, routers)


def _cluster(cluster: ClusterView, x: float, y: float) -> ClusterBox:
    nodes = _rows(cluster.shown, x, y + _TITLE)
    below, counts = y + _TITLE + _ROW * len(nodes), cluster.counts if cluster.collapsed else ()
    sums = tuple(
        Sum(look, number, x + 18 + _SUM_W * (n % _SUMS), below + _ROW * (n // _SUMS + 0.5))
        for n, (look, number) in enumerate(counts)
    )
    height = below - y + _ROW * ceil(len(counts) / _SUMS) + _PAD / 2
    return ClusterBox(cluster, x, y, _BOX_W - 2 * _PAD, height, nodes, sums)


def _subnets(cidrs: Sequence[str]) -> str:
    """Write the first of a VPC's subnets, and how many more there are."""
    count = max((n for n in range(1, len(cidrs) + 1) if len(", ".join(cidrs[:n])) <= _SUBNETS_MAX), default=1)
    rest = len(cidrs) - count
    return ", ".join(cidrs[:count]) + (f" and {rest} more" if rest > 0 else "")


def _rows(hosts: Sequence[HostView], x: float, y: float) -> tuple[Node, ...]:
    right = x + _BOX_W - 2 * _PAD
    return tuple(Node(one, x + 18, y + _ROW * (n + 0.5), x, right) for n, one in enumerate(hosts))


_Clusters = Mapping[str, tuple[VpcBox, ClusterBox]]


def _peering(one: PeeringView, clusters: _Clusters) -> Iterator[Line]:
    """The line between two clusters, from edge to edge."""
    if not all(name in clusters for name in one.clusters):
        return
    (a_vpc, a), (b_vpc, b) = (clusters[name] for name in one.clusters)
    ay, by = a.y + _TITLE / 2, b.y + _TITLE / 2
    ax, bx = _inner(a_vpc, a.x, a.x + a.w), _inner(b_vpc, b.x, b.x + b.w)
    yield Line(_curve(ax, ay, bx, by), WIDTH / 2, (ay + by) / 2, _width(one.bits_s), one)


def _pairs(one: PeeringView, clusters: _Clusters) -> Iterator[Line]:
    """The lines between gateways that are drawn, or their clusters where they are not."""
    if not all(name in clusters for name in one.clusters):
        return
    for pair in one.pairs:
        ends = []
        for gateway, name in zip((pair.a, pair.b), one.clusters, strict=True):
            vpc, box = clusters[name]
            node = next((node for node in box.nodes if node.host.name == gateway), None)
            y = node.y if node is not None else box.y + box.h - _ROW / 2
            ends.append((_inner(vpc, box.x, box.x + box.w), y))
        (ax, ay), (bx, by) = ends
        yield Line(_curve(ax, ay, bx, by), (ax + bx) / 2, (ay + by) / 2, 2.0, one, pair)


def _inner(vpc: VpcBox, left: float, right: float) -> float:
    return right if vpc.side == 0 else left


def _curve(ax: float, ay: float, bx: float, by: float) -> str:
    """A curve that leaves both ends towards the middle, also if both stand on one side."""
    middle = WIDTH / 2
    return f"M{ax:g} {ay:g}C{middle:g} {ay:g} {middle:g} {by:g} {bx:g} {by:g}"


def _width(bits_s: float | None) -> float:
    """How thick a line is: by the logarithm of what goes through it."""
    thin, thick = _WIDTHS
    if not bits_s or bits_s <= _QUIET_BITS_S:
        return thin
    return round(min(thick, thin + (thick - thin) * log10(bits_s / _QUIET_BITS_S) / 3), 1)


def _apart(lines: Sequence[Line]) -> list[Line]:
    """Move labels down that would cover the one above."""
    found: list[Line] = []
    lowest = float("-inf")
    for line in sorted(lines, key=lambda one: (one.y, one.peering.name)):
        y = max(line.y, lowest + _LABEL_H, _TOP + _LABEL_H / 2)
        found.append(replace(line, y=y))
        lowest = y
    return found
