"""What a host or a container must give fwd, looked at before anything is opened and before the first fork.

Containers are given little, and each of these would else be found out half-way: capabilities, users that its user
namespace has, /dev/net/tun, nft, a directory for the control socket. What is missing is one line, with what to do.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwd.model.config import Config
from fwd.model.keys import IKE_PORT
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise import privileges, sandbox
from fwd.supervise.network import NFT_PATH
from fwd.supervise.users import Users

log = logging.getLogger(__name__)
_NET_BIND_SERVICE: Final = 10
_NEEDED: Final = {
    "KILL": (5, "to signal the child processes"),
    "SETGID": (6, "for the child processes to give up root"),
    "SETUID": (7, "for the child processes to give up root"),
    "NET_ADMIN": (12, "for the TUN device, routes and nftables"),
}
_TUN: Final = Path("/dev/net/tun")
_PASS_TUN: Final = "in a container, pass the device to it (docker: --device /dev/net/tun)"


@dataclass(frozen=True)
class Host:
    """What there is."""

    capabilities: int  # in effect, as a mask
    uids: tuple[range, ...]  # those that the user namespace has
    gids: tuple[range, ...]
    may_set_groups: bool
    tun: int  # errno of opening /dev/net/tun; 0: it can be opened
    has_nft: bool
    free_port_min: int  # the lowest port that anybody may bind
    run: str  # why there can be no socket in the control socket's directory; empty if there can


def check(config: Config, users: Users) -> None:
    """Refuse, as UserError, a host that lacks something."""
    if lacks := missing(look(config.gateway.control.parent), config, users):
        raise UserError("; ".join(lacks))


def look(run: Path) -> Host:
    """See what there is; `run` is the control socket's directory."""
    return Host(
        capabilities=privileges.capabilities(),
        uids=mapped(_text("/proc/self/uid_map")),
        gids=mapped(_text("/proc/self/gid_map")),
        may_set_groups=_text("/proc/self/setgroups").strip() != "deny",
        tun=_tun_errno(),
        has_nft=shutil.which("nft", path=NFT_PATH) is not None,
        free_port_min=int(_text("/proc/sys/net/ipv4/ip_unprivileged_port_start") or 1024),
        run=_no_room(run),
    )


def missing(host: Host, config: Config, users: Users) -> list[str]:
    """What `host` lacks for this configuration, each with what to do."""
    found = _capabilities(host, config)
    lowest = "" if host.capabilities >> _NET_BIND_SERVICE & 1 else _low_port(host, config)
    found += [lowest] if lowest else []
    found += _unmapped(host, users)
    if host.tun:
        found.append(_no_tun(host.tun))
    if not host.has_nft:
        found.append("nft is missing: the leak guards need it; install the package nftables")
    if host.run:
        found.append(f"{host.run}, and the control socket (gateway.control) is made there")
    return found


def mapped(text: str) -> tuple[range, ...]:
    """The numbers that a user namespace has, by its uid_map or gid_map; all, if the kernel knows no namespaces."""
    if not text:
        return (range(2**32 - 1),)
    lines = [[int(word) for word in line.split()] for line in text.splitlines()]
    return tuple(range(first, first + count) for first, _, count in lines)


def _capabilities(host: Host, config: Config) -> list[str]:
    lacking = {name: why for name, (bit, why) in _NEEDED.items() if not host.capabilities >> bit & 1}
    if not lacking:
        return []
    names = ", ".join(f"CAP_{name}" for name in lacking)
    options = " ".join(f"--cap-add {name}" for name in lacking)
    why = " and ".join(dict.fromkeys(lacking.values()))
    return [f"fwd runs without {names}, needed {why}: add it (docker: {options}; systemd: CapabilityBoundingSet=)"]


def _low_port(host: Host, config: Config) -> str:
    ports = [port for p in config.peering for port in (p.port, *([p.ike.ike_port] if p.ike else []))]
    if config.controller is not None:  # its peerings come later, and IKE's own port with them
        ports.append(IKE_PORT)
    port = min(ports)
    if port >= host.free_port_min:
        return ""
    return f"UDP port {port} needs CAP_NET_BIND_SERVICE, or the sysctl net.ipv4.ip_unprivileged_port_start={port}"


def _unmapped(host: Host, users: Users) -> list[str]:
    """Which users or groups this user namespace has not."""
    lacking = [
        f"{what} {number}"
        for what, have, numbers in (
            ("user", host.uids, (uid for uid, _ in users.values())),
            ("group", host.gids, (gid for _, gid in users.values())),
        )
        for number in dict.fromkeys(numbers)
        if not any(number in one for one in have)
    ]
    if lacking:
        return [
            f"{', '.join(lacking)}: not mapped in this user namespace, which has the users {_ranges(host.uids)} and "
            f"the groups {_ranges(host.gids)}: choose a gateway.user among them, or map more (subuid, subgid)"
        ]
    if not host.may_set_groups:
        return ["this user namespace forbids setgroups: let newgidmap or root write its gid_map"]
    return []


def _ranges(ranges: Iterable[range]) -> str:
    return ", ".join(str(one[0]) if len(one) == 1 else f"{one[0]} to {one[-1]}" for one in ranges if one) or "none"


def _no_tun(number: int) -> str:
    if number == errno.ENOENT:
        return f"{_TUN} is missing: load the module (modprobe tun); {_PASS_TUN}"
    if number in (errno.EPERM, errno.EACCES):
        return f"{_TUN} may not be opened: {_PASS_TUN}; under systemd, DeviceAllow=/dev/net/tun rw"
    return f"{_TUN} cannot be opened, {os.strerror(number)}: has this kernel TUN devices (modprobe tun)?"


def _tun_errno() -> int:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))  # no device is made by that
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _no_room(directory: Path) -> str:
    """Why no socket can be made in `directory`, which is made if it is not there."""
    there = next((one for one in (directory, *directory.parents) if one.exists()), Path("/"))
    if not there.is_dir():
        return f"{there} is no directory"
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    readonly = os.statvfs(there).f_flag & os.ST_RDONLY
    return f"{there} {'is read-only' if readonly else 'may not be written'}: make it writable (docker: --tmpfs /run)"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def tell_rights(users: Users) -> None:
    """Log whom the children run as, and what this machine does not take away from them; once, at the start."""
    numbers = {kind: uid for kind, (uid, _) in users.items()}
    told = event("gateway.users", **numbers)
    log.info("processes run as users %s", ", ".join(f"{n} ({kind})" for kind, n in numbers.items()), extra=told)
    lacks = sandbox.missing()
    if not privileges.can_shrink_bounding_set():
        lacks.append("the bounding set of capabilities stays, without effect: fwd has no CAP_SETPCAP")
    for lack in lacks:
        log.warning("children are held less tightly: %s", lack, extra=event("gateway.unwalled", reason=lack))
