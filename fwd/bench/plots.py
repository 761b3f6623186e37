"""The plots of a bench's results, as SVG and PNG: peers, scale, failover. The same results give the same SVG.

Colours are Okabe and Ito's, which colour-blind readers tell apart; lightness alone carries the streams. What a quick
run has left out is left out here, too. Needs matplotlib, which the extra `bench` brings.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from fwd.bench.result import Figure, Result

MISSING: Final = "no plots: matplotlib is not there: pip install 'fwd[bench]'"
PEERS: Final = {
    "fwd": "fwd\nsuperpacket",
    "fwd-pure": "fwd\npure Python",
    "fwd-esp": "fwd\nesp",
    "wireguard-go": "wireguard-go",
    "openvpn": "OpenVPN",
    "strongswan": "strongSwan\nlibipsec",
}
_STREAMS: Final = ("1", "4", "16")
_OURS: Final = ("#9ecae9", "#3b93cd", "#0072b2")  # light to dark: more streams
_THEIRS: Final = ("#d0d0d0", "#9a9a9a", "#636363")
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#7f7f7f"
_STYLE: Final[dict[Any, Any]] = {
    "svg.hashsalt": "fwd",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e5e5e5",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "savefig.dpi": 150,
}
_SIZE = (10.0, 4.6)  # inches
_SIZE_OF_PEERS: Final = (14.0, 5.0)  # there are many
_WIDE = (14.5, 4.6)


def available() -> bool:
    """Is matplotlib there?"""
    return importlib.util.find_spec("matplotlib") is not None


def draw(out: Path, results: Mapping[str, Result]) -> list[str]:
    """Draw what the results allow; returns the names, each of which is NAME.svg and NAME.png in `out`."""
    drawn = []
    for name, plot in _PLOTS.items():
        if name in results:
            with _style():
                _save(plot(results[name]), out, name)
            drawn.append(name)
    return drawn


def footer(result: Result, rest: str) -> str:
    """Where and how it was measured, in one line."""
    where = result["environment"]
    words = [where["cpu"], f"{where['cores']} cores", f"Linux {where['kernel']}", f"Python {where['python']}"]
    words += [f"fwd {where['fwd']} {where['commit']}".rstrip(), rest]
    return ", ".join(words) + (" – QUICK RUN, not a measurement" if result["quick"] else "")


def _style() -> AbstractContextManager[None]:
    import matplotlib

    matplotlib.use("Agg")
    return matplotlib.rc_context(_STYLE)


def _save(figure: Any, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})
    figure.savefig(out / f"{name}.png", metadata={"Software": None})


def _canvas(title: str, foot: str, widths: Sequence[float], size: tuple[float, float] = _SIZE) -> tuple[Any, Any]:
    """A figure with a title, a footer, and axes side by side."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=size, layout="constrained")
    canvas.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    canvas.supxlabel(foot, x=0.01, ha="left", fontsize=7.5, color=_GREY)
    return canvas, canvas.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]


def _spread(figures: Sequence[Figure], scale: float = 1.0) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far they are from the lowest and the highest."""
    medians = [figure["median"] * scale for figure in figures]
    below = [max(0.0, figure["median"] - figure["low"]) * scale for figure in figures]
    above = [max(0.0, figure["high"] - figure["median"]) * scale for figure in figures]
    return medians, [below, above]


# -- peers --------------------------------------------------------------------------------------------------------


def _peers(result: Result) -> Any:
    measured = result["measurements"]
    rest = f"medians of {result['rounds']} rounds in turns, whiskers from lowest to highest"
    title = "fwd beside its peers: one machine, one lab, in turns"
    canvas, (tcp, udp) = _canvas(title, footer(result, rest), (3.2, 1), _SIZE_OF_PEERS)
    streams = [count for count in _STREAMS if f"tcp-{count}" in measured]
    width = 0.8 / max(1, len(streams))
    for place, count in enumerate(streams):
        for x, peer, figure in _present(measured[f"tcp-{count}"]):
            shade = _STREAMS.index(count)
            colour = (_OURS if peer.startswith("fwd") else _THEIRS)[shade]
            at = x + (place - (len(streams) - 1) / 2) * width
            _bar(tcp, at, width, figure, colour)
    _name_peers(tcp, [measured[f"tcp-{count}"] for count in streams])
    bare = [f"{measured[f'tcp-{c}']['plain']['median'] / 1e3:.1f}" for c in streams if "plain" in measured[f"tcp-{c}"]]
    ceiling = f" (without a tunnel: {' / '.join(bare)} Gbit/s)" if bare else ""
    tcp.set_title(f"TCP, client1 to client2: Mbit/s received\nby number of streams{ceiling}")
    _legend_of_streams(tcp, streams)
    _packets(udp, measured.get("udp-64", {}))
    return canvas


def _packets(axes: Any, of_kind: Mapping[str, Figure]) -> None:
    """Bars that lie, the first peer on top: their names need the room."""
    places = _present(of_kind)
    for y, peer, figure in places:
        (median,), spread = _spread([figure], 1e-3)
        colour = _OURS[2] if peer.startswith("fwd") else _THEIRS[2]
        axes.barh(y, median, 0.6, color=colour, xerr=spread, ecolor="#333333", error_kw={"lw": 1, "capsize": 2})
        at = (figure["high"] * 1e-3, y)
        axes.annotate(_count(median), at, (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_yticks([y for y, _, _ in places], [_label(peer) for _, peer, _ in places], fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.margins(x=0.15)
    axes.set_title("UDP, 64 bytes: thousand\npackets/s at under 1 % loss")


def _present(of_kind: Mapping[str, Figure]) -> list[tuple[int, str, Figure]]:
    """(place, peer, figure) of the peers that are drawn, newer versions first."""
    return [(x, peer, of_kind[peer]) for x, peer in enumerate(_order([of_kind])) if peer in of_kind]


def _order(kinds: Sequence[Mapping[str, Figure]]) -> list[str]:
    named = sorted({peer for kind in kinds for peer in kind}, reverse=True)
    return [peer for program in PEERS for peer in named if _split(peer)[0] == program]


def _name_peers(axes: Any, kinds: Sequence[Mapping[str, Figure]]) -> None:
    peers = _order(kinds)
    axes.set_xticks(range(len(peers)), [_label(peer) for peer in peers], fontsize=9)
    axes.tick_params(axis="x", length=0)


def _label(peer: str) -> str:
    program, version = _split(peer)
    return f"{PEERS[program]}\n{version}".rstrip()


def _split(peer: str) -> tuple[str, str]:
    """Its program, and which version or binary, if there are several."""
    found = re.fullmatch(r"(.+?)(?:-([\d.]+)|:(.+))?", peer)
    assert found is not None
    return found[1], found[2] or found[3] or ""


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def _bar(axes: Any, x: float, width: float, figure: Figure, colour: str) -> None:
    (median,), spread = _spread([figure])
    axes.bar(x, median, width * 0.94, color=colour, yerr=spread, ecolor="#333333", error_kw={"lw": 1, "capsize": 2})
    at = (x, figure["high"])
    axes.annotate(_count(median), at, (0, 3), textcoords="offset points", ha="center", fontsize=7.5)


def _legend_of_streams(axes: Any, streams: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    shades = [(_OURS[_STREAMS.index(s)], _THEIRS[_STREAMS.index(s)]) for s in streams]
    handles: list[Any] = [(Patch(color=ours), Patch(color=theirs)) for ours, theirs in shades]
    labels = [f"{count} stream{'s' * (count != '1')}" for count in streams]
    from matplotlib.legend_handler import HandlerTuple

    axes.legend(handles, labels, loc="upper center", handler_map={tuple: HandlerTuple(ndivide=None, pad=0)})


# -- scale --------------------------------------------------------------------------------------------------------


def _scale(result: Result) -> Any:
    foot = footer(result, "medians, whiskers from lowest to highest")
    canvas, (line, pairs, cores) = _canvas("Throughput by number of members, and of gateways", foot, (1, 1, 1), _WIDE)
    _line_limited(line, result["line"], "members", "Line-limited, a 5-tuple")
    _line_limited(pairs, result["pairs"], "pairs", "Pairs of gateways, each gateway")
    _core_limited(cores, result["cores"])
    return canvas


def _line_limited(axes: Any, part: Mapping[str, Any], of: str, what: str) -> None:
    points = part["points"]
    counts = [point[of] for point in points]
    medians, spread = _spread([point["mbps"] for point in points])
    ideal = [point["ideal_mbps"] for point in points]
    axes.plot(counts, ideal, color=_GREY, ls="--", label="ideal: min(N × cap, line)")
    axes.errorbar(counts, medians, spread, color=_BLUE, fmt="o-", capsize=3, label="fwd, on the wire")
    if all("delivered_mbps" in point for point in points):
        delivered, around = _spread([point["delivered_mbps"] for point in points])
        axes.errorbar(counts, delivered, around, color=_ORANGE, fmt="s-", capsize=3, label="delivered")
    axes.set_title(
        f"{what} {part['cap_mbps']:g} Mbit/s, the line {part['line_mbps']:g}\n"
        f"ESP on the wire, Mbit/s, {part['streams']} TCP streams"
    )
    _counts_axis(axes, counts, of)


def _core_limited(axes: Any, part: Mapping[str, Any]) -> None:
    points = part["points"]
    members = [point["members"] for point in points]
    for key, label, colour, marker in (("sealed", "sealed", _BLUE, "o"), ("opened", "opened", _ORANGE, "s")):
        medians, spread = _spread([point[f"gbps_{key}"] for point in points])
        ideal = [medians[0] / members[0] * count for count in members]
        axes.plot(members, ideal, color=colour, ls="--", lw=1, alpha=0.6)
        axes.errorbar(members, medians, spread, color=colour, fmt=f"{marker}-", capsize=3, label=label)
    axes.set_title("Core-limited: one demux, N pinned members, in memory\nGbit/s (dashed: N × one member)")
    shares = ", ".join(f"{point['demux_share']['median']:.0%}" for point in points if "demux_share" in point)
    if shares:
        axes.text(
            0.98, 0.05, f"the demux's share of the CPU: {shares}", transform=axes.transAxes, ha="right", fontsize=9,
            color=_GREY,
        )  # fmt: skip
    _counts_axis(axes, members, "members")


def _counts_axis(axes: Any, counts: Sequence[int], of: str) -> None:
    axes.set_xticks(counts)
    axes.set_xlabel(of)
    axes.set_xlim(min(counts) - 0.3, max(counts) + 0.3)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")


# -- failover -----------------------------------------------------------------------------------------------------


def _failover(result: Result) -> Any:
    foot = footer(result, f"{result['streams']} TCP streams, 1 kHz probes on {result['members']} members")
    title = (
        f"A member killed every {result['kill_every_s']:g} s, {result['kills']} times: how long its flows were silent"
    )
    canvas, (axes,) = _canvas(title, foot, (1,))

    # Both distributions, and where the percentiles of the kills are.
    for key, label, colour in (("quiet_gaps_ms", "nobody killed", _GREY), ("gaps_ms", "killed", _BLUE)):
        gaps = sorted(result[key]["values"])
        shares = [(place + 1) / len(gaps) for place in range(len(gaps))]
        axes.step([0, *gaps], [0, *shares], where="post", color=colour, lw=2, label=label)
    for percent in ("p50", "p99"):
        gap = result["gaps_ms"][percent]
        axes.axvline(gap, color=_BLUE, lw=1, ls=":")
        axes.annotate(
            f"{percent} {gap:.0f} ms", (gap, 0.02), (-3, 0), textcoords="offset points", ha="right", fontsize=9
        )

    axes.set_xlabel("longest silence of the probe in the second after, ms")
    axes.set_title("share of the kills (of the undisturbed seconds) with a shorter one")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.legend(loc="best")
    return canvas


_PLOTS: Final[Mapping[str, Callable[[Result], Any]]] = {"peers": _peers, "scale": _scale, "failover": _failover}
