"""The words of the configuration: types of its values, and what they refuse.

A time is written as swanctl writes it (`90s`, `60m`, `4h`, `1d`); true and false are no numbers; an unknown key is
refused.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from fwd.proto.errors import UserError

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Payload = Literal["superpacket", "esp"]
Change = Literal["live", "restart"]

# What a change of the key does while fwd runs. `Live`: it holds at once, or for SAs to come, and no packet is lost.
# `Restart`: that peering is set up anew, its guards standing; of [gateway]: fwd must be restarted.
_T = TypeVar("_T")
Live = Annotated[_T, Field(json_schema_extra={"change": "live"})]
Restart = Annotated[_T, Field(json_schema_extra={"change": "restart"})]

_UNITS_S: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


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


def change_of(model: type[BaseModel], key: str) -> Change:
    """Return what a change of `key` does while fwd runs."""
    extra = model.model_fields[key].json_schema_extra
    assert isinstance(extra, dict), f"{model.__name__}.{key} is neither Live nor Restart"
    return "live" if extra["change"] == "live" else "restart"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, data: Any) -> Any:
        """Python takes true for 1: `members = true` would be one member, `user = true` the user 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            if isinstance(value, bool) and name in cls.model_fields and cls.model_fields[name].annotation is not bool:
                raise ValueError(f"{name} is not for true or false")
        return data
