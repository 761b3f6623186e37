"""The Markdown report of a bench: environment, a table for each part, the plots, and how it stands to the targets.

It says what the JSON says and nothing more: medians with their spread, how often each was measured, and loss beside
speed. Parts that have not been run are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fwd.bench import paper
from fwd.bench.result import Figure, Result
from fwd.bench.targets import Verdict, number, text

PARTS: Final = ("peers", "scale", "micro", "costs", "failover", "profile")
FILE: Final = "report.md"
Row = Sequence[str]


def write(out: Path, results: Mapping[str, Result], verdicts: Sequence[Verdict], plots: Iterable[str]) -> Path:
    """Write the report beside the results; returns where."""
    path = out / FILE
    path.write_text("\n".join(render(results, verdicts, set(plots))) + "\n", encoding="utf-8")
    return path


def render(results: Mapping[str, Result], verdicts: Sequence[Verdict], plots: set[str]) -> Iterator[str]:
    """The report's lines."""
    yield "# fwd bench"
    yield ""
    if any(result["quick"] for result in results.values()):
        yield "**A quick run is among these results: it shows that every figure is there, not how fast anything is.**"
        yield ""
    yield "Medians, with the lowest and the highest in parentheses. Compare ratios of one run: such a machine's speed"
    yield "drifts within minutes."
    yield ""
    yield from _environment(results)
    if verdicts:
        yield from _verdicts(verdicts)
    for part in PARTS:
        if part in results:
            yield f"## {part}"
            yield ""
            if part in plots:
                yield f"![{part}]({part}.svg)"
                yield ""
            yield from _SECTIONS[part](results[part])


def table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    """A Markdown table and an empty line; columns of numbers are set to the right."""
    rows = [list(row) for row in rows]
    columns = zip(*rows, strict=True) if rows else ([] for _ in head)
    rules = ["---:" if all(cell[:1].isdigit() or cell == "–" for cell in column) else "---" for column in columns]
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(rules)}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _environment(results: Mapping[str, Result]) -> Iterator[str]:
    yield "## Environment"
    yield ""
    rows = []
    for part, result in results.items():
        where = result["environment"]
        libraries = ", ".join(f"{name} {version}" for name, version in where["libraries"].items())
        machine = f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}"
        rows.append((part, machine, f"{where['python']}; {libraries}", f"{where['fwd']} {where['commit']}",
                     f"{result['seconds']:,.0f} s{' (quick)' if result['quick'] else ''}"))  # fmt: skip
    yield from table(("part", "machine", "Python", "fwd", "took"), rows)
    if len({result["environment"]["commit"] for result in results.values()}) > 1:
        yield "The parts were run on different commits."
        yield ""


def _verdicts(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    rows = [(v.name, v.measured, v.target, f"**{v.state}**" if v.state == "SHORT" else v.state) for v in verdicts]
    yield from table(("figure", "measured", "target", ""), rows)


# -- peers --------------------------------------------------------------------------------------------------------


def _peers(result: Result) -> Iterator[str]:
    yield f"Rounds: {result['rounds']}; in each every peer has its turn. UDP: packets delivered at under 1 % loss."
    yield ""
    yield from table(
        ("peer", "version", "settings", "from"),
        ((peer, of["version"], of["settings"], of["source"]) for peer, of in result["peers"].items()),
    )
    if result["unfetched"]:
        yield f"Newer versions of the peers were not fetched, and so not measured: {result['unfetched']}."
        yield ""

    # What each carried, and how that stands beside fwd.
    yield from _by_peer("traffic", result["measurements"], result["peers"])
    yield "fwd over each peer, round by round (`esp-…`: with payload `esp`; `pure-…`: in pure Python; for ms"
    yield "and CPU, less is better):"
    yield ""
    yield from _by_peer("traffic", result["ratios"], result["peers"])

    # What it cost: segments and pings lost on the way, and CPU.
    for key, words in (("retransmits", "TCP segments retransmitted:"), ("unanswered", "Share of pings unanswered:")):
        if result.get(key):
            yield words
            yield ""
            yield from _by_peer("traffic", result[key], result["peers"])
    yield "CPU seconds for each gigabyte carried, 4 TCP streams, by process:"
    yield ""
    rows = [(peer, title, text(figure)) for peer, of in result["cpu"].items() for title, figure in of.items()]
    yield from table(("peer", "process", "CPU"), rows)


def _by_peer(head: str, kinds: Mapping[str, Mapping[str, Figure]], peers: Iterable[str]) -> Iterator[str]:
    columns = [peer for peer in peers if any(peer in of_kind for of_kind in kinds.values())]
    rows = [(_kind(kind, of), *(text_or_dash(of.get(peer)) for peer in columns)) for kind, of in kinds.items()]
    yield from table((head, *columns), rows)


def _kind(kind: str, figures: Mapping[str, Figure]) -> str:
    units = {figure["unit"] for figure in figures.values()} - {"ratio", "share", "segments", "share lost"}
    return f"{kind}, {units.pop()}" if len(units) == 1 else kind


def text_or_dash(figure: Figure | None) -> str:
    """A cell without its unit, which stands in the row's name."""
    return "–" if figure is None else text({**figure, "unit": "ratio" if figure["unit"] == "ratio" else ""})


# -- the others ---------------------------------------------------------------------------------------------------


def _scale(result: Result) -> Iterator[str]:
    line, cores = result["line"], result["cores"]
    yield f"**Line-limited**: each member's 5-tuple is held to {line['cap_mbps']:g} Mbit/s, the line to"
    yield f"{line['line_mbps']:g}; {line['streams']} TCP streams, ESP bytes on the wire."
    yield ""
    rows = [
        (str(point["members"]), text(point["mbps"]), f"{point['ideal_mbps']:g} Mbit/s", text(point["share_of_ideal"]),
         text(point["busy"]["share_of_ideal"]))
        for point in line["points"]
    ]  # fmt: skip
    yield from table(("members", "measured", "min(N × cap, line)", "of it", "with half a core taken"), rows)
    yield from _pairs(result["pairs"])
    yield "**Core-limited**: one demux feeds N pinned members over real rings, in memory; no sockets, no device."
    yield ""
    keys = ("gbps_sealed", "gbps_opened", "efficiency_sealed", "efficiency_opened", "demux_share")
    head = ("members", "sealed", "opened", "efficiency", "efficiency, opened", "demux's share of CPU")
    yield from table(head, ([str(point["members"]), *(text(point[key]) for key in keys)] for point in cores["points"]))


def _pairs(part: Mapping[str, Any]) -> Iterator[str]:
    yield f"**By gateways**: N pairs behind routers, each gateway held to {part['cap_mbps']:g} Mbit/s, the line between"
    yield f"the VPCs to {part['line_mbps']:g}; {part['streams']} TCP streams, payload `{part['payload']}`. What is on"
    yield "the wire, with all that ESP adds, is held to the ideal; delivered is what reaches the far client of it."
    yield ""
    rows = [
        (str(point["pairs"]), text(point["mbps"]), f"{point['ideal_mbps']:g} Mbit/s", text(point["share_of_ideal"]),
         text(point["delivered_mbps"]))
        for point in part["points"]
    ]  # fmt: skip
    yield from table(("pairs", "on the wire", "min(N × cap, line)", "of it", "delivered"), rows)


def _micro(result: Result) -> Iterator[str]:
    yield "Each beside its floor, timed in turns; 1 is as fast as the floor."
    yield ""
    rows = [
        (name, text(of["ours_us"]), text(of["floor_us"]), text(of["of_floor"]), of["what"])
        for name, of in result["pairs"].items()
    ]
    yield from table(("what", "ours", "floor", "floor / ours", "the floor is"), rows)


def of_costs(result: Result) -> Iterator[str]:
    """What a record costs, and what follows from it, as lines of Markdown."""
    octets = f"{paper.SMALL} and {paper.LARGE:,} octets"
    yield f"CPU time of a record of {octets} at each step, and what follows from both: so much for each record, and for"
    yield "each octet. The kernel's steps are the same in both forms."
    yield ""
    rows = [
        (form, step, text(sizes["small_us"]), text(sizes["large_us"]),
         f"{of['fit'][step]['record_us']:.2f} µs", f"{of['fit'][step]['octet_ns']:.3f} ns")
        for form, of in result["forms"].items()
        for step, sizes in of["steps"].items()
    ]  # fmt: skip
    yield from table(("form", "step", "small", "large", "a record", "an octet"), rows)

    # What so many cores carry with that.
    yield "Gbit/s one way on paper, with so many cores on each side, and what is full then. The kernel's steering is"
    yield "computed: members do the demux's work."
    yield ""
    rows = [
        (form, str(point["cores"]), *(cell for way in ("demux", "kernel")
                                      for cell in (number(point[way]["gbps"]), point[way]["full"])))
        for form, of in result["forms"].items()
        for point in of["points"]
    ]  # fmt: skip
    yield from table(("form", "cores", "demux steers", "full", "kernel steers (computed)", "full"), rows)

    # And whether costs tell what is measured.
    yield "A demux and members that share so many cores, in memory: what costs let expect, and what was measured."
    yield ""
    rows = [
        (form, str(row["cores"]), what, text(row[what]["computed_gbps"]), text(row[what]["gbps"]),
         text(row[what]["of_computed"]))
        for form, of in result["forms"].items()
        for row in of["shared"]
        for what in ("sealed", "opened")
    ]  # fmt: skip
    yield from table(("form", "cores", "records", "computed", "measured", "measured / computed"), rows)


def _failover(result: Result) -> Iterator[str]:
    killed, quiet = result["gaps_ms"], result["quiet_gaps_ms"]
    yield f"{result['kills']} kills, one every {result['kill_every_s']:g} s, of {result['members']} members in turns,"
    yield f"under {result['streams']} TCP streams: the longest silence of the killed member's 1 kHz probe after each"
    yield "kill, beside that of seconds without one."
    yield ""
    ways = ("p50", "p90", "p99", "max")
    rows = [(title, *(f"{of[way]:.0f} ms" for way in ways)) for title, of in (("killed", killed), ("not", quiet))]
    yield from table(("", *ways), rows)
    lost = result["lost_probes"] / (result.get("sent_probes") or 1)
    yield f"TCP resets: {result['tcp_resets']}. Throughput all the while: {number(result['received_mbps'])} Mbit/s;"
    yield f"{result['retransmits']:,} segments retransmitted, {result['lost_probes']:,} probes lost ({lost:.2%})."
    yield ""


def _profile(result: Result) -> Iterator[str]:
    yield f"{result['members']} members, {result['streams']} TCP streams, {text(result['delivered_mbps'])} delivered"
    yield f"without the sampler. Stages by: {result['sampler']}."
    yield ""
    rows = [
        (title, f"{of['cores']:.2f}", f"{of['user']:.0%}", f"{of['system']:.0%}", f"{of['record_bytes']:,}")
        for title, of in result["processes"].items()
    ]
    yield from table(("process", "cores used", "user", "kernel", "bytes a record"), rows)
    for title, of in result["processes"].items():
        if of.get("stages"):
            yield from _stages(title, of)
    yield f"The demux's share of its gateway's CPU: {text(result['demux_share'])}."
    yield ""
    jumbo = result["jumbo"]
    yield f"Super-packets over a line of 9,000 bytes: {text(jumbo['mbps']['9000'])}; of 1,500 bytes:"
    yield f"{text(jumbo['mbps']['1500'])}; ratio {text(jumbo['ratio'])}; {jumbo['streams']} TCP streams."
    yield ""


def _stages(title: str, process: Mapping[str, Any]) -> Iterator[str]:
    yield f"{title}: {process['samples']:,} samples, {process['waiting']:.0%} of them waiting; of the others:"
    yield ""
    rows = [
        (row["stage"], row["direction"], row["where"], f"{row['share']:.1%}", _us(row.get("us_per_record")))
        for row in process["stages"]
    ]
    yield from table(("stage", "direction", "where", "share", "µs a record"), rows)


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


_SECTIONS: Final = {
    "peers": _peers,
    "scale": _scale,
    "micro": _micro,
    "costs": of_costs,
    "failover": _failover,
    "profile": _profile,
}
