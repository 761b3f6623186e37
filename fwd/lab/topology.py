"""The two VPCs of the lab as network namespaces, joined by veth pairs and nothing else.

    client1 eth0 ── lan gw1 wan ══════════ wan gw2 lan ── eth0 client2
    10.1.0.10      .1   192.0.2.1   192.0.2.2   .1      10.2.0.10
    fd00:1::10     ::1  2001:db8::1 2001:db8::2 ::1     fd00:2::10

Each gateway's default route is the other gateway: without fwd the clients reach one another in the clear, so
a leak shows on the wire instead of dying for want of a route. With `router=True` a fifth namespace stands
between the WANs; it answers what exceeds `router_mtu_bytes` with "fragmentation needed" or "packet too big".

Every host has IPv4 and, where the kernel knows it, IPv6, inside and outside; `ipv6` only says over which of
the two the tunnels run. Nothing here connects to the machine's own network. What runs inside the namespaces
belongs to the lab: `down` ends it, and touches no other process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from fwd.lab import processes

Version = Literal[4, 6]

GATEWAYS = ("gw1", "gw2")
CLIENTS = ("client1", "client2")
SUBNETS = {"gw1": ("10.1.0.0/24", "fd00:1::/64"), "gw2": ("10.2.0.0/24", "fd00:2::/64")}
RUN_DIR = Path("/run/fwd-lab")
TOOLS = ("ip", "nft", "ethtool", "sysctl")

_NETNS_DIR = Path("/run/netns")
_END_TIMEOUT_S = 15.0

# host → device → (IPv4, IPv6)
_ADDRESSES = {
    "client1": {"eth0": ("10.1.0.10/24", "fd00:1::10/64")},
    "gw1": {"lan": ("10.1.0.1/24", "fd00:1::1/64"), "wan": ("192.0.2.1/24", "2001:db8::1/64")},
    "gw2": {"lan": ("10.2.0.1/24", "fd00:2::1/64"), "wan": ("192.0.2.2/24", "2001:db8::2/64")},
    "client2": {"eth0": ("10.2.0.10/24", "fd00:2::10/64")},
    "router": {
        "wan1": ("192.0.2.253/32", "2001:db8::fd/128"),
        "wan2": ("192.0.2.254/32", "2001:db8::fe/128"),
    },
}
_MAIN_DEVICE = {"client1": "eth0", "gw1": "wan", "gw2": "wan", "client2": "eth0"}


def _place(version: Version) -> int:
    return 0 if version == 4 else 1


class LabError(Exception):
    """The lab cannot do what was asked; its text is one line for the user."""


class Hosts(Protocol):
    """Where the lab's tools run commands: its own namespaces, or the testbed's containers."""

    def address(self, host: str) -> str:
        """The address of a host."""

    def run(self, host: str, argv: Sequence[str], check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in a host's network to its end."""

    def popen(self, host: str, argv: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        """Start a command in a host's network; the returned pid is the command's own."""


def why_not() -> str | None:
    """Why this machine, or this user, cannot run a lab; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root: run it again as root, or with sudo"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return f"/dev/net/tun cannot be opened ({error.strerror}): load the tun module or pass the device in"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"the command {tool} is missing: install iproute2, nftables, ethtool and procps"
    return None


def kernel_has_ipv6() -> bool:
    return Path("/proc/sys/net/ipv6").is_dir()


@dataclass(frozen=True)
class Topology:
    """One lab, known by its name: two with different names stand side by side."""

    name: str = "fwd"
    ipv6: bool = False  # the tunnels run over the outer IPv6 addresses
    wan_mtu_bytes: int = 1500
    router: bool = False
    router_mtu_bytes: int = 1500

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"lab name {self.name!r}: use up to 31 lower-case letters, digits and dashes")
        if self.ipv6 and not kernel_has_ipv6():
            raise LabError("--ipv6: this kernel has no IPv6")
        if not 1280 <= self.router_mtu_bytes <= self.wan_mtu_bytes:
            raise LabError(f"MTU of the path, {self.router_mtu_bytes}: expected 1280 to {self.wan_mtu_bytes}")

    @classmethod
    def load(cls, name: str) -> Topology | None:
        """The lab of this name as it was brought up, or None if it is not up."""
        lab = cls(name)
        try:
            lab = cls(**json.loads(lab._record.read_text()))
        except FileNotFoundError:
            return None
        return lab if lab._complete() else None

    @property
    def hosts(self) -> tuple[str, ...]:
        hosts = ("client1", "gw1", "gw2", "client2")
        return (*hosts, "router") if self.router else hosts

    @property
    def run_dir(self) -> Path:
        """Where the lab keeps its files; only root may look into it."""
        return RUN_DIR / self.name

    def ns(self, host: str) -> str:
        """The network namespace of a host."""
        if host not in self.hosts:
            raise LabError(f"the lab has no host {host}: choose one of {', '.join(self.hosts)}")
        return f"{self.name}-{host}"

    def address(self, host: str, dev: str | None = None, version: Version = 4) -> str:
        """The address of a host; without `dev`, a client's only one and a gateway's outer one."""
        return _ADDRESSES[host][dev or _MAIN_DEVICE[host]][_place(version)].partition("/")[0]

    def addresses(self, host: str, version: Version) -> list[str]:
        """All addresses of a host, the inner one first, without the link's own."""
        if version == 6 and not kernel_has_ipv6():
            return []
        return [self.address(host, dev, version) for dev in _ADDRESSES[host]]

    def outer(self, host: str) -> str:
        """The address that a gateway's tunnels use."""
        return self.address(host, "wan", 6 if self.ipv6 else 4)

    def run(self, host: str, argv: Sequence[str], check: bool = True, **kw: Any) -> subprocess.CompletedProcess[str]:
        """Run a command in a host's namespace to its end; captures its output unless `kw` redirects it."""
        if "stdout" not in kw and "stderr" not in kw:
            kw.setdefault("capture_output", True)
        return subprocess.run(self._argv(host, argv), check=check, text=True, **kw)

    def popen(self, host: str, argv: Sequence[str], **kw: Any) -> subprocess.Popen[Any]:
        """Start a command in a host's namespace; the returned pid is the command's own."""
        return subprocess.Popen(self._argv(host, argv), **kw)

    def ethtool(self, host: str, dev: str, feature: str, on: bool) -> None:
        """Switch an offload of a device, say `tx-udp-segmentation`."""
        self.run(host, ["ethtool", "-K", dev, feature, "on" if on else "off"])

    def set_mtu(self, host: str, dev: str, mtu_bytes: int) -> None:
        _ip(self.ns(host), [f"link set {dev} mtu {mtu_bytes}"])

    def exists(self) -> bool:
        """Is a complete lab of this name up, whatever its parameters?"""
        return Topology.load(self.name) is not None

    def up(self) -> None:
        """Bring the namespaces up. Does nothing if they are; a half-made lab of this name is made anew."""
        standing = Topology.load(self.name)
        if standing == self:
            return
        if standing is not None:
            raise LabError(f"lab {self.name} is up with other parameters: take it down first")
        self.down()
        try:
            self._make()
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Remove the namespaces, what still runs in them, and the lab's files. Fine if there is nothing.

        Gateways are better stopped before (gateways.stop): here they end like any process left inside.
        """
        namespaces = [_NETNS_DIR / f"{self.name}-{host}" for host in _ADDRESSES]
        namespaces = [path for path in namespaces if path.exists()]
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        # A supervisor that is told to end may fork once more before it does, hence again until none is left.
        while inside := [process for path in namespaces for process in processes.in_network_of(path)]:
            if time.monotonic() > deadline_s:
                pids = ", ".join(str(process.pid) for process in inside)
                raise LabError(f"lab {self.name}: these processes inside it do not end: {pids}")
            processes.end(inside)
        for path in namespaces:
            _command(["ip", "netns", "del", path.name])
        shutil.rmtree(self.run_dir, ignore_errors=True)
        if RUN_DIR.is_dir() and not any(RUN_DIR.iterdir()):
            RUN_DIR.rmdir()

    @property
    def _record(self) -> Path:
        return self.run_dir / "topology.json"

    def _argv(self, host: str, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.ns(host), *argv]

    def _complete(self) -> bool:
        return all((_NETNS_DIR / self.ns(host)).exists() for host in self.hosts)

    def _make(self) -> None:
        RUN_DIR.mkdir(mode=0o755, exist_ok=True)
        self.run_dir.mkdir(mode=0o700)
        for host in self.hosts:
            _command(["ip", "netns", "add", self.ns(host)])
            self._set_sysctls(host)
            _ip(self.ns(host), ["link set lo up"])
        self._make_links()
        for host in self.hosts:
            # All devices first: an address on a device whose far end is still down comes to life late.
            _ip(self.ns(host), [f"link set {dev} up" for dev in _ADDRESSES[host]])
        for host in self.hosts:
            _ip(self.ns(host), self._configuration(host))
        # Written last: its presence says that the lab is whole.
        self._record.write_text(json.dumps(asdict(self)))

    def _set_sysctls(self, host: str) -> None:
        """Before the devices exist, so that they take the defaults over.

        No reverse-path filter: it would hide a leak. No duplicate address detection: addresses work at once.
        """
        forwards = int(host not in CLIENTS)
        settings = {"ipv4.ip_forward": forwards}
        for scope in ("all", "default"):
            settings[f"ipv4.conf.{scope}.rp_filter"] = 0
            if kernel_has_ipv6():
                settings[f"ipv6.conf.{scope}.forwarding"] = forwards
                for word in ("disable_ipv6", "accept_dad", "accept_ra"):
                    settings[f"ipv6.conf.{scope}.{word}"] = 0
        words = [f"net.{key}={value}" for key, value in settings.items()]
        _command(self._argv(host, ["sysctl", "-qw", *words]))

    def _make_links(self) -> None:
        ends = [("client1", "eth0", "gw1", "lan"), ("gw2", "lan", "client2", "eth0")]
        if self.router:
            ends += [("gw1", "wan", "router", "wan1"), ("router", "wan2", "gw2", "wan")]
        else:
            ends += [("gw1", "wan", "gw2", "wan")]
        for host, dev, peer, peer_dev in ends:
            mtu = ["mtu", str(self.wan_mtu_bytes if dev.startswith("wan") else 1500)]
            _command(["ip", "link", "add", dev, "netns", self.ns(host), *mtu, "type", "veth",
                      "peer", "name", peer_dev, "netns", self.ns(peer), *mtu])  # fmt: skip

    def _configuration(self, host: str) -> list[str]:
        """A host's addresses and routes, as lines for `ip -batch`."""
        lines = []
        for dev, pair in _ADDRESSES[host].items():
            # Behind the router the WAN is no common subnet: each end has a route to its neighbour alone.
            single = self.router and dev == "wan"
            for address in pair if kernel_has_ipv6() else pair[:1]:
                bare = address.partition("/")[0]
                lines.append(f"addr add {bare if single else address} dev {dev}")
        versions: tuple[Version, ...] = (4, 6) if kernel_has_ipv6() else (4,)
        for version in versions:
            lines += [f"route add {route}" for route in self._routes(host, version)]
        return lines

    def _routes(self, host: str, version: Version) -> list[str]:
        if host in CLIENTS:
            gateway = "gw1" if host == "client1" else "gw2"
            return [f"default via {self.address(gateway, 'lan', version)}"]
        if host == "router":
            # The locked metric makes the router refuse what is longer, though its devices would take it: a
            # narrow path behind wide interfaces, in both directions.
            mtu = f"mtu lock {self.router_mtu_bytes}"
            routes = []
            for gateway, dev in (("gw1", "wan1"), ("gw2", "wan2")):
                outer = self.address(gateway, "wan", version)
                subnet = SUBNETS[gateway][_place(version)]
                routes += [f"{outer} dev {dev} {mtu}", f"{subnet} via {outer} dev {dev} {mtu}"]
            return routes
        if self.router:
            hop = self.address("router", "wan1" if host == "gw1" else "wan2", version)
            return [f"{hop} dev wan", f"default via {hop} dev wan"]
        return [f"default via {self.address('gw2' if host == 'gw1' else 'gw1', 'wan', version)}"]


def _ip(namespace: str, lines: Sequence[str]) -> None:
    _command(["ip", "-n", namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _command(argv: Sequence[str], text: str = "") -> None:
    """Run a set-up command; its failure is a LabError with its own first line."""
    try:
        subprocess.run(argv, check=True, input=text, capture_output=True, text=True)
    except FileNotFoundError:
        raise LabError(f"the command {argv[0]} is missing") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or f"exit status {error.returncode}").splitlines()[0]
        raise LabError(f"{' '.join(argv[:6])}: {reason}") from None
