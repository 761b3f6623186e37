"""The gateway's configuration: a TOML file, checked whole before anything is touched.

Words are swanctl's where it has one (`local_addrs`, `remote_ts`, `replay_window`, `rekey_time`). Anything
unknown, out of range or contradictory is refused as a `ConfigError` of one line: file, key, reason.
This file reads no secret: `keys.secret` is a path, opened by the supervisor
(ARCHITECTURE, "Processes, and who owns what").
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from fwd.model.controller import Controller
from fwd.model.distinct import clash, indistinct, unpaired
from fwd.model.gateway import Gateway
from fwd.model.keys import CertificateKeys, IkeKeys, Keys, LabKeys
from fwd.model.mistakes import first_reason
from fwd.model.pairing import Far, far_gateways
from fwd.model.subnets import SUBNETS_MAX, first_shared, inside, no_hosts, unspoken
from fwd.model.toml import parse_as, read_text, text_of
from fwd.model.words import (
    Address,
    ConfigError,
    DeviceName,
    FarAddress,
    HostAddress,
    Live,
    Network,
    Payload,
    Restart,
    Seconds,
    Steering,
    Strict,
    Subnet,
)
from fwd.proto.sa import Life

MEMBERS_MAX = 64
PEERINGS_MAX = 64
LIFE_SHARE = 1.1  # of its soft limit: when an SA ends by default
_SECONDS_MORE, _PACKETS_MORE, _OCTETS_MORE = 1.0, 2**20, 2**30  # than the soft limit, at least
SHARED_MEMBERS_MAX = 8  # whose inbound SAs one of them may have to hold


class Peering(Strict):
    """One encrypted connection to a far side: one TUN device, one demux, N members, one or several far gateways."""

    name: Restart[str] = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="letters, digits and dashes")
    local_addrs: Restart[HostAddress] = Field(description="this gateway's outer address")
    remote_addrs: Live[FarAddress] = Field(
        description="the far gateway's outer address, or its name (not with lab keys), looked up when IKE begins; or a "
        "list of both, for several far gateways, over which members are spread evenly: one that comes or goes "
        "touches no other"
    )
    local_ts: Live[list[Subnet]] = Field(min_length=1, max_length=SUBNETS_MAX, description="subnets on this side")
    remote_ts: Live[list[Subnet]] = Field(min_length=1, max_length=SUBNETS_MAX, description="those on the far side")
    keys: Keys
    members: Live[int] = Field(default=4, ge=1, le=MEMBERS_MAX, description="worker processes, one ESP tunnel each")
    payload: Restart[Payload] = Field(
        default="superpacket", description="superpacket: with another fwd; esp: plain RFC 4303"
    )
    steering: Restart[Steering] = Field(
        default="demux",
        description="who gives flows to members: the demux; or a program in the kernel, if there can be one (CAP_BPF)",
    )
    port: Restart[int] = Field(default=4500, ge=1, le=65535, description="UDP port of member 0; member i uses port + i")
    shared_port: Restart[bool] = Field(
        default=False,
        description=f"IKE and ESP share `port`, with a peer that uses 4500 alone (esp, {SHARED_MEMBERS_MAX} members)",
    )
    native: Restart[bool] = Field(
        default=False, description="far gateways' outer addresses may be in remote_ts: their packets pass the tunnel by"
    )
    tun: Restart[DeviceName] = Field(
        default="fwd0", pattern=r"^[A-Za-z0-9_.-]{1,15}$", description="name of the TUN device"
    )
    tun_mtu: Restart[int | None] = Field(
        default=None, ge=1280, le=65535, description="default: the path's, less overhead in esp"
    )
    path_mtu: Restart[int | None] = Field(
        default=None, ge=576, le=65535, description="default: that of the outgoing interface"
    )
    esn: Restart[bool] = Field(default=True, description="64-bit extended sequence numbers")
    replay_window: Live[int] = Field(default=1024, ge=1024, le=65536, description="packets, by number")
    rekey_time: Live[Seconds] = Field(default=3600, ge=0, le=7 * 86400, description="0: only by count and octets")
    rekey_packets: Live[int] = Field(default=2**31, ge=1024, le=2**32 - 2**20, description="soft limit of an SA")
    rekey_bytes: Live[int] = Field(
        default=0, ge=0, le=2**60, description="soft limit in octets of ESP; 0: 0.9 × life_bytes"
    )
    life_time: Live[Seconds | None] = Field(
        default=None,
        ge=0,
        le=8 * 86400,
        description="end of an SA (not with lab keys); 0: never; default: 1.1 × rekey_time",
    )
    life_packets: Live[int | None] = Field(
        default=None, ge=0, le=2**63, description="hard limit; 0: none; default: 1.1 × rekey_packets, or a million more"
    )
    life_bytes: Live[int | None] = Field(
        default=None, ge=0, le=2**63, description="hard limit; 0: none; default: 1.1 × rekey_bytes, or 1 GiB more"
    )
    reorder_packets: Live[int] = Field(default=3, ge=1, le=64, description="later packets that end the wait for a hole")
    reorder_ms: Live[float] = Field(default=2.0, gt=0, le=100, description="longest wait for a hole")
    offload: Restart[bool] = Field(default=True, description="segmentation offloads of the TUN device and the sockets")
    mss_clamp: Live[bool] = Field(default=True, description="clamp TCP's MSS to the TUN device's MTU (payload esp)")
    drain_deadline: Live[Seconds] = Field(
        default=60, ge=0, le=3600, description="a member that leaves keeps busy flows for so long at most"
    )
    audit: Live[bool] = Field(default=True, description="log what ESP refuses (RFC 4303 §4)")

    def port_of(self, member: int) -> int:
        """The UDP port of a member."""
        return self.port if self.shared_port else self.port + member

    _seated: tuple[Far, ...] = PrivateAttr(default=())  # who is paired with whom, if that is not as at the start

    def seated(self, fars: tuple[Far, ...]) -> Peering:
        """The same peering with its members paired so; far gateways that are on their way out may be among them."""
        one = self.model_copy()
        one._seated = fars
        return one

    def paired_as(self, other: Peering) -> Peering:
        """The same peering with another's members, far gateways, and who is paired with whom."""
        own = {"members": other.members, "remote_addrs": other.remote_addrs}
        return self.model_copy(update=own).seated(other._seated)

    @property
    def is_seated(self) -> bool:
        """Whether far gateways have come or gone since it was opened."""
        return bool(self._seated)

    @property
    def fars(self) -> tuple[Far, ...]:
        """The far gateways, and whose members are paired with them; those on their way out are the last."""
        return self._seated or far_gateways(self.addresses)

    @property
    def there(self) -> int:
        """How many members' numbers there are; of those between that are free nobody is paired with anybody."""
        return max((far.seats[-1] + 1 for far in self._seated if far.seats), default=self.members)

    @property
    def staying(self) -> frozenset[int]:
        """The members that do not leave."""
        return frozenset(seat for far in self.fars for seat in far.staying(self.there))

    @property
    def reached(self) -> tuple[Address, ...]:
        """The addresses of all far gateways that it has tunnels to."""
        return tuple(far.address for far in self.fars)

    @property
    def legs(self) -> tuple[Far, ...]:
        """The far gateways, those by name too, to be compared with others' alone."""
        return far_gateways(self._ends)  # type: ignore[arg-type]

    def towards(self, far: Far) -> Peering:
        """The peering as one of its far gateways has it: with that one alone, and with the members paired with it."""
        if far.count == 1 and not self._seated:
            return self
        own: dict[str, Any] = {"remote_addrs": far.address, "members": max(1, len(far.staying(self.there)))}
        if isinstance(self.keys, IkeKeys):
            own["keys"] = self.keys.model_copy(update={"remote_id": self.identity_at(far)})
        one = self.model_copy(update=own)
        one._seated = ()
        return one

    def identity_at(self, far: Far) -> str | None:
        """What keys.remote_id says of a far gateway; of one that is on its way out, what it said."""
        named = self.ike.remote_id if self.ike else None
        if not far.keeps:
            return far.identity
        return named[far.number] if isinstance(named, list) else named

    @property
    def subnets(self) -> tuple[list[Network], list[Network]]:
        """Those of this side, and of the far one."""
        return self.local_ts, self.remote_ts

    @property
    def ports(self) -> range:
        """The UDP ports of all members."""
        return range(self.port, self.port_of(self.there - 1) + 1)

    @property
    def life_s(self) -> float:
        """For how long an SA may be used after it was negotiated; 0: for ever."""
        if self.life_time is not None:
            return float(self.life_time)
        return max(self.rekey_time * LIFE_SHARE, self.rekey_time + _SECONDS_MORE) if self.rekey_time else 0.0

    @property
    def life(self) -> Life:
        """What an SA may carry. By default so much more than its soft limit that keyd has time to replace it."""
        packets, octets = self.life_packets, self.life_bytes
        if packets is None:
            packets = max(int(self.rekey_packets * LIFE_SHARE), self.rekey_packets + _PACKETS_MORE)
        if octets is None:
            octets = self.rekey_bytes and max(int(self.rekey_bytes * LIFE_SHARE), self.rekey_bytes + _OCTETS_MORE)
        return Life(packets, octets)

    @property
    def ike(self) -> IkeKeys | None:
        """How IKEv2 authenticates; None: the keys come from elsewhere."""
        return None if isinstance(self.keys, LabKeys) else self.keys

    @property
    def far(self) -> Address:
        """The far gateway's address; not of a peering that has its name alone, or several far gateways."""
        (address,) = self.addresses
        return address

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those of the far gateways; none while a name is among them that has no address yet (supervise/names.py)."""
        return () if self.names else self._known

    @property
    def names(self) -> tuple[str, ...]:
        """Names of far gateways in place of addresses."""
        return tuple(one for one in self._ends if isinstance(one, str))

    @property
    def _ends(self) -> tuple[Address | str, ...]:
        """All far gateways, each by address or name."""
        return self.remote_addrs if isinstance(self.remote_addrs, tuple) else (self.remote_addrs,)

    @property
    def _known(self) -> tuple[Address, ...]:
        return tuple(one for one in self._ends if not isinstance(one, str))

    @property
    def where(self) -> str:
        """The far gateways' addresses or names, in words."""
        return ", ".join(map(str, self._ends))

    @property
    def remote_id(self) -> str:
        """What IKE calls the far gateway, where there is one: its address, unless the configuration says otherwise."""
        assert self.ike is not None
        named = self.ike.remote_id
        return (named[0] if isinstance(named, list) else named) or str(self.remote_addrs)

    def at(self, addresses: Mapping[str, Address]) -> Peering:
        """The same peering with the addresses of its names. Raises ConfigError if it cannot be there."""
        ends = [str(addresses.get(one, one) if isinstance(one, str) else one) for one in self._ends]
        try:
            return Peering.model_validate({**self.model_dump(), "remote_addrs": ends})
        except ValidationError as error:
            raise ConfigError(first_reason(error, _TABLES)) from None

    def _fit_for_a_name(self) -> None:
        if self.ike is None:
            raise ValueError("remote_addrs is a name, which lab keys do not take: write the IP address")
        if isinstance(self.ike, CertificateKeys) and self.ike.remote_id is None:
            raise ValueError("keys.remote_id is missing: whoever answers at a name must show its identity, too")

    @model_validator(mode="after")
    def _coherent(self) -> Peering:
        if self.names:
            self._fit_for_a_name()
        if any(one.version != self.local_addrs.version for one in self._known):
            raise ValueError("local_addrs and remote_addrs are of different IP versions")
        for address in (self.local_addrs, *self._known):
            if address.is_multicast or address.is_unspecified or str(address) == "255.255.255.255":
                raise ValueError(f"{address} is no address of one host: it cannot be local_addrs or remote_addrs")
        if self.local_addrs in self._known:
            raise ValueError("local_addrs and remote_addrs are the same address")
        if reason := unpaired(self, len(self._ends)):
            raise ValueError(reason)

        # Numbers: an SA ends after it is due to be replaced, and nobody has another's port.
        for name in ("time", "packets", "bytes"):
            soft, hard = getattr(self, f"rekey_{name}"), getattr(self, f"life_{name}")
            if hard and hard <= soft:
                raise ValueError(f"life_{name} {hard} must be more than rekey_{name} {soft}")
        if self.ports[-1] > 65535:
            raise ValueError(f"port + members passes 65535: {self.port} + {self.members}")
        if self.shared_port and (not self.ike or self.payload != "esp" or self.members > SHARED_MEMBERS_MAX):
            raise ValueError(f'shared_port needs IKE keys, payload = "esp" and at most {SHARED_MEMBERS_MAX} members')
        if self.ike and self.ike.ike_port in self.ports:
            raise ValueError(f"port {self.ike.ike_port} is IKE's (keys.ike_port) and a member's: choose another port")
        if self.ike and not self.esn:
            raise ValueError("esn = false is the lab's: with IKE say noesn, and not esn, in keys.esp_proposals")

        # Subnets: hosts have them, a packet is of one side, and ESP's own does not go into the tunnel.
        for name, subnets in (("local_ts", self.local_ts), ("remote_ts", self.remote_ts)):
            for subnet in subnets:
                if kind := no_hosts(subnet):
                    raise ValueError(f"{name} {subnet}: {kind} addresses are not routed: name the hosts' own subnet")
        if reason := unspoken(self.local_ts, self.remote_ts):
            raise ValueError(reason)
        if overlap := first_shared({"local_ts": self.local_ts, "remote_ts": self.remote_ts}):
            (a, one), (b, other) = overlap
            raise ValueError(f"{a} {one} and {b} {other} overlap{_all_of_it(one, other)}")
        for address in inside([*(() if self.native else self._known), self.local_addrs], self.remote_ts):
            subnet = next(one for one in self.remote_ts if address in one)
            what = f"remote_ts {subnet} contains a gateway's own outer address, {address}"
            raise ValueError(what + (_all_of_it(subnet) or _inside_hint(self, address)))
        return self


class Config(Strict):
    controller: Controller | None = None
    gateway: Gateway = Gateway()
    peering: list[Peering] = Field(default=[], max_length=PEERINGS_MAX, validate_default=True)

    @field_validator("gateway")
    @classmethod
    def _with_key(cls, value: Gateway, info: ValidationInfo) -> Gateway:
        given = info.data.get("controller", value) is not None and value.probe_key is None
        if (value.beacon is None) != (value.probe_key is None) and not given:
            raise ValueError("beacon and probe_key go together: where routers probe, and the key that they have")
        return value

    @field_validator("peering")
    @classmethod
    def _some(cls, value: list[Peering], info: ValidationInfo) -> list[Peering]:
        if not value and info.data.get("controller", value) is None:
            raise ValueError("missing: at least one is needed, unless there is a [controller] from which they come")
        return value

    @model_validator(mode="after")
    def _apart(self) -> Config:
        for a, b in itertools.combinations(self.peering, 2):
            if a.name == b.name:
                raise ValueError(f"two peerings are named {a.name}")
            if a.tun == b.tun:
                raise ValueError(f"peerings {a.name} and {b.name} share the TUN device {a.tun}")
            if a.local_addrs == b.local_addrs and (shared := clash(a, b)):
                raise ValueError(f"peerings {a.name} and {b.name} share UDP port {shared} on {a.local_addrs}")
            if reason := indistinct(a, b):
                raise ValueError(f"peerings {a.name} and {b.name} {reason}")
        if overlap := first_shared({one.name: one.remote_ts for one in self.peering}):
            (a_name, x), (b_name, y) = overlap
            raise ValueError(f"remote_ts {x} of {a_name} and {y} of {b_name} overlap{_all_of_it(x, y)}")
        return self


def _inside_hint(peering: Peering, address: Address) -> str:
    return "" if address == peering.local_addrs else ": native = true leads its own packets past the tunnel"


def _all_of_it(*subnets: Network) -> str:
    """Say what is possible instead, if one of `subnets` is the whole of IPv4 or IPv6."""
    whole = [subnet for subnet in subnets if not subnet.prefixlen]
    if not whole:
        return ""
    return f": {whole[0]} cannot be one side's, since the other side lies in it, too; list up to {SUBNETS_MAX} subnets"


def admin_path(control: Path) -> Path:
    """Return the admin socket's path, beside the control socket's: /run/fwd/fwd.sock → /run/fwd/fwd-admin.sock."""
    return control.with_name(f"{control.stem}-admin{control.suffix}")


_TABLES: Final[dict[str, type[BaseModel]]] = {
    "gateway": Gateway, "controller": Controller, "peering": Peering,
}  # fmt: skip


def parse(text: str, source: str) -> Config:
    """Parse a configuration's text; `source` names it in errors. Raises ConfigError, one line."""
    return parse_as(Config, text, source, _TABLES)


def load(path: Path) -> Config:
    """Read and check the file at `path`; links are followed. Raises ConfigError, one line."""
    return parse(read_text(path), str(path))


def parse_octets(data: bytes, source: str) -> tuple[str, Config]:
    """Return the text that a file holds, and its configuration. Raises ConfigError, one line."""
    text = text_of(data, source)
    return text, parse(text, source)


def with_members(config: Config, members: int) -> Config:
    """The same configuration with `members` in every peering (`fwd demux --members N`); checked again."""
    data: dict[str, Any] = config.model_dump()
    for peering in data["peering"]:
        peering["members"] = members
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"--members {members}: {first_reason(error, _TABLES)}") from None


def without_offload(config: Config) -> Config:
    """The same configuration with every offload off (`fwd demux --no-offload`)."""
    return config.model_copy(update={"peering": [p.model_copy(update={"offload": False}) for p in config.peering]})
