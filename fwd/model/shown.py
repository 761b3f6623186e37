"""How the status's classes are written and read: each field has a type, a sentence, and perhaps a metric.

A field is `Annotated[TYPE, "Sentence.", gauge("fwd_…")]`. JSON, `fwd status`, metrics, docs/status.md and the JSON
Schema come from that. Standard library only, so that `fwd status` starts at once.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Json = dict[str, Any]


class Metric(NamedTuple):
    """The Prometheus metric of a field; its help is the field's sentence."""

    name: str
    kind: Literal["counter", "gauge"]
    label: str = ""  # of a mapping: what its keys are called
    one: str = ""  # of a word: the one that is 1, others being 0
    divisor: float = 1.0  # from the field's unit to the metric's


def counter(name: str, label: str = "") -> Metric:
    """The metric of a count that never goes back while the gateway runs."""
    return Metric(name, "counter", label)


def gauge(name: str, *, one: str = "", divisor: float = 1.0) -> Metric:
    """The metric of a value that goes up and down."""
    return Metric(name, "gauge", one=one, divisor=divisor)


class Shown(NamedTuple):
    """What is known of one field of a status class."""

    name: str
    key: str  # in JSON
    type: Any
    sentence: str
    metric: Metric | None


# One configuration for pydantic, which docs/status.py and the tests check a status with.
STRICT: Final = {"strict": True, "extra": "forbid", "alias_generator": lambda name: key_of(name)}


def key_of(name: str) -> str:
    """A field's key in JSON: `in_` is `in`."""
    return name.rstrip("_")


_PLAIN: Final = (str, int, float, type(None))
_KNOWN: Final[dict[type, tuple[Shown, ...]]] = {}


def shown(cls: type) -> tuple[Shown, ...]:
    """Return the fields of a status class, in order. Raises TypeError if one has no sentence."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _shown(cls)
    return _KNOWN[cls]


def _shown(cls: Any) -> tuple[Shown, ...]:
    hints = get_type_hints(cls, include_extras=True)
    found = []
    for one in fields(cls):
        hint = hints[one.name]
        if get_origin(hint) is not Annotated:
            raise TypeError(f"{cls.__name__}.{one.name} has no sentence")
        sentence, *more = hint.__metadata__
        metric = next((extra for extra in more if isinstance(extra, Metric)), None)
        found.append(Shown(one.name, key_of(one.name), hint.__origin__, sentence, metric))
    return tuple(found)


def as_json(value: Any) -> Any:
    """Return a status, or a part of one, as JSON has it."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    return {one.key: as_json(getattr(value, one.name)) for one in shown(type(value))}


def read(cls: type[T], told: Mapping[str, Any]) -> T:
    """Read a status class from JSON. What is not known is passed over; what is missing must have a default.

    Raises ValueError if the JSON is of another shape.
    """
    if not isinstance(told, dict):
        raise ValueError(f"{cls.__name__} is no object")
    defaults = {one.name for one in fields(cls) if (one.default, one.default_factory) != (MISSING, MISSING)}  # type: ignore[arg-type]
    values = {}
    for one in shown(cls):
        if one.key in told:
            values[one.name] = _read(one.type, told[one.key])
        elif one.name not in defaults:
            raise ValueError(f"{one.key} is missing")
    return cls(**values)


def _read(wanted: Any, told: Any) -> Any:
    if type(told) is wanted:  # most are plain
        return told
    origin, arguments = get_origin(wanted), get_args(wanted)
    if is_dataclass(wanted):
        return read(wanted, told)  # type: ignore[arg-type]
    if origin in (list, tuple) and isinstance(told, list):
        return origin(_read(arguments[0], one) for one in told)
    if origin is dict and isinstance(told, dict):
        return {name: _read(arguments[1], one) for name, one in told.items()}
    if origin in (Union, types.UnionType):
        return None if told is None else _read(arguments[0], told)
    if (origin is Literal and told in arguments) or (origin is None and _is_a(wanted, told)):
        return told
    raise ValueError(f"{told!r:.40} is no {wanted}")


def _is_a(wanted: Any, told: Any) -> bool:
    """Whether a value of JSON is of a plain type; true is no number, and a whole number is a float, too."""
    if wanted is float:
        return type(told) in (int, float)
    return type(told) is wanted


def classes(cls: type) -> Iterator[type]:
    """Yield a status class and all that are part of it, each once, in the order of the fields."""
    seen: dict[type, None] = {}

    def look(wanted: Any) -> None:
        if is_dataclass(wanted) and wanted not in seen:
            seen[wanted] = None  # type: ignore[index]
            for one in shown(wanted):  # type: ignore[arg-type]
                look(one.type)
        for argument in get_args(wanted):
            look(argument)

    look(cls)
    yield from seen
