"""What keyd tells of IKE (`GatewayShared.ike`, JSON), read as a stranger's words: keyd speaks with the whole network.

Whatever the text is, each peering with IKE gets a `Told`; if keyd tells nothing of it, its error says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from fwd.proto.ike.causes import Failure

UNREADABLE: Final = "what keyd tells cannot be read"
NOTHING: Final = "keyd tells nothing of this peering"
_S_MAX: Final = 10**10


def _printable(told: Any) -> Any:
    """What a terminal may show: keyd's words may be a peer's."""
    if isinstance(told, str):
        return told if told.isprintable() else "".join(one if one.isprintable() else "?" for one in told)
    if isinstance(told, list):
        return [_printable(one) for one in told]
    return {_printable(key): _printable(one) for key, one in told.items()} if isinstance(told, dict) else told


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    printable = field_validator("*")(_printable)


def _aged(told: ChildSa | IkeSa, ages: Iterable[str], later_s: int) -> dict[str, int | None]:
    """Return the ages and what is left of a life so long after it was told: null stays so."""
    found = {key: age if (age := getattr(told, key)) is None else age + later_s for key in ages}
    return {**found, "ends_s": told.ends_s if told.ends_s is None else max(0, told.ends_s - later_s)}


class ChildSa(_Shape):
    member: int = 0
    state: str = ""
    spi_in: str = ""
    spi_out: str = ""
    proposal: str = ""
    age_s: int | None = Field(default=None, ge=0, le=_S_MAX)
    ends_s: int | None = Field(default=None, ge=0, le=_S_MAX)

    def shown(self, later_s: int) -> dict[str, Any]:
        """Return it as it is so long after it was told."""
        return {**dict(self), **_aged(self, ("age_s",), later_s)}


class IkeSa(_Shape):
    at_s: float | None = None  # CLOCK_BOOTTIME, when ages and what is left were so
    state: str = ""
    spi_i: str = ""
    spi_r: str = ""
    initiator: bool = False
    behind_nat: bool = False
    peer_behind_nat: bool = False
    remote: str = ""
    remote_id: str = ""
    established_s: int | None = Field(default=None, ge=0, le=_S_MAX)
    authenticated_s: int | None = Field(default=None, ge=0, le=_S_MAX)
    ends_s: int | None = Field(default=None, ge=0, le=_S_MAX)
    children: list[ChildSa] = Field(default_factory=list)

    def shown(self, now: float) -> dict[str, Any]:
        """Return it as it is by `now` (CLOCK_BOOTTIME): keyd tells what rests twice a minute, and dead never again."""
        later_s = round(min(max(0.0, now - self.at_s), _S_MAX)) if self.at_s is not None else 0
        told = {key: value for key, value in self if key != "at_s"}
        children = [child.shown(later_s) for child in self.children]
        return {**told, **_aged(self, ("established_s", "authenticated_s"), later_s), "children": children}


class Certificates(_Shape):
    local_days: float
    remote: str | None = None
    remote_days: float | None = None
    findings: list[str] = Field(default_factory=list)


class Narrower(_Shape):
    """What a member carries, where that is less than is configured."""

    local: list[str] = Field(default_factory=list)
    remote: list[str] = Field(default_factory=list)
    not_wholly: list[str] = Field(default_factory=list)


class Brief(_Shape):
    """Of one peering, what decides whether it is ready."""

    error: str = ""
    stopped: bool = False
    concern: str = ""
    refused: dict[str, str] = Field(default_factory=dict)
    narrower: dict[str, Narrower] = Field(default_factory=dict)


class FarTold(_Shape):
    """Of one far gateway."""

    number: int = 0
    established: bool = False
    error: str = ""


class Told(Brief):
    """Of one peering, all of it."""

    sas: list[IkeSa] = Field(default_factory=list)
    half_open: int = 0
    faults: int = Field(default=0, ge=0)
    failures: dict[str, Annotated[int, Field(ge=0, le=2**63)]] = Field(default_factory=dict)
    certificates: Annotated[Certificates | None, BeforeValidator(lambda told: told or None)] = None
    far: list[FarTold] = Field(default_factory=list)

    @property
    def failures_by_reason(self) -> dict[str, int]:
        """Every reason there is, and no other, whatever keyd tells."""
        return {reason.value: self.failures.get(reason.value, 0) for reason in Failure}


B = TypeVar("B", bound=Brief)
_TOLD: Final = TypeAdapter(dict[str, Told])
_BRIEF: Final = TypeAdapter(dict[str, Brief])


def read(text: bytes, peerings: Iterable[str]) -> dict[str, Told]:
    """What `text` tells of `peerings`."""
    return _read(Told, _TOLD, text, peerings)


def read_briefly(text: bytes, peerings: Iterable[str]) -> dict[str, Brief]:
    """What of it decides whether they are ready: the rest, of which there is much, is skipped."""
    return _read(Brief, _BRIEF, text, peerings)


def _read(kind: type[B], adapter: TypeAdapter[dict[str, B]], text: bytes, peerings: Iterable[str]) -> dict[str, B]:
    try:
        told = adapter.validate_json(text) if text else {}
        missing = kind(error=NOTHING)
    except ValidationError:
        told, missing = {}, kind(error=UNREADABLE)
    return {name: told.get(name, missing) for name in peerings}
