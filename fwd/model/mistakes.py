"""What is wrong with a configuration, in one line for the user: key and reason, of the first of its faults."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel, ValidationError

from fwd.model.keys import SOURCES, CertificateKeys, PskKeys

_UNION: Final = ("IPv", "lax-or-strict", "function-")  # how pydantic names the branches of a union in a location
_EXPECTED: Final = {
    "list_type": 'expected a list, such as ["…", "…"]',
    "path_type": "expected the path of one file, in quotes",
}
_SWANCTL: Final = {"cacerts": "authorities", "certs": "certificate", "mobike": "mobility", "revocation": "crl_policy"}


def first_reason(error: ValidationError, tables: Mapping[str, type[BaseModel]]) -> str:
    """The first thing wrong, as `key: reason`; says how many more there are."""
    problem, *_ = problems = error.errors()
    words = _words(problem["loc"])
    key = ".".join(words) or "file"
    reason = _EXPECTED.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    if problem["type"] == "extra_forbidden":
        reason = f"unknown key{_meant(words[-1], tables)}"
    elif problem["type"] == "missing":
        unknown = [
            str(p["loc"][-1])
            for p in problems
            if (p["type"], p["loc"][:-1]) == ("extra_forbidden", problem["loc"][:-1])
        ]
        reason = f"missing, and {unknown[0]} is unknown" if unknown else "missing"
    elif problem["type"].startswith("union_tag"):
        key = f"{key}.source"
        reason = "missing" if problem["type"] == "union_tag_not_found" else f"use one of {', '.join(SOURCES)}"
    keys = {tuple(_words(other["loc"])) for other in problems}
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    return f"{key}: {reason}{more}"


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
    words = [str(part) for part in location if not str(part).startswith(_UNION)]
    return [word for at, word in enumerate(words) if not (word in SOURCES and at and words[at - 1] == "keys")]
