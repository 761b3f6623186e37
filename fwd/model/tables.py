"""The tables of a configuration as documents show them: each key with what it may be and what a change of it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from fwd.model.config import Peering
from fwd.model.controller import Controller, RouterController
from fwd.model.gateway import Gateway
from fwd.model.keys import CertificateKeys, LabKeys, PskKeys
from fwd.model.router import Hop, Router, Spread
from fwd.model.words import Strict

TABLES: Final[dict[str, type[Strict]]] = {
    "[gateway]": Gateway,
    "[controller]": Controller,
    "[[peering]]": Peering,
    '[peering.keys], source = "psk"': PskKeys,
    '[peering.keys], source = "cert"': CertificateKeys,
    '[peering.keys], source = "lab"': LabKeys,
}
ROUTER_TABLES: Final[dict[str, type[Strict]]] = {
    "[router]": Router,
    "[controller] of a router": RouterController,
    "[[spread]]": Spread,
    "[[spread.gateway]]": Hop,
}
_NOT_KEYS: Final = ("keys", "gateway", "source")  # tables themselves, and what chooses one


def keys_of(model: type[Strict]) -> dict[str, dict[str, Any]]:
    """Return the JSON Schema of each key of a table, but for tables in it, and what chooses the table."""
    properties: dict[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return {key: schema for key, schema in properties.items() if key not in _NOT_KEYS}


def described(schema: dict[str, Any]) -> str:
    """Return a key's description, what it may be, and its default."""
    parts = [schema["description"]] if "description" in schema else []
    shape = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    if "enum" in shape:
        parts.append("one of " + ", ".join(map(str, shape["enum"])))
    if "minimum" in shape and "maximum" in shape:
        parts.append(f"{shape['minimum']} to {shape['maximum']}")
    if schema.get("default") == []:
        parts.append("default: none")
    elif schema.get("default") is not None:
        default = schema["default"]
        text = str(default).lower() if isinstance(default, bool) else str(default)
        parts.append(f"default: {', '.join(default) if isinstance(default, list) else text}")
    elif "default" not in schema:
        parts.append("required")
    return "; ".join(parts)


def markdown(tables: Mapping[str, type[Strict]] = TABLES) -> str:
    """Return all tables for docs/config.md, or docs/router.md, which a test holds against it."""
    return "\n".join(_lines(tables))


def _lines(tables: Mapping[str, type[Strict]]) -> Iterator[str]:
    for title, model in tables.items():
        yield from (f"## `{title}`", "", " ".join((model.__doc__ or "").split()), "")
        yield from ("| key | change | what it is |", "|---|---|---|")
        for key, schema in keys_of(model).items():
            yield f"| `{key}` | {schema['change']} | {described(schema).replace('|', chr(92) + '|')} |"
        yield ""
