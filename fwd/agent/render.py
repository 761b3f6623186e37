"""`fwd status` for people: the status as rich draws it, once or over and over.

Takes the JSON object that the agent gives and nothing else, so it also draws a status that was saved to a file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fwd.proto.errors import UserError

Json = dict[str, Any]

WATCH_PER_S: Final = 2
_PIPE_COLUMNS: Final = 120  # rich takes 80 where there is no terminal
_SUBNETS_SHOWN: Final = 8  # of a side
_STYLES = {"running": "green", "up": "green", "backoff": "yellow", "stopped": "yellow", "failed": "red", "down": "red"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(status: Json) -> None:
    """Print the status once."""
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(render(status))


def watch(ask: Callable[[], Json]) -> None:
    """Draw what `ask` gives until Ctrl-C; a gateway that does not answer is waited for."""
    with Live(auto_refresh=False, console=Console()) as live:
        try:
            while True:
                try:
                    drawn = render(ask())
                except UserError as error:
                    drawn = Text(str(error), "red")
                live.update(drawn, refresh=True)
                time.sleep(1 / WATCH_PER_S)
        except KeyboardInterrupt:
            return


def render(status: Json) -> RenderableType:
    """The whole status as one thing to draw."""
    gateway = status["gateway"]
    up = timedelta(seconds=int(gateway["uptime_s"]))
    head = Text.assemble(
        ("gateway", "bold"), f" fwd {status['version']}, pid {gateway['pid']}, up {up}, ",
        ("ready", "green") if status["ready"] else ("not ready", "red"),
    )  # fmt: skip
    lines: list[RenderableType] = [head]
    lines += [_fact("waits for", reason, "yellow") for reason in status["not_ready"]]
    lines += [_fact("warning", warning, "yellow") for warning in status["warnings"]]
    lines += [_shared_process(process) for process in status["processes"]]
    for peering in status["peerings"]:
        lines += ["", *_peering(peering)]
    return Group(*lines)


def _some(subnets: list[str]) -> str:
    more = len(subnets) - _SUBNETS_SHOWN
    return ", ".join([*subnets[:_SUBNETS_SHOWN], *([f"{more} more"] if more > 0 else [])])


def _peering(peering: Json) -> list[RenderableType]:
    offloads, drops = peering["offloads"], peering["drops"]
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in drops.items() if count)
    outer = f"{peering['local_addrs']} ↔ {peering['remote_addrs']}"
    inner = f"{_some(peering['local_ts'])} ↔ {_some(peering['remote_ts'])}"
    return [
        Text.assemble(("peering", "bold"), " ", (peering["name"], "bold cyan"), f" {outer}, {peering['payload']}"),
        _fact("subnets", inner),
        _fact("device", f"{peering['tun']}, MTU {peering['tun_mtu']}"),
        _fact("offloads", ", ".join(offloads["in_force"]) or "none"),
        *(_fact("refused", f"{name}: {reason}", "yellow") for name, reason in offloads["refused"].items()),
        *([_fact("IKE", peering["ike_error"], "red")] if peering["ike_error"] and not peering["ike_sas"] else []),
        *(
            _fact("fewer members", f"none for member {index}: {reason}", "yellow")
            for index, reason in peering["members_refused"].items()
        ),
        *_certificates(peering["certificates"]),
        _fact("drops", dropped or "none", "yellow" if dropped else ""),
        *(Padding(table, (0, 0, 0, 2)) for table in (_processes(peering), _traffic(peering))),
        *(line for sa in peering.get("ike_sas", []) for line in _ike_sa(sa)),
    ]


def _certificates(told: Json) -> list[RenderableType]:
    if not told:
        return []
    far = f"; {told['remote']} ends in {told['remote_days']:.0f}" if told["remote"] else ""
    return [_fact("certificates", f"ours ends in {told['local_days']:.0f} days{far}", "")]


def _ike_sa(sa: Json) -> list[RenderableType]:
    """An IKE SA and its Child SAs; `*` stands behind the SPI of ours if we have begun."""
    ours, theirs = ("*", "") if sa["initiator"] else ("", "*")
    age = "" if sa["established_s"] is None else f", {timedelta(seconds=sa['established_s'])} ago"
    nat = ", a NAT is before us" if sa["behind_nat"] else ""
    nat += ", a NAT is before the peer" if sa.get("peer_behind_nat") else ""
    table = _table("Child SA", "state", "SPI in", "SPI out", ">ends in", "proposal")
    for child in sorted(sa["children"], key=lambda child: int(child["member"])):
        ends = "never" if child.get("ends_s") is None else str(timedelta(seconds=child["ends_s"]))
        cells = (child["state"], child["spi_in"], child["spi_out"], ends, child["proposal"])
        table.add_row(f"member {child['member']}", *cells)
    return [
        _fact("IKE SA", f"{sa['state']}{age}, {sa['remote_id']} at {sa['remote']}{nat}, "
                        f"{sa['spi_i']}_i{ours} {sa['spi_r']}_r{theirs}"),
        Padding(table, (0, 0, 0, 2)),
    ]  # fmt: skip


def _processes(peering: Json) -> Table:
    table = _table("", "state", ">restarts", ">heartbeat", "path", "SPI out", ">buckets")
    table.add_row("demux", *_life(peering["demux"]))
    for member in peering["members"]:
        path = Text.assemble((member["path"], _STYLES[member["path"]]), f" {member['path_mtu']}")
        spi, buckets = member["spi_out"] or "none", f"{member['buckets']:,}"
        table.add_row(f"member {member['index']}", *_life(member), path, spi, buckets)
    return table


def _traffic(peering: Json) -> Table:
    table = _table("", ">packets sent", ">bytes", ">packets received", ">bytes", "peer")
    demux = peering["demux"]
    table.add_row("demux", "", "", f"{demux['records']:,}", _size(demux["bytes"]))
    for member in peering["members"]:
        counts = [
            cell for way in ("out", "in") for cell in (f"{member[way]['esp_packets']:,}", _size(member[way]["bytes"]))
        ]
        table.add_row(f"member {member['index']}", *counts, member["peer"] or "as configured")
    return table


def _table(*columns: str) -> Table:
    """A plain table; a heading that starts with > stands over numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table


def _life(process: Json) -> tuple[Text, str, str]:
    state = Text(process["state"], _STYLES.get(process["state"], ""))
    return state, str(process["restarts"]), _ago(process["heartbeat_age_ms"])


def _shared_process(process: Json) -> Text:
    state, restarts, heartbeat = _life(process)
    tail = f", restarts {restarts}, last heartbeat {heartbeat} ago"
    return Text.assemble(f"  {process['name']}: ", state, f", pid {process['pid']}", tail)


def _fact(name: str, value: str, style: str = "") -> Text:
    return Text.assemble(f"  {name}: ", (value, style))


def _ago(age_ms: int | None) -> str:
    return "never" if age_ms is None else f"{age_ms / 1000:.2f} s"


def _size(octets: float) -> str:
    for unit in _UNITS:
        if octets < 1024 or unit == _UNITS[-1]:
            break
        octets /= 1024
    return f"{octets:.0f} B" if unit == "B" else f"{octets:.2f} {unit}"
