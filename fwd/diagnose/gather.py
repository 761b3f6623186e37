"""Gathers what `fwd diagnose` judges: asks the gateway, the kernel and the files, and changes nothing.

What cannot be looked at (no right, no nft, no answer) is said in `unseen`, and its checks find nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import resource
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from fwd.agent.client import query
from fwd.diagnose import echo
from fwd.diagnose.facts import Around, Echo, Facts, Limits, Port, Way
from fwd.files import why_no_probe_key
from fwd.keyd.checkup import examine
from fwd.model.config import Config, Peering
from fwd.model.pairing import Far
from fwd.model.shown import read
from fwd.model.status import SCHEMA, Status
from fwd.model.words import Address, ConfigError, is_address
from fwd.proto.errors import UserError
from fwd.supervise import filters, guards, host, network, obstacles, owner, sandbox
from fwd.supervise.guards import Found
from fwd.supervise.netlink import Kernel
from fwd.supervise.users import find_users

T = TypeVar("T")
_STA_UNSYNC, _TIMEX_BYTES, _TIMEX_STATUS = 0x40, 208, 40  # struct timex on 64-bit machines
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
_TUN_TAKES_BYTES: Final = 65536  # GSO_LEGACY_MAX_SIZE of Linux
_PAST: Final = re.compile(r"iifname != .* saddr .*counter packets (\d+) bytes")
_PORT_ERRORS: Final = {errno.EADDRINUSE: "taken", errno.EADDRNOTAVAIL: "no address", errno.EACCES: "not permitted"}


class Look:
    """Looks at one thing after the other, and keeps what could not be looked at."""

    def __init__(self) -> None:
        self.unseen: list[str] = []

    def at(self, what: str, act: Callable[..., T], *arguments: Any) -> T | None:
        """Return what `act` finds; None if it cannot be looked at."""
        try:
            return act(*arguments)
        except (OSError, ValueError, UserError, NetlinkError) as error:
            self.unseen.append(f"{what}: {' '.join(str(error).split())}")
            return None


def gather(config: Config, control: Path, file: Path | None = None) -> Facts:
    """Look at everything for `config`, which is in `file`; the gateway is asked at `control`."""
    look = Look()
    absent = _absence(control)
    status = None if absent else look.at("the gateway", _status, control)
    unheard, look.unseen = look.unseen, []
    placed, nameless = _placed(config, status)
    with IPRoute() as ip:
        pairs = [(peering, far) for peering in placed for far in peering.fars]
        peerings = [_peering(look, ip, peering, far, runs=not absent) for peering, far in pairs]

    tables = look.at("filters", network.other_tables) or ""
    peerings = [replace(one, filters=_dropping(tables, one)) for one in peerings]
    guarded = look.at("leak guards' counters", network.counted_tables, [guards.table_name(one) for one in placed]) or {}
    peerings = [replace(one, past=_past(guarded, one)) for one in peerings]

    # Who does not answer costs seconds: all are asked at once.
    with ThreadPoolExecutor(len(peerings) or 1) as pool:
        answers = pool.map(lambda one: look.at(f"{one.peering.name}: echo", _echo, one), peerings)
        peerings = [replace(one, echo=answer) for one, answer in zip(peerings, answers, strict=True)]
    devices = {
        one
        for around in peerings
        for one in (around.outer_device, around.outer.device if around.outer else "", around.peering.tun, *around.lans)
        if one
    }
    return Facts(
        config=config,
        status=status,
        absent=absent,
        unheard="".join(unheard),
        others=len(owner.living()) - (status is not None),
        left=look.at("leak guards", _left, config, file) or Found({}, {}),
        peerings=peerings,
        nameless=nameless,
        probe_key=look.at("the probe key", _probe_key, config) or "",
        lacks=(look.at("the host", _lacks, config) or []) if absent else [],
        walls=sandbox.missing(),
        sysctls=_sysctls(devices),
        clock_synchronised=look.at("the clock", _clock),
        limits=look.at("limits", _limits, status, absent),
        unseen=look.unseen,
    )


def _probe_key(config: Config) -> str:
    path = config.gateway.probe_key
    return why_no_probe_key(path) if path is not None else ""


def _placed(config: Config, status: Status | None) -> tuple[list[Peering], dict[str, str]]:
    """Return the peerings with addresses for names, the gateway's if it has some; and why others cannot have one."""
    in_use = {one.name: one.remote_addrs.split(", ") for one in status.peerings} if status else {}
    placed: list[Peering] = []
    nameless: dict[str, str] = {}
    for peering in config.peering:
        if not peering.names:
            placed.append(peering)
            continue
        ends = [str(leg.address) for leg in peering.legs]
        shown = in_use.get(peering.name, [])
        known = dict(zip(ends, shown, strict=True)) if len(ends) == len(shown) else {}
        try:
            found = {
                name: known[name] if is_address(known.get(name, "")) else _looked_up(name, peering.local_addrs)
                for name in peering.names
            }
            placed.append(peering.at({name: ip_address(one) for name, one in found.items()}))
        except (OSError, ConfigError) as error:
            nameless[peering.name] = getattr(error, "strerror", None) or str(error)
    return placed, nameless


def _looked_up(name: str, local: Address) -> str:
    return str(socket.getaddrinfo(name, None, _FAMILIES[local.version], socket.SOCK_DGRAM)[0][4][0])


def _peering(look: Look, ip: IPRoute, peering: Peering, far: Far, *, runs: bool) -> Around:
    """What the host has around one peering and far gateway; its ports are its own while it runs."""
    name, leg = peering.name, peering.towards(far)
    around = look.at(f"{name}: addresses and routes", _around, ip, leg) or Around(leg)
    return replace(
        around,
        keys=look.at(f"{name}: keys", examine, leg) or [],
        ports=[] if runs or far.number else list(_ports(peering)),
    )


def _absence(control: Path) -> str:
    """How it is known that no gateway runs; empty: one does, or it cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(control))
        except (FileNotFoundError, ConnectionRefusedError) as error:
            return f"nobody answers at {control} ({error.strerror})"
        except OSError:
            pass
    return ""


def _left(config: Config, file: Path | None) -> Found:
    """Look for guards of dead fwds that no start with this configuration takes away."""
    asks = Kernel()
    try:
        standing = network.look(asks)
    finally:
        asks.close()
    mark = owner.mark_of(config.gateway.control, file)
    return guards.strangers_left(standing, config.peering, owner.living(), mark)


def _status(control: Path) -> Status:
    try:
        told = query(control)
    except OSError as error:
        raise UserError(f"nobody answers at {control} ({error.strerror or error})") from None
    if told.get("schema") != SCHEMA:
        raise UserError("it speaks another schema: use its own `fwd`")
    return read(Status, told)


def _lacks(config: Config) -> list[str]:
    """What the host does not give, as `fwd demux` finds it."""
    try:
        users = find_users(config.gateway.user)
    except UserError as error:
        return [str(error)]
    return host.missing(host.look(config.gateway.control.parent), config, users)


# -- addresses, routes, paths -------------------------------------------------------------------------------------


def _around(ip: IPRoute, peering: Peering) -> Around:
    addresses = list(_addresses(ip))
    outer_device = next((device for address, device in addresses if address == peering.local_addrs), "")
    held = [
        (str(subnet), device)
        for subnet in peering.local_ts
        for address, device in addresses
        if address.version == subnet.version and address in subnet
    ]
    inner = {str(subnet): _way(ip, subnet[min(1, subnet.num_addresses - 1)]) for subnet in peering.remote_ts}
    own, lans = frozenset(subnet for subnet, _ in held), frozenset(device for _, device in held)
    return Around(peering, outer_device, _way(ip, peering.far), inner, own, lans, _big(ip, lans))


def _dropping(tables: str, around: Around) -> tuple[str, ...]:
    """Chains that let nothing pass of some subnet pair."""
    peering = around.peering
    pairs = obstacles.pairs(peering.local_ts, peering.remote_ts)
    lans = dict.fromkeys(peering.local_ts, around.lans) if len(around.lans) == 1 else {}
    return filters.dropping(tables, filters.ways(peering.tun, lans, pairs))


def _past(guarded: Mapping[str, str], around: Around) -> int:
    """How many packets of remote subnets the leak guard has dropped."""
    return sum(map(int, _PAST.findall(guarded.get(guards.table_name(around.peering), ""))))


def _big(ip: IPRoute, lans: Collection[str]) -> dict[str, int]:
    """Which of these devices join IPv6 packets to more than a TUN device takes (BIG TCP), and to how much."""
    joined = {link.get_attr("IFLA_IFNAME"): link.get_attr("IFLA_GRO_MAX_SIZE") or 0 for link in ip.get_links()}
    return {device: joined[device] for device in sorted(lans) if joined.get(device, 0) > _TUN_TAKES_BYTES}


def _addresses(ip: IPRoute) -> Iterator[tuple[Address, str]]:
    names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in ip.get_links()}
    for message in ip.get_addr():
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text:
            yield ip_address(text), names.get(message["index"], "")


def _way(ip: IPRoute, address: Address) -> Way | None:
    try:
        (route,) = ip.route("get", dst=str(address), family=_FAMILIES[address.version])
        (device,) = ip.get_links(route.get_attr("RTA_OIF"))
    except (NetlinkError, ValueError):
        return None
    name, mtu = device.get_attr("IFLA_IFNAME"), device.get_attr("IFLA_MTU")
    return Way(name, min(mtu, 65535), route.get_attr("RTA_PREFSRC") or "")


def _echo(around: Around) -> Echo | None:
    peering = around.peering
    if around.outer is None or not around.outer_device:
        return None
    most = max(peering.path_mtu or 0, around.outer.mtu_bytes)
    return echo.measure(peering.local_addrs, peering.far, most)


# -- ports --------------------------------------------------------------------------------------------------------


def _ports(peering: Peering) -> Iterator[Port]:
    wanted = {port: f"member {i}" for i, port in enumerate(peering.ports)}
    if peering.ike:
        wanted[peering.ike.ike_port] = "IKE"
    for number, of in sorted(wanted.items()):
        with socket.socket(_FAMILIES[peering.local_addrs.version], socket.SOCK_DGRAM) as sock:
            try:
                sock.bind((str(peering.local_addrs), number))
            except OSError as error:
                told: Any = _PORT_ERRORS.get(error.errno or 0, "not permitted")
                yield Port(number, of, told, _holder(number) if told == "taken" else "")


def _holder(port: int) -> str:
    """The process that has a UDP port, as far as it can be seen."""
    inodes = {f"socket:[{inode}]" for name in ("udp", "udp6") for inode in _inodes(Path("/proc/net", name), port)}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # gone, or another's
            if os.readlink(link) in inodes:
                pid = link.parts[2]
                return f"{Path('/proc', pid, 'comm').read_text().strip()} (pid {pid})"
    return ""


def _inodes(table: Path, port: int) -> Iterable[str]:
    with contextlib.suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


# -- the kernel ---------------------------------------------------------------------------------------------------


def _sysctls(devices: Iterable[str]) -> dict[str, str]:
    names = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
    paths = {name: name.replace(".", "/") for name in names}
    for setting in ("rp_filter", "forwarding"):
        paths |= {f"net.ipv4.conf.{one}.{setting}": f"net/ipv4/conf/{one}/{setting}" for one in ("all", *devices)}
    found = {}
    for name, path in paths.items():
        with contextlib.suppress(OSError):  # a kernel without IPv6
            found[name] = Path("/proc/sys", path).read_text().strip()
    return found


def _clock() -> bool:
    """Whether the kernel believes its clock to be set by somebody."""
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    status: int = struct.unpack_from("i", timex, _TIMEX_STATUS)[0]
    return not status & _STA_UNSYNC


def _limits(status: Status | None, absent: str) -> Limits:
    available = [line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:")]
    memory = int(available[0].split()[1]) << 10 if available else None
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if status is None:
        return Limits(most, memory, None if absent else 0)
    proc = Path("/proc", str(status.gateway.pid))
    with contextlib.suppress(OSError):  # another namespace's, or another user's
        lines = (proc / "limits").read_text().splitlines()
        of_it = next(line.split() for line in lines if line.startswith("Max open files"))
        return Limits(int(of_it[3]), memory, len(os.listdir(proc / "fd")))
    return Limits(most, memory, 0)
