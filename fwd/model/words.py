"""The words of the configuration: types of its values, and what they refuse.

A time is written as swanctl writes it (`90s`, `60m`, `4h`, `1d`); true and false are no numbers; an address or a subnet
is a text; an unknown key is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fwd.model.places import strange
from fwd.proto.errors import UserError

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Payload = Literal["superpacket", "esp"]
Steering = Literal["demux", "kernel"]
Change = Literal["live", "restart"]

# What a change of the key does while fwd runs. `Live`: it holds at once, or for SAs to come, and no packet is lost.
# `Restart`: that peering is set up anew, its guards standing; of [gateway]: fwd must be restarted.
_T = TypeVar("_T")
Live = Annotated[_T, Field(json_schema_extra={"change": "live"})]
Restart = Annotated[_T, Field(json_schema_extra={"change": "restart"})]

NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"  # of what is in a fleet
DAY_S: Final = 86400
_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": DAY_S}
_NO_DEVICES: Final = frozenset({"lo", "all", "default", ".", ".."})  # all, default: sysctl's, for every device
_NAME: Final = re.compile(r"(?=.{1,253}\.?$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.?)+", re.IGNORECASE | re.ASCII)
_SOCKET_PATH_OCTETS_MAX: Final = 107  # sun_path of Linux, without the octet of zero behind it


class ConfigError(UserError):
    """A configuration that cannot be used; its text is one line for the user."""


class Truth:
    """Stands for true or false where a number or a text is wanted: Python takes true for 1, and pydantic does, too."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, data: Any) -> Any:
        """`members = true` would be one member, `user = true` the user 1."""
        if not isinstance(data, dict):
            return data
        others = {name for name, field in cls.model_fields.items() if field.annotation is not bool}
        return {name: Truth() if isinstance(value, bool) and name in others else value for name, value in data.items()}


def change_of(model: type[BaseModel], key: str) -> Change:
    """Return what a change of `key` does while fwd runs."""
    extra = model.model_fields[key].json_schema_extra
    assert isinstance(extra, dict), f"{model.__name__}.{key} is neither Live nor Restart"
    return "live" if extra["change"] == "live" else "restart"


# -- times ------------------------------------------------------------------------------------------------------------


def _duration_s(value: object) -> object:
    """swanctl's time words: 3600, "3600s", "60m", "1h", "1d" → seconds."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,12})\s*([smhd]?)", value)
        if not match:
            raise ValueError("expected a time such as 90s, 60m, 4h or 1d")
        return int(match[1]) * _UNITS_S[match[2]]
    return value


Seconds = Annotated[int, BeforeValidator(_duration_s)]


def seconds_in(text: str, what: str, most: int | None = None) -> int:
    """Return the seconds that a time of one, or `most`, has. Raises ConfigError, which names it `what`."""
    try:
        seconds = int(_duration_s(text))  # type: ignore[call-overload]
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from None
    if not seconds:
        raise ConfigError(f"{what}: expected a time of 1s or more")
    if most is not None and seconds > most:
        raise ConfigError(f"{what}: expected {most // DAY_S} day{'s' * (most > DAY_S)} at most")
    return int(seconds)


# -- addresses and subnets --------------------------------------------------------------------------------------------


def _address(value: object) -> object:
    """An address of one host."""
    if isinstance(value, IPv4Address | IPv6Address):
        return value
    if not isinstance(value, str):
        raise ValueError('expected an IP address in quotes, such as "192.0.2.1"')
    try:
        address = ip_address(value)
    except ValueError:
        raise ValueError(_no_address(value)) from None
    if isinstance(address, IPv6Address) and address.scope_id:
        raise ValueError(f"an address with a device ({value}) is not taken: use one that is not link-local")
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        raise ValueError(f"{value} is IPv4 written as IPv6: did you mean {address.ipv4_mapped}?")
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{value} is no address of one host")
    return address


def _no_address(text: str) -> str:
    """Say what is wrong with a text that is no address."""
    if several := _several(text, "address"):
        return several
    bare = text.strip().removeprefix("[").rpartition(":")[0].removesuffix("]")
    for meant, why in (
        (text.strip(), "has blanks around it"),
        (text.partition("/")[0], "is a subnet, and one address is wanted"),
        (text.strip("[]"), "is in brackets"),
        (bare, "has a port, which has a key of its own (port, keys.ike_port)"),
    ):
        if is_address(meant) or (meant == bare and is_host_name(meant)):
            return f"{text!r} {why}: did you mean {meant}?"
    if is_host_name(text):
        return f"{text!r} is a name, and names are not looked up here: write the IP address"
    return f'{text!r} is no IP address: expected one such as "192.0.2.1" or "2001:db8::1"'


def _several(text: str, what: str) -> str:
    """Say that a text is more than one address or subnet, or is written with characters that are none; or nothing."""
    if len(text.replace(",", " ").replace(";", " ").split()) > 1:
        return f'{text!r}: each {what} is a text of its own: ["…", "…"]'
    if odd := strange(text.strip()):
        return f"{text!r}: {odd}"
    return ""


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_host_name(text: str) -> bool:
    """Whether it may be a name in the DNS, and cannot be meant as an address."""
    last = text.rstrip(".").rpartition(".")[2]
    return bool(_NAME.fullmatch(text)) and not last.isdecimal()


def _network(value: object) -> object:
    """A subnet, by its first address and the length of its prefix."""
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError('expected a subnet in quotes, such as "10.2.0.0/16"')
    try:
        return ip_network(value)
    except ValueError:
        pass
    try:
        meant = ip_network(value, strict=False)
    except ValueError:
        return _no_network(value)
    host = ip_interface(value).ip
    raise ValueError(f"{value} has host bits set: did you mean {meant}? ({host} alone is {host}/{host.max_prefixlen})")


def _no_network(text: str) -> object:
    """Say what is wrong with a text that is no subnet."""
    start, slash, length = text.partition("/")
    if several := _several(text, "subnet"):
        reason = several
    elif text != text.strip():
        reason = f"{text!r} has blanks around it: remove them"
    elif slash and is_address(start):
        most = ip_address(start).max_prefixlen
        reason = f"{text!r}: /{length} is no length of a prefix: 0 to {most} is possible"
    elif "-" in text:
        reason = f"{text!r}: ranges are not taken: write the subnets that make it up"
    elif text == "dynamic":
        reason = "'dynamic' is not taken: write the subnet"
    else:
        reason = f'{text!r} is no subnet: expected one such as "10.2.0.0/16" or "fd00:2::/64"'
    raise ValueError(reason)


def _far_address(value: object) -> object:
    """An address, or a name that has one, or a list of both."""
    if isinstance(value, list | tuple):
        return _far_addresses(value)
    return value.rstrip(".").lower() if isinstance(value, str) and is_host_name(value) else _address(value)


def _far_addresses(values: Sequence[object]) -> object:
    """The addresses or names of several far gateways; of a list with one, that one."""
    if not values:
        raise ValueError("has no entries, needs one")
    if any(isinstance(one, list | tuple) for one in values):
        raise ValueError("a list within a list: write all far gateways in one")
    found = tuple(_far_address(one) for one in values)
    if twice := next((one for at, one in enumerate(found) if one in found[:at]), None):
        raise ValueError(f"{twice} stands here twice")
    return found if len(found) > 1 else found[0]


HostAddress = Annotated[Address, BeforeValidator(_address)]
FarAddress = Annotated[Address | str | tuple[Address | str, ...], BeforeValidator(_far_address)]
Subnet = Annotated[Network, BeforeValidator(_network)]


# -- devices ----------------------------------------------------------------------------------------------------------


def _device(name: str) -> str:
    if name in _NO_DEVICES:
        raise ValueError(f"the kernel has {name!r} for itself: choose another name, such as fwd0")
    return name


DeviceName = Annotated[str, AfterValidator(_device)]


# -- paths ------------------------------------------------------------------------------------------------------------


def _path(path: Path) -> Path:
    if str(path) in (".", "/", ".."):
        raise ValueError("expected the path of one file, in quotes")
    if "\0" in str(path):
        raise ValueError("a path cannot have an octet of zero in it")
    return path


def _socket_path(path: Path) -> Path:
    octets = len(os.fsencode(path))
    if octets > _SOCKET_PATH_OCTETS_MAX:
        raise ValueError(
            f"the path has {octets} octets, and that of a Unix socket may have {_SOCKET_PATH_OCTETS_MAX}: "
            "choose a shorter one, such as /run/fwd/fwd.sock"
        )
    return path


FilePath = Annotated[Path, AfterValidator(_path)]
SocketPath = Annotated[FilePath, AfterValidator(_socket_path)]
