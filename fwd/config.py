"""The gateway's configuration: a TOML file, checked whole before anything is touched.

Words are swanctl's where it has one (`local_addrs`, `remote_ts`, `replay_window`, `rekey_time`). Anything
unknown, out of range or contradictory is refused as a `ConfigError` of one line: file, key, reason.
This file reads no secret: `keys.secret` is a path, opened by the supervisor (design §2).
"""

from __future__ import annotations

import difflib
import itertools
import os
import re
import stat
import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from fwd.files import why_not_believed
from fwd.proto.errors import UserError
from fwd.proto.ike import auth, proposals
from fwd.proto.ike.numbers import Payload as IkePayload
from fwd.proto.ike.numbers import Protocol
from fwd.proto.sa import Life

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Payload = Literal["superpacket", "esp"]

MEMBERS_MAX = 64
LIFE_SHARE = 1.1  # of its soft limit: when an SA ends by default
_SECONDS_MORE, _PACKETS_MORE, _OCTETS_MORE = 1.0, 2**20, 2**30  # than the soft limit, at least
SHARED_MEMBERS_MAX = 8  # whose inbound SAs one of them may have to hold
_UNION = ("IPv", "lax-or-strict", "function-")  # how pydantic names the branches of a union in a location
_EXPECTED = {
    "list_type": 'expected a list, such as ["…", "…"]',
    "path_type": "expected the path of one file, in quotes",
}
_SWANCTL = {"cacerts": "authorities", "certs": "certificate", "mobike": "mobility", "revocation": "crl_policy"}
_UNITS_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


class ConfigError(UserError):
    """A configuration that cannot be used; its text is one line for the user."""


def _duration_s(value: object) -> object:
    """swanctl's time words: 3600, "3600s", "60m", "1h", "1d" → seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"(\d+)\s*([smhd]?)", value)
        if not match:
            raise ValueError("expected a time such as 90s, 60m, 4h or 1d")
        return int(match[1]) * _UNITS_S[match[2]]
    return value


Seconds = Annotated[int, BeforeValidator(_duration_s)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, data: Any) -> Any:
        """Python takes true for 1: `members = true` would be one member, `user = true` the user 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name} is not for true or false")
        return data


class LabKeys(_Strict):
    """Keys derived from one shared secret: for the lab only. The file is unlinked once read."""

    source: Literal["lab"]
    secret: Path = Field(description="file of 32 or more random bytes, mode 0600, owned by the user who runs fwd")


def _proposals(protocol: Protocol) -> Any:
    """Proposals in swanctl's words, checked."""

    def check(words: list[str]) -> list[str]:
        for one in words:
            proposals.parse(one, protocol)
        return words

    return Annotated[list[str], Field(min_length=1, max_length=16), AfterValidator(check)]


def _identity(text: str) -> str:
    if "*" in text or text.startswith("%"):
        raise ValueError(f"identity {text!r}: there are no wildcards: write the one identity that is meant")
    auth.identity(text, IkePayload.IDI)
    return text


Identity = Annotated[str, AfterValidator(_identity)]


class IkeKeys(_Strict):
    """What both ways to authenticate by IKEv2 share."""

    local_id: Identity | None = Field(default=None, description="this gateway's identity; default: its address")
    remote_id: Identity | None = Field(default=None, description="the far gateway's; default: its address")
    ike_proposals: _proposals(Protocol.IKE) = Field(  # type: ignore[valid-type]
        default=["aes256gcm16-prfsha384-x25519-ecp384", "aes256gcm16-aes128gcm16-prfsha256-x25519-ecp256"],
        description="for IKE, in swanctl's words, the best first",
    )
    esp_proposals: _proposals(Protocol.ESP) = Field(  # type: ignore[valid-type]
        default=["aes256gcm16-x25519-ecp384-esn-noesn", "aes128gcm16-x25519-ecp256-esn-noesn"],
        description="for ESP; a group here makes rekeying exchange keys anew",
    )
    ike_rekey_time: Seconds = Field(
        default=4 * 3600, ge=0, le=7 * 86400, description="of the IKE SA, which ends at 1.1 times that; 0: never"
    )
    reauth_time: Seconds = Field(default=0, ge=0, le=365 * 86400, description="both authenticate anew; 0: never")
    grace: Seconds = Field(
        default=60, ge=0, le=86400, description="for which SAs go on whose secret, CA or identity SIGHUP has changed"
    )
    dpd_delay: Seconds = Field(default=10, ge=0, le=3600, description="silence before the peer is asked; 0: never")
    start_action: Literal["start", "none"] = Field(default="start", description="none: wait for the far gateway")
    mobility: Literal["port", "address", "none"] = Field(
        default="port",
        description="what of the far gateway's address may change; behind a NAT, port lets the address, too",
    )
    ike_port: int = Field(default=500, ge=1, le=65535, description="UDP port of IKE, on both sides")


class PskKeys(IkeKeys):
    """IKEv2 with a pre-shared key."""

    source: Literal["psk"]
    secret: Path = Field(description="file with the pre-shared key, mode 0600, owned by the user who runs fwd")


class CertificateKeys(IkeKeys):
    """IKEv2 with X.509 certificates, all files PEM."""

    source: Literal["cert"]
    certificate: Path = Field(description="this gateway's certificate; CAs between it and the root may follow")
    key: Path = Field(description="its private key, mode 0600, owned by the user who runs fwd")
    authorities: Path | None = Field(default=None, description="CAs that the far gateway's certificate must come from")
    remote_cert: Path | None = Field(
        default=None, description="the far gateway's certificate: no other key is taken, and no CA is needed"
    )
    crls: list[Path] = Field(default=[], max_length=64, description="lists of what the CAs have revoked, PEM or DER")
    crl_policy: Literal["ifpresent", "strict"] = Field(
        default="ifpresent", description="strict: no peer without a CRL of every CA above its certificate"
    )
    tls_certificates: bool = Field(
        default=False, description="take certificates whose extended key usage is for TLS servers or clients alone"
    )
    cert_grace: Seconds = Field(
        default=0, ge=0, le=30 * 86400, description="for which SAs may go on after the peer's certificate has ended"
    )

    @model_validator(mode="after")
    def _anchored(self) -> CertificateKeys:
        if self.authorities is None and self.remote_cert is None:
            raise ValueError("authorities is missing: name the far gateway's CAs, or its certificate (remote_cert)")
        if self.authorities is None and self.crls:
            raise ValueError("crls are CAs' lists: they need authorities")
        if self.crl_policy == "strict" and not self.crls:
            raise ValueError('crl_policy = "strict" takes no peer at all without crls')
        return self


Keys = Annotated[LabKeys | PskKeys | CertificateKeys, Field(discriminator="source")]
_SOURCES = ("lab", "psk", "cert")


class Peering(_Strict):
    """One encrypted connection to one far gateway: one TUN device, one demux, N members."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="letters, digits and dashes")
    local_addrs: Address = Field(description="this gateway's outer address")
    remote_addrs: Address = Field(description="the far gateway's outer address")
    local_ts: list[Network] = Field(min_length=1, max_length=64, description="subnets on this side")
    remote_ts: list[Network] = Field(min_length=1, max_length=64, description="subnets on the far side")
    keys: Keys
    members: int = Field(default=4, ge=1, le=MEMBERS_MAX, description="worker processes, one ESP tunnel each")
    payload: Payload = Field(default="superpacket", description="superpacket: with another fwd; esp: plain RFC 4303")
    port: int = Field(default=4500, ge=1, le=65535, description="UDP port of member 0; member i uses port + i")
    shared_port: bool = Field(
        default=False,
        description=f"IKE and ESP share `port`, with a peer that uses 4500 alone (esp, {SHARED_MEMBERS_MAX} members)",
    )
    tun: str = Field(default="fwd0", pattern=r"^[A-Za-z0-9_.-]{1,15}$", description="name of the TUN device")
    tun_mtu: int | None = Field(
        default=None, ge=1280, le=65535, description="default: the path's, less overhead in esp"
    )
    path_mtu: int | None = Field(default=None, ge=576, le=65535, description="default: that of the outgoing interface")
    esn: bool = Field(default=True, description="64-bit extended sequence numbers")
    replay_window: int = Field(default=1024, ge=1024, le=65536, description="packets, by number")
    rekey_time: Seconds = Field(default=3600, ge=0, le=7 * 86400, description="0: only by count and octets")
    rekey_packets: int = Field(default=2**31, ge=1024, le=2**32 - 2**20, description="soft limit of an SA")
    rekey_bytes: int = Field(default=0, ge=0, le=2**60, description="soft limit in octets of ESP; 0: 0.9 × life_bytes")
    life_time: Seconds | None = Field(
        default=None,
        ge=0,
        le=8 * 86400,
        description="end of an SA (not with lab keys); 0: never; default: 1.1 × rekey_time",
    )
    life_packets: int | None = Field(
        default=None, ge=0, le=2**63, description="hard limit; 0: none; default: 1.1 × rekey_packets, or a million more"
    )
    life_bytes: int | None = Field(
        default=None, ge=0, le=2**63, description="hard limit; 0: none; default: 1.1 × rekey_bytes, or 1 GiB more"
    )
    reorder_packets: int = Field(default=3, ge=1, le=64, description="later packets that end the wait for a hole")
    reorder_ms: float = Field(default=2.0, gt=0, le=100, description="longest wait for a hole")
    offload: bool = Field(default=True, description="segmentation offloads of the TUN device and the sockets")
    mss_clamp: bool = Field(default=True, description="clamp TCP's MSS to the TUN device's MTU (payload esp)")
    audit: bool = Field(default=True, description="log what ESP refuses (RFC 4303 §4)")

    def port_of(self, member: int) -> int:
        """The UDP port of a member."""
        return self.port if self.shared_port else self.port + member

    @property
    def ports(self) -> range:
        """The UDP ports of all members."""
        return range(self.port, self.port_of(self.members - 1) + 1)

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

    @model_validator(mode="after")
    def _coherent(self) -> Peering:
        if self.local_addrs.version != self.remote_addrs.version:
            raise ValueError("local_addrs and remote_addrs are of different IP versions")
        if self.local_addrs == self.remote_addrs:
            raise ValueError("local_addrs and remote_addrs are the same address")
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
        for mine, theirs in itertools.product(self.local_ts, self.remote_ts):
            if mine.version == theirs.version and mine.overlaps(theirs):
                raise ValueError(f"local_ts {mine} and remote_ts {theirs} overlap")
        for subnet in self.remote_ts:
            if self.remote_addrs in subnet or self.local_addrs in subnet:
                raise ValueError(f"remote_ts {subnet} contains a gateway's own outer address")
        return self


def _endpoint(text: str) -> str:
    address, _, port = text.rpartition(":")
    try:
        ip_address(address[1:-1] if address.startswith("[") and address.endswith("]") else IPv4Address(address))
        if not 0 < int(port) < 2**16 or not port.isdecimal():
            raise ValueError
    except ValueError:
        raise ValueError("expected ADDR:PORT, such as 127.0.0.1:9595 or [::1]:9595; no host name") from None
    return text


def _user(value: str | int) -> str | int:
    """What no host can have; whether this one has it is looked at when fwd starts (supervise/users.py)."""
    if str(value) in ("root", "0", "nobody", "65534"):
        raise ValueError(f"{value} is not for this: choose another, or leave it out")
    if not re.fullmatch(r"[a-z_][a-z0-9_.-]*|\d+", str(value), re.IGNORECASE) or len(str(value)) > 31:
        raise ValueError("expected the name of a user, or a number")
    return value


class Gateway(_Strict):
    """What holds for the whole process tree."""

    control: Path = Field(default=Path("/run/fwd/fwd.sock"), description="Unix socket of `fwd status`")
    metrics: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None, description="ADDR:PORT of /metrics, /healthz and /readyz"
    )
    user: Annotated[str | int, AfterValidator(_user)] | None = Field(
        default=None,
        description="whom the child processes run as: NAME for NAME, NAME-keyd and NAME-agent, or a number for it and "
        "the next two; default: fwd, fwd-keyd and fwd-agent, or numbers that are free",
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Strict):
    gateway: Gateway = Gateway()
    peering: list[Peering] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _apart(self) -> Config:
        for a, b in itertools.combinations(self.peering, 2):
            if a.name == b.name:
                raise ValueError(f"two peerings are named {a.name}")
            if a.tun == b.tun:
                raise ValueError(f"peerings {a.name} and {b.name} share the TUN device {a.tun}")
            if a.local_addrs == b.local_addrs and (clash := _clash(a, b)):
                raise ValueError(f"peerings {a.name} and {b.name} share UDP port {clash} on {a.local_addrs}")
            if reason := _indistinct(a, b):
                raise ValueError(f"peerings {a.name} and {b.name} {reason}")
            for x, y in itertools.product(a.remote_ts, b.remote_ts):
                if x.version == y.version and x.overlaps(y):
                    raise ValueError(f"remote_ts {x} of {a.name} and {y} of {b.name} overlap")
        return self


def _clash(a: Peering, b: Peering) -> int | None:
    """A UDP port that two peerings of one address would both have; IKE's own they may share."""
    taken = set(a.ports) & {*b.ports, *([b.ike.ike_port] if b.ike else [])}
    taken |= set(b.ports) & ({a.ike.ike_port} if a.ike else set())
    return min(taken, default=None)


def _indistinct(a: Peering, b: Peering) -> str:
    """Why a peer that begins IKE could be either peering's; empty: it can be told."""
    if not a.ike or not b.ike or (a.local_addrs, a.remote_addrs) != (b.local_addrs, b.remote_addrs):
        return ""
    if a.ike.ike_port != b.ike.ike_port:
        return ""
    same = f"have the same addresses and keys.ike_port {a.ike.ike_port}"
    if _identities(a) == _identities(b):
        return f"{same}, and no identities to tell them apart: give one another ike_port, or local_id and remote_id"
    if a.ike.ike_proposals != b.ike.ike_proposals:  # chosen before the peer says who it is
        return f"{same}: then their ike_proposals must be the same, too, or give one another ike_port"
    return ""


def _identities(peering: Peering) -> tuple[str, str]:
    """What IKE calls both sides: their addresses, unless the configuration says otherwise."""
    keys = peering.ike
    assert keys is not None
    local, remote = keys.local_id or str(peering.local_addrs), keys.remote_id or str(peering.remote_addrs)
    return local.casefold(), remote.casefold()


def parse(text: str, source: str) -> Config:
    """Parse a configuration's text; `source` names it in errors. Raises ConfigError, one line."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not TOML: {error}") from None
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first_reason(error)}") from None


def load(path: Path) -> Config:
    """Read and check the file at `path`. Raises ConfigError, one line."""
    try:
        with path.open(encoding="utf-8") as file:
            about, text = os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text") from None
    if stat.S_ISREG(about.st_mode) and (reason := why_not_believed(about)):
        raise ConfigError(f"{path}: configuration {reason}")
    return parse(text, str(path))


def with_members(config: Config, members: int) -> Config:
    """The same configuration with `members` in every peering (`fwd demux --members N`); checked again."""
    data: dict[str, Any] = config.model_dump()
    for peering in data["peering"]:
        peering["members"] = members
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"--members {members}: {_first_reason(error)}") from None


def without_offload(config: Config) -> Config:
    """The same configuration with every offload off (`fwd demux --no-offload`)."""
    return config.model_copy(update={"peering": [p.model_copy(update={"offload": False}) for p in config.peering]})


def _first_reason(error: ValidationError) -> str:
    """The first thing wrong, as `key: reason`; says how many more there are."""
    problem, *_ = problems = error.errors()
    words = _words(problem["loc"])
    key = ".".join(words) or "file"
    reason = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "extra_forbidden":
        reason = f"unknown key{_meant(words[-1])}"
    elif problem["type"] == "missing":
        unknown = [
            str(p["loc"][-1])
            for p in problems
            if (p["type"], p["loc"][:-1]) == ("extra_forbidden", problem["loc"][:-1])
        ]
        reason = f"missing, and {unknown[0]} is unknown" if unknown else "missing"
    elif problem["type"].startswith("union_tag"):
        key = f"{key}.source"
        reason = "missing" if problem["type"] == "union_tag_not_found" else f"use one of {', '.join(_SOURCES)}"
    keys = {tuple(_words(other["loc"])) for other in problems}
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{key}: {reason}{more}"


def _meant(key: str) -> str:
    """What may have been meant by an unknown key: one of another table, or one that is written much like it."""
    models: dict[str, type[BaseModel]] = {"gateway": Gateway, "peering": Peering}
    models |= {f'peering.keys, source "{s}"': m for s, m in (("psk", PskKeys), ("cert", CertificateKeys))}
    homes = [name for name, model in models.items() if key in model.model_fields]
    if homes:
        return f" here: it belongs to {homes[0] if len(homes) == 1 else homes[0].partition(',')[0]}"
    known = sorted({*models, *(name for model in models.values() for name in model.model_fields)})
    close = [_SWANCTL[key]] if key in _SWANCTL else difflib.get_close_matches(key, known, 1, 0.7)
    return f": is {close[0]} meant?" if close else ""


def _words(location: tuple[int | str, ...]) -> list[str]:
    """A location without the branches of unions."""
    words = [str(part) for part in location if not str(part).startswith(_UNION)]
    return [word for at, word in enumerate(words) if not (word in _SOURCES and at and words[at - 1] == "keys")]


EXAMPLE = """\
# fwd: one gateway's configuration. `fwd config check FILE` tells what is wrong with it.

[gateway]
control = "/run/fwd/fwd.sock"      # where `fwd status` asks
metrics = "127.0.0.1:9595"         # Prometheus text, /healthz, /readyz; leave out for none
# user = "fwd"                     # child processes run as fwd, fwd-keyd, fwd-agent; a number: as it and the next two
log_level = "info"

[[peering]]
name = "vpc2"
local_addrs = "192.0.2.1"          # this gateway's outer address
remote_addrs = "192.0.2.2"         # the far gateway's
local_ts = ["10.1.0.0/16"]         # subnets on this side
remote_ts = ["10.2.0.0/16"]        # subnets on the far side
members = 4                        # worker processes, one ESP tunnel each
payload = "superpacket"            # "esp": plain RFC 4303, for any IPsec peer
port = 4500                        # member i uses UDP port 4500 + i
tun = "fwd0"
# path_mtu = 1500                  # default: that of the outgoing interface
esn = true
replay_window = 1024
rekey_time = "1h"
# life_time = "66m"                # when an SA ends whatever happens; default: 1.1 × rekey_time

[peering.keys]
source = "psk"                     # IKEv2 with a pre-shared key; "cert": with certificates
secret = "/etc/fwd/vpc2.psk"       # mode 0600; 16 or more bytes, or 0x and hex, or 0s and base64; as the far side's
# reauth_time = "1d"               # both sides authenticate anew; default: never
# grace = "60s"                    # for which SAs of a secret go on that SIGHUP has changed
# local_id = "gw1.example"         # default: the outer addresses
# remote_id = "gw2.example"
# source = "cert": instead of secret
# certificate = "/etc/fwd/gw1.pem" # this gateway's, and CAs between it and the root; all files PEM
# key = "/etc/fwd/gw1.key"         # mode 0600
# authorities = "/etc/fwd/ca.pem"  # whom the far gateway's must come from; or remote_cert, its own certificate
# crls = ["/etc/fwd/ca.crl"]       # what they have revoked; read anew on SIGHUP
# crl_policy = "strict"            # no peer without a CRL of every CA; default: ifpresent
# tls_certificates = true          # take those for TLS servers and clients, as easy-rsa makes them
ike_proposals = ["aes256gcm16-prfsha384-x25519-ecp384"]
esp_proposals = ["aes256gcm16-x25519-ecp384-esn-noesn"]
ike_rekey_time = "4h"
dpd_delay = "10s"
mobility = "port"                  # of the far gateway's address: "address": all of it, once it answers there; "none"
ike_port = 500
"""
