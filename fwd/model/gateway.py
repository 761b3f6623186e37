"""The `[gateway]` table: what holds for the whole process tree of a gateway.

Refuses what no host can have; whether this one has it is looked at when fwd starts.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from fwd.model.words import FilePath, Live, Restart, SocketPath, Strict


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


class Gateway(Strict):
    """What holds for the whole process tree."""

    control: Restart[SocketPath] = Field(default=Path("/run/fwd/fwd.sock"), description="Unix socket of `fwd status`")
    metrics: Live[Annotated[str, AfterValidator(_endpoint)] | None] = Field(
        default=None, description="ADDR:PORT of /metrics, /healthz and /readyz"
    )
    beacon: Live[Annotated[str, AfterValidator(_endpoint)] | None] = Field(
        default=None,
        description="ADDR:PORT (UDP) at which routers of this VPC probe, such as its inner address and 4790",
    )
    probe_key: Live[FilePath | None] = Field(
        default=None,
        description="file of 32 random octets in hexadecimal, as the routers have; mode 0600; default: a controller's",
    )
    user: Restart[Annotated[str | int, AfterValidator(_user)] | None] = Field(
        default=None,
        description="whom the child processes run as: NAME for NAME, NAME-keyd and NAME-agent, or a number for it and "
        "the next two; default: fwd, fwd-keyd and fwd-agent, or numbers that are free",
    )
    low_latency: Live[bool] = Field(default=False, description="keep the host's CPUs out of deep sleep while fwd runs")
    log_level: Live[Literal["debug", "info", "warning", "error"]] = Field(
        default="info", description="the least of what is logged"
    )
