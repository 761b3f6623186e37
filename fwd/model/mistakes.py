"""What is wrong with a configuration, in one line for the user: key and reason, of the first of its faults.

No value of a text is shown here: what stands in the wrong place may be a secret.
"""

from __future__ import annotations

import datetime
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from fwd.model import places
from fwd.model.keys import SOURCES, CertificateKeys, PskKeys
from fwd.model.words import NAME, Truth

# How pydantic names the branches of a union in a location.
_UNION: Final = ("IPv", "lax-or-strict", "function-")
_BRANCHES: Final = ("str", "int")
_SWANCTL: Final = {"cacerts": "authorities", "certs": "certificate", "mobike": "mobility", "revocation": "crl_policy"}
_SPELLED: Final = {
    "name": "expected 1 to 31 small letters, digits and dashes, and no dash first",
    "tun": "expected the name of a device: 1 to 15 letters, digits, dots, dashes and underscores",
    "prefix": "expected small letters, digits and dashes between slashes, such as /fwd/",
}
_FLEETS: Final = "expected 1 to 32 small letters, digits and dashes, and no dash first or last"
_TABLES: Final = {
    "gateway": "[gateway]",
    "controller": "[controller]",
    "peering": "[[peering]]",
    "keys": "[peering.keys]",
}


def first_reason(
    error: ValidationError, tables: Mapping[str, type[BaseModel]], data: object = None, text: str = ""
) -> str:
    """The first thing wrong, as `key: reason`; says how many more there are.

    `data` is what was refused, by which tables have names, and `text` the file that it was read from.
    """
    problem, *_ = problems = error.errors()
    words = _words(problem["loc"])
    key = ".".join(places.named(words, data)) or "file"
    line = places.line_of(words, text)

    # What is wrong with it. Of a key that is missing, one that nobody knows may be a slip of the pen.
    slip = _slip(problems) if words == ["peering"] else ""
    if slip:
        reason = f"[[{slip}]] is unknown: write [[peering]]"
    elif problem["type"] == "extra_forbidden":
        reason = f"unknown key{_meant(words[-1], tables)}"
    elif problem["type"] == "missing":
        unknown = [
            str(p["loc"][-1])
            for p in problems
            if (p["type"], p["loc"][:-1]) == ("extra_forbidden", problem["loc"][:-1])
        ]
        reason = f"missing, and {unknown[0]} is unknown" if unknown else _missing(words, problems)
    elif problem["type"].startswith("union_tag"):
        key, line = f"{key}.source", places.line_of([*words, "source"], text)
        reason = "missing" if problem["type"] == "union_tag_not_found" else f"use one of {', '.join(SOURCES)}"
    else:
        reason = _reason(problem["type"], words, problem.get("ctx", {}), problem["input"], problem["msg"])

    # One line: where it is, and how many more there are.
    keys = {tuple(_words(other["loc"])) for other in problems}
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    where = f" (line {line})" if line else ""
    return f"{key}: {reason}{where}{more}"


def reason_of(problem: Mapping[str, Any]) -> str:
    """Why one value is refused, of pydantic's `errors()`."""
    return _reason(
        problem["type"], _words(problem["loc"]), problem.get("ctx", {}), problem.get("input"), problem["msg"]
    )


def _slip(problems: Sequence[Any]) -> str:
    """Find the name of unknown [[tables]] beside which there are no peerings; empty: there are none."""
    unknown = [one for one in problems if one["type"] == "extra_forbidden" and len(one["loc"]) == 1]
    return next((str(one["loc"][0]) for one in unknown if isinstance(one["input"], list)), "")


def _missing(words: list[str], problems: Sequence[Any]) -> str:
    """Say what is missing, and if it stands somewhere else."""
    found = [_words(one["loc"]) for one in problems if one["type"] == "extra_forbidden"]
    there = next((".".join(place) for place in found if place[-1] == words[-1]), None)
    if there is None:
        return "missing"
    table = _TABLES.get(words[-1])
    return (
        f"missing, and stands elsewhere: write {table} for [{there}]"
        if table
        else f"missing here: move it from {there}"
    )


def _reason(kind: str, words: list[str], bounds: Mapping[str, Any], value: object, message: str) -> str:
    """Why a value is refused, by pydantic's kind of error."""
    if kind in _PLAIN:
        return _PLAIN[kind](words, bounds, value)
    return message.removeprefix("Value error, ")


def _expected(what: str) -> Callable[[list[str], Mapping[str, Any], object], str]:
    return lambda words, bounds, value: f"expected {what}, not {_kind(value)}"


def _expected_table(words: list[str], bounds: Mapping[str, Any], value: object) -> str:
    table = _TABLES.get(words[-1], "[[peering]]") if words else "a table"
    what = f"a table, {table}" + ("" if table != "[gateway]" else " in single brackets")
    return f"expected {what}, not {_kind(value)}"


def _expected_list(words: list[str], bounds: Mapping[str, Any], value: object) -> str:
    if words == ["peering"]:
        return "expected [[peering]] in double brackets, since there may be several"
    return f'expected a list, such as ["…", "…"], not {_kind(value)}'


_KINDS: Final = {
    Truth: "true or false", bool: "true or false", str: "a text in quotes", int: "a whole number", list: "a list",
    dict: "a table", type(None): "null", datetime.date: "a date", datetime.time: "a time of day",
}  # fmt: skip
_WHY_MOST: Final = dict.fromkeys(
    ("local_ts", "remote_ts"), ": IKE names all of them in one payload, which holds no more"
)

# For each kind of error that a value of TOML can come to with these models; tests/test_mistakes.py tries them all.
_PLAIN: Final[dict[str, Callable[[list[str], Mapping[str, Any], object], str]]] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), _expected("a whole number")),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), _expected("a number")),
    **dict.fromkeys(("bool_type", "bool_parsing"), _expected("true or false, without quotes")),
    "string_type": _expected("a text in quotes"),
    "path_type": _expected("the path of one file, in quotes"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), _expected_table),
    "list_type": _expected_list,
    "string_pattern_mismatch": lambda words, bounds, value: (
        _FLEETS if bounds.get("pattern") == NAME else _SPELLED.get(words[-1], _SPELLED["name"])
    ),
    "literal_error": lambda words, bounds, value: f"use one of {bounds['expected'].replace(' or ', ', ')}",
    "greater_than": lambda words, bounds, value: f"{value} is too little: more than {_number(bounds['gt'])} is wanted",
    "greater_than_equal": lambda words, bounds, value: f"{_number(bounds['ge'])} is the least, and {value} is less",
    "less_than": lambda words, bounds, value: f"{value} is too much: less than {_number(bounds['lt'])} is wanted",
    "less_than_equal": lambda words, bounds, value: (
        "expected a number, not nan" if value != value else f"{_number(bounds['le'])} is the most, and {value} is more"
    ),
    "too_short": lambda words, bounds, value: f"has {bounds['actual_length']} entries, needs {bounds['min_length']}",
    "too_long": lambda words, bounds, value: (
        f"has {_length(value)} entries, and {bounds['max_length']} is the most{_WHY_MOST.get(words[-1], '')}"
    ),
    **dict.fromkeys(
        ("int_parsing_size", "string_unicode"), lambda words, bounds, value: "what stands here cannot be read"
    ),
}


def _kind(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, float):
        return "a fraction" if math.isfinite(value) else "inf or nan"
    if value == "":
        return "an empty text"
    return next((words for types, words in _KINDS.items() if isinstance(value, types)), "that")


def _number(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _length(value: object) -> object:
    return len(value) if isinstance(value, list) else "too many"


def _meant(key: str, tables: Mapping[str, type[BaseModel]]) -> str:
    """What may have been meant by an unknown key: one of another table, or one that is written much like it."""
    models = {**tables, **{f'peering.keys, source "{s}"': m for s, m in (("psk", PskKeys), ("cert", CertificateKeys))}}
    homes = [name for name, model in models.items() if key in model.model_fields]
    if homes:
        return f" here: it belongs to {homes[0] if len(homes) == 1 else homes[0].partition(',')[0]}"
    known = sorted({*models, *(name for model in models.values() for name in model.model_fields)})
    close = [_SWANCTL[key]] if key in _SWANCTL else difflib.get_close_matches(key, known, 1, 0.7)
    return f": is {close[0]} meant?" if close else ""


def _words(location: tuple[int | str, ...]) -> list[str]:
    """A location without the branches of unions."""
    words = [str(part) for part in location if not str(part).startswith(_UNION) and part not in _BRANCHES]
    return [word for at, word in enumerate(words) if not (word in SOURCES and at and words[at - 1] == "keys")]
