"""The lab's sites as network namespaces, joined by veth pairs and nothing else.

What there is, and how it is called, is a value (`world.py`); here it is carried out. Nothing connects to the machine's
own network. What runs inside the namespaces belongs to the lab: `down` ends it, and touches no other process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fwd.lab import processes
from fwd.lab.hosts import Hosts
from fwd.lab.waiting import until
from fwd.lab.world import LabError, Link, Version, World

# Of the usual world, a gateway at each of two sites.
GATEWAYS = World().gateways
SUBNETS = {gateway: World().site(gateway).subnets for gateway in GATEWAYS}
RUN_DIR = Path("/run/fwd-lab")
TOOLS = ("ip", "nft", "ethtool", "sysctl")

_NETNS_DIR = Path("/run/netns")
_END_TIMEOUT_S = 15.0
_HOST = re.compile(r"client\d+|gw\d+|router|router\d+b?|lan\d+b?|net|controller")  # of all kinds of lab


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
class Topology(World, Hosts):
    """One lab, known by its name: two with different names stand side by side."""

    name: str = "fwd"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"lab name {self.name!r}: use up to 31 lower-case letters, digits and dashes")
        if self.ipv6 and not kernel_has_ipv6():
            raise LabError("--ipv6: this kernel has no IPv6")

    @classmethod
    def load(cls, name: str) -> Topology | None:
        """The lab of this name as it was brought up, or None if it is not up."""
        try:
            record = json.loads(cls(name)._record.read_text())
        except FileNotFoundError:
            return None
        every: list[type[Topology]] = [Topology, *Topology.__subclasses__()]
        kinds = {kind.__name__: kind for kind in every}
        lab = kinds[record.pop("kind")](**record)
        return lab if lab._complete() else None

    @property
    def run_dir(self) -> Path:
        """Where the lab keeps its files; only root may look into it."""
        return RUN_DIR / self.name

    def ns(self, host: str) -> str:
        """The network namespace of a host."""
        if host not in self.hosts:
            raise LabError(f"the lab has no host {host}: choose one of {', '.join(self.hosts)}")
        return f"{self.name}-{host}"

    def addresses(self, host: str, version: Version) -> list[str]:
        """All addresses of a host, the inner one first, without the link's own."""
        if version == 6 and not kernel_has_ipv6():
            return []
        return [self.address(host, dev, version) for dev in self.plan_of_addresses[host]]

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
        # Whatever its world was: all names that a lab of this name has.
        namespaces = [
            path for path in _NETNS_DIR.glob(f"{self.name}-*") if _HOST.fullmatch(path.name, len(self.name) + 1)
        ]
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
        with contextlib.suppress(OSError):  # it is gone, or another lab's files are in it
            RUN_DIR.rmdir()

    def is_there(self, host: str) -> bool:
        """Whether a host has its namespace."""
        return (_NETNS_DIR / self.ns(host)).exists()

    def lose(self, host: str) -> None:
        """Have a host be gone in a moment, as when its machine's power fails: namespace, links, and what ran there."""
        # Whoever is killed may have forked once more just before.
        while inside := processes.in_network_of(_NETNS_DIR / self.ns(host)):
            for process in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            processes.end(inside)
        _command(["ip", "netns", "del", self.ns(host)])

    def make_again(self, host: str) -> None:
        """Make a host anew that was lost, its links with it: others find a machine with other MAC addresses there."""
        links = [link for link in self.links if host in (link.host, link.far_host)]
        ends = [(one, device) for link in links for one, device in _ends(link) if one != host]

        # The kernel takes the old links' far ends away in its own time.
        until(lambda: not any(self._has(one, device) for one, device in ends), f"the links of {host} are gone")
        self._make_host(host)
        self._make_links(links)
        for one, device in ends:
            joined = [f"link set {device} master eth0"] if device in self.bridges.get(one, ()) else []
            _ip(self.ns(one), [*joined, f"link set {device} up"])
        _ip(self.ns(host), [f"link set {device} up" for device in self._devices(host)])

        # What others had on these devices went with them.
        _ip(self.ns(host), self._configuration(host))
        for one, device in ends:
            lines = [line for line in self._configuration(one) if f" dev {device} " in f"{line} "]
            _ip(self.ns(one), lines)

    def _has(self, host: str, device: str) -> bool:
        return self.run(host, ["ip", "link", "show", device], check=False).returncode == 0

    @property
    def _record(self) -> Path:
        return self.run_dir / "topology.json"

    def command(self, host: str, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.ns(host), *argv]

    def _complete(self) -> bool:
        return all(self.is_there(host) for host in self.hosts)

    def _make(self) -> None:
        self._make_run_dir()
        for host in self.hosts:
            self._make_host(host)
        self._make_links(self.links)
        for host, ports in self.bridges.items():
            _ip(self.ns(host), ["link add eth0 type bridge", *(f"link set {port} master eth0" for port in ports)])
        for host in self.hosts:
            # All devices first: an address on a device whose far end is still down comes to life late.
            _ip(self.ns(host), [f"link set {dev} up" for dev in self._devices(host)])
        for host in self.hosts:
            _ip(self.ns(host), self._configuration(host))
        # Written last: its presence says that the lab is whole.
        self._record.write_text(json.dumps({"kind": type(self).__name__, **asdict(self)}))

    def _make_run_dir(self) -> None:
        """Make the lab's directory; another lab that goes meanwhile may take the empty one above with it."""
        while True:
            RUN_DIR.mkdir(mode=0o755, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                self.run_dir.mkdir(mode=0o700)
                return

    def _set_sysctls(self, host: str) -> None:
        """Before the devices exist, so that they take the defaults over.

        No reverse-path filter: it would hide a leak. No duplicate address detection: addresses work at once.
        """
        forwards = int(host not in self.clients)
        settings = {"ipv4.ip_forward": forwards}
        families = ("ipv4", "ipv6") if kernel_has_ipv6() else ("ipv4",)
        if self.spread:
            settings |= {f"{family}.fib_multipath_hash_policy": 1 for family in families}
        for scope in ("all", "default"):
            settings[f"ipv4.conf.{scope}.rp_filter"] = 0
            if kernel_has_ipv6():
                settings[f"ipv6.conf.{scope}.forwarding"] = forwards
                for word in ("disable_ipv6", "accept_dad", "accept_ra"):
                    settings[f"ipv6.conf.{scope}.{word}"] = 0
                settings[f"ipv6.conf.{scope}.keep_addr_on_down"] = 1  # as IPv4's stay
        words = [f"net.{key}={value}" for key, value in settings.items()]
        _command(self.command(host, ["sysctl", "-qw", *words]))

    def _make_host(self, host: str) -> None:
        _command(["ip", "netns", "add", self.ns(host)])
        self._set_sysctls(host)
        _ip(self.ns(host), ["link set lo up"])

    def _make_links(self, links: Iterable[Link]) -> None:
        for link in links:
            mtu = ["mtu", str(link.mtu_bytes)]
            _command(["ip", "link", "add", link.device, "netns", self.ns(link.host), *mtu, "type", "veth",
                      "peer", "name", link.far_device, "netns", self.ns(link.far_host), *mtu])  # fmt: skip

    def _devices(self, host: str) -> list[str]:
        return [*self.plan_of_addresses[host], *self.bridges.get(host, ())]

    def _configuration(self, host: str) -> list[str]:
        """A host's addresses and routes, as lines for `ip -batch`."""
        versions: tuple[Version, ...] = (4, 6) if kernel_has_ipv6() else (4,)
        lines = [
            f"addr add {address} dev {dev}"
            for dev, both in self.plan_of_addresses[host].items()
            for address in both[: len(versions)]
        ]
        return lines + [f"route add {route}" for version in versions for route in self.routes(host, version)]


def _ends(link: Link) -> tuple[tuple[str, str], tuple[str, str]]:
    """Both hosts of a link, each with its device."""
    return (link.host, link.device), (link.far_host, link.far_device)


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
