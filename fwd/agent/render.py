"""`fwd status` for people: the status as rich draws it, once or over and over.

Takes the JSON object that the agent gives and nothing else, so it also draws a status that was saved to a file.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fwd.model.shown import read
from fwd.model.status import (
    Certificates,
    Controller,
    FarGateway,
    IkeSa,
    Order,
    Peering,
    Process,
    SharedProcess,
    Status,
)
from fwd.proto.drops import DropReason
from fwd.proto.errors import UserError

Json = dict[str, Any]

WATCH_PER_S: Final = 2
_PIPE_COLUMNS: Final = 120  # rich takes 80 where there is no terminal
_SUBNETS_SHOWN: Final = 8  # of a side
_STYLES = {"running": "green", "up": "green", "backoff": "yellow", "stopped": "yellow", "failed": "red", "down": "red"}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def show(drawn: RenderableType) -> None:
    """Print once what `render` or `drops` has drawn."""
    Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS).print(drawn)


def watch(ask: Callable[[], Json]) -> None:
    """Draw what `ask` gives until Ctrl-C; a gateway that does not answer is waited for.

    Where nothing can be drawn over, in a pipe or a dumb terminal, each look is printed below the last one.
    """
    console = Console()
    redraws = console.is_terminal and not console.is_dumb_terminal
    drawing = Live(auto_refresh=False, console=console) if redraws else contextlib.nullcontext()
    with contextlib.suppress(KeyboardInterrupt), drawing as live:
        while True:
            drawn = _look(ask)
            if live:
                live.update(drawn, refresh=True)
            else:
                show(drawn)
                sys.stdout.flush()
            time.sleep(1 / WATCH_PER_S)


def _look(ask: Callable[[], Json]) -> RenderableType:
    """Return what is drawn of one answer, or of why there is none."""
    try:
        return render(ask())
    except UserError as error:
        return Text(str(error), "red")


def render(told: Json) -> RenderableType:
    """Return the whole status as one thing to draw. Raises UserError if it is none."""
    status = _read(told)
    up = timedelta(seconds=int(status.gateway.uptime_s))
    head = Text.assemble(
        ("gateway", "bold"), f" fwd {status.version} ({status.gateway.core}), pid {status.gateway.pid}, up {up}, ",
        ("ready", "green") if status.ready else ("not ready", "red"),
    )  # fmt: skip
    lines: list[RenderableType] = [head]
    lines += [_fact("AES-GCM", status.gateway.cipher)] if status.gateway.cipher else []
    lines += [_fact("waits for", line, "yellow") for line in status.not_ready]
    lines += [_fact("what to do", remedy) for remedy in dict.fromkeys(reason.remedy for reason in status.reasons)]
    if status.gateway.trial_until is not None:
        at = datetime.fromtimestamp(status.gateway.trial_until).strftime("%H:%M:%S")
        lines.append(_fact("on trial", f"this configuration goes at {at} unless `fwd confirm` comes", "yellow"))
    lines += [_fact("warning", warning, "yellow") for warning in status.warnings]
    lines += _controller(status.controller) if status.controller else []
    lines += [_shared_process(process) for process in status.processes]
    for peering in status.peerings:
        lines += ["", *_peering(peering)]
    return Group(*lines)


def _controller(told: Controller) -> list[RenderableType]:
    heard = "never heard" if told.heard_s is None else f"heard {told.heard_s:.0f} s ago"
    for_s = "" if told.connected_s is None else f"connected for {timedelta(seconds=int(told.connected_s))}, "
    applied = f", document {_order(told.applied)}" if told.applied else ", no document yet"
    lines = [_fact("controller", f"{told.url} as {told.name}: {for_s}{heard}{applied}")]
    if told.newest and told.newest != told.applied:
        lines.append(_fact("newest", f"document {_order(told.newest)}", "yellow"))
    if told.held:
        lines.append(_fact("held", f"document {_order(told.held)}: {told.held_why}", "yellow"))
    lines += [_fact("refused", told.refused, "yellow")] if told.refused else []
    lines += [_fact("no connection", told.error, "yellow")] if told.error else []
    ends = [at for at in (told.link_until, told.ike_until) if at is not None]
    lines += [_fact("certificates", f"until {datetime.fromtimestamp(min(ends)):%Y-%m-%d %H:%M}")] if ends else []
    return list(lines)


def _order(order: Order) -> str:
    return f"{order.term}.{order.generation}"


def _some(subnets: list[str]) -> str:
    more = len(subnets) - _SUBNETS_SHOWN
    return ", ".join([*subnets[:_SUBNETS_SHOWN], *([f"{more} more"] if more > 0 else [])])


def _read(told: Json) -> Status:
    try:
        return read(Status, told)
    except ValueError as error:
        raise UserError(f"the gateway's status cannot be read: {error}") from None


def _peering(peering: Peering) -> list[RenderableType]:
    offloads = peering.offloads
    dropped = ", ".join(f"{reason} {count:,}" for reason, count in peering.drops.items() if count)
    outer = f"{peering.local_addrs} ↔ {peering.remote_addrs}"
    inner = f"{_some(peering.local_ts)} ↔ {_some(peering.remote_ts)}"

    # From what is configured to what is wrong with it, and then what each process and SA does.
    return [
        Text.assemble(("peering", "bold"), " ", (peering.name, "bold cyan"), f" {outer}, {peering.payload}"),
        _fact("subnets", inner),
        _fact("device", f"{peering.tun}, MTU {peering.tun_mtu}"),
        _fact("offloads", ", ".join(offloads.in_force) or "none"),
        *(_fact("refused", f"{name}: {reason}", "yellow") for name, reason in offloads.refused.items()),
        *(_far(far) for far in peering.far if len(peering.far) > 1),
        *([_fact("IKE", peering.ike_error, "red")] if peering.ike_error and not peering.ike_sas else []),
        *(
            _fact("fewer members", f"none for member {index}: {reason}", "yellow")
            for index, reason in peering.members_refused.items()
        ),
        *_certificates(peering.certificates),
        _fact("drops", dropped or "none", "yellow" if dropped else ""),
        *(Padding(table, (0, 0, 0, 2)) for table in (_processes(peering), _traffic(peering))),
        *(line for sa in peering.ike_sas for line in _ike_sa(sa)),
    ]


def _far(far: FarGateway) -> Text:
    members = ", ".join(map(str, far.members))
    why = f": {far.error}" if far.error and far.state == "down" else ""
    return _fact("far gateway", f"{far.address} {far.state}, members {members}{why}", _STYLES[far.state])


def drops(told: Json) -> RenderableType:
    """Return what was dropped, by peering and reason, and what each reason means; those of no count last."""
    sentences = {reason.label: reason for reason in DropReason}
    lines: list[RenderableType] = []
    for peering in _read(told).peerings:
        table = _table("reason", ">dropped", "counts", "where", "meaning")
        table.columns[-1].no_wrap = False
        for label, count in sorted(peering.drops.items(), key=lambda drop: -drop[1]):
            row = sentences.get(label)  # a newer gateway may know others
            told_of = (row.unit, row.stage, row.sentence) if row is not None else ("", "", "")
            _add_row(table, Text(label, "yellow" if count else ""), f"{count:,}", *told_of)
        lines += [Text.assemble(("peering", "bold"), " ", (peering.name, "bold cyan")), table, ""]
    return Group(*lines[:-1])


def _certificates(told: Certificates) -> list[RenderableType]:
    if told.local_days is None:
        return []
    far = f"; {told.remote} ends in {told.remote_days:.0f}" if told.remote and told.remote_days is not None else ""
    return [_fact("certificates", f"ours ends in {told.local_days:.0f} days{far}", "")]


def _ike_sa(sa: IkeSa) -> list[RenderableType]:
    """Draw an IKE SA and its Child SAs; `*` stands behind the SPI of ours if we are the initiator."""
    ours, theirs = ("*", "") if sa.initiator else ("", "*")
    age = "" if sa.established_s is None else f", {timedelta(seconds=sa.established_s)} ago"
    nat = ", a NAT is before us" if sa.behind_nat else ""
    nat += ", a NAT is before the peer" if sa.peer_behind_nat else ""
    table = _table("Child SA", "state", "SPI in", "SPI out", ">ends in", "proposal")
    for child in sorted(sa.children, key=lambda child: child.member):
        ends = "never" if child.ends_s is None else str(timedelta(seconds=child.ends_s))
        _add_row(table, f"member {child.member}", child.state, child.spi_in, child.spi_out, ends, child.proposal)
    return [
        _fact("IKE SA", f"{sa.state}{age}, {sa.remote_id} at {sa.remote}{nat}, "
                        f"{sa.spi_i}_i{ours} {sa.spi_r}_r{theirs}"),
        Padding(table, (0, 0, 0, 2)),
    ]  # fmt: skip


def _processes(peering: Peering) -> Table:
    table = _table("", "state", ">restarts", ">heartbeat", "path", "SPI out", ">buckets")
    _add_row(table, "demux", *_life(peering.demux), "", "", "")
    for member in peering.members:
        path = Text.assemble((member.path, _STYLES[member.path]), f" {member.path_mtu}")
        cells = (path, member.spi_out or "none", f"{member.buckets:,}{' (drains)' if member.draining else ''}")
        _add_row(table, f"member {member.index}", *_life(member), *cells)
    return table


def _traffic(peering: Peering) -> Table:
    table = _table("", ">packets sent", ">bytes", ">packets received", ">bytes", "peer")
    _add_row(table, "demux", "", "", f"{peering.demux.records:,}", _size(peering.demux.bytes), "")
    for member in peering.members:
        counts = [cell for way in (member.out, member.in_) for cell in (f"{way.esp_packets:,}", _size(way.bytes))]
        _add_row(table, f"member {member.index}", *counts, member.peer or "as configured")
    return table


def _table(*columns: str) -> Table:
    """A plain table; a heading that starts with > stands over numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in columns:
        table.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", no_wrap=True)
    return table


def _add_row(table: Table, *cells: RenderableType) -> None:
    """Add a row. Raises ValueError unless it has a cell for each heading: rich would add empty ones, or columns."""
    if len(cells) != len(table.columns):
        raise ValueError(f"{len(cells)} cells under {len(table.columns)} headings")
    table.add_row(*cells)


def _life(process: Process) -> tuple[Text, str, str]:
    state = Text(process.state, _STYLES.get(process.state, ""))
    return state, str(process.restarts), _ago(process.heartbeat_age_ms)


def _shared_process(process: SharedProcess) -> Text:
    state, restarts, heartbeat = _life(process)
    tail = f", restarts {restarts}, last heartbeat {heartbeat} ago"
    return Text.assemble(f"  {process.name}: ", state, f", pid {process.pid}", tail)


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
