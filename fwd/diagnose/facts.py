"""What `fwd diagnose` knows of a host: gathered by gather.py, judged by checks.py. Values, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from fwd.keyd.checkup import Finding as KeyFinding
from fwd.model.config import Config, Peering
from fwd.model.status import Status
from fwd.model.words import Address
from fwd.supervise.guards import Found


@dataclass(frozen=True)
class Way:
    """What the kernel would do with a packet to an address: by which device, from which source."""

    device: str
    mtu_bytes: int
    source: str = ""


@dataclass(frozen=True)
class Echo:
    """What came of echo requests (ICMP) to the far gateway that must not be fragmented."""

    answers: bool
    largest_bytes: int = 0  # of an IP packet that was answered


@dataclass(frozen=True)
class Port:
    """A UDP port that the configuration wants, and what binding it gives."""

    number: int
    of: str  # IKE, or a member
    error: Literal["", "taken", "no address", "not permitted"] = ""
    holder: str = ""


@dataclass(frozen=True)
class Around:
    """What the host has around one peering and far gateway."""

    peering: Peering  # as that far gateway has it
    outer_device: str = ""  # that has local_addrs; empty: none has
    outer: Way | None = None  # to remote_addrs
    inner: Mapping[str, Way | None] = field(default_factory=dict)  # to an address of each remote subnet
    own: frozenset[str] = frozenset()  # local subnets in which this host has an address
    lans: frozenset[str] = frozenset()  # devices that have these
    big: Mapping[str, int] = field(default_factory=dict)  # of these, what joins IPv6 packets to more than 64 KiB
    echo: Echo | None = None  # None: not tried
    ports: Sequence[Port] = ()
    keys: Sequence[KeyFinding] = ()
    filters: Sequence[str] = ()  # chains that drop all that is forwarded to or from the TUN device
    past: int = 0  # packets of remote subnets that its leak guard has dropped: they came by another device

    @property
    def far(self) -> Address:
        """Where the far gateway is."""
        return self.peering.far


@dataclass(frozen=True)
class Limits:
    """What processes may have, and what there is."""

    descriptors: int  # the hard limit
    memory_bytes: int | None = None  # available
    used: int | None = None  # descriptors of a supervisor that runs


@dataclass(frozen=True)
class Facts:
    """All that is known. `unseen`: what could not be looked at, and why."""

    config: Config
    status: Status | None = None
    absent: str = ""  # how it is known that no gateway runs
    unheard: str = ""  # why one that does run has told nothing
    others: int = 0  # fwds that live on this host, beside one that has answered
    left: Found = field(default_factory=lambda: Found({}, {}))  # guards of dead fwds that no start takes away
    peerings: Sequence[Around] = ()
    nameless: Mapping[str, str] = field(default_factory=dict)  # peerings whose remote_addrs has no address, and why
    probe_key: str = ""  # why its file is none
    lacks: Sequence[str] = ()  # of what a host must give (supervise/host.py)
    walls: Sequence[str] = ()  # what this kernel cannot take from children (supervise/sandbox.py)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    clock_synchronised: bool | None = None  # None: not known
    limits: Limits | None = None
    unseen: Sequence[str] = ()
