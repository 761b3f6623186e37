"""Write a configuration as TOML: the one place that does, for fwd's own files, labs and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fwd.model.config import Config


def render(config: Config) -> str:
    """Return the text of a configuration, without the keys that have their defaults: `parse` gives the same again."""
    return write(config.model_dump(mode="json", exclude_defaults=True))


def write(tables: Mapping[str, Any]) -> str:
    """Return the text of `gateway` and `controller`, tables, and `peering`, a list of tables, each with its `keys`."""
    found = table("[gateway]", tables.get("gateway", {}))
    if (controller := tables.get("controller")) is not None:
        found += table("[controller]", controller)
    for peering in tables.get("peering", ()):
        found += table("[[peering]]", {key: value for key, value in peering.items() if key != "keys"})
        found += table("[peering.keys]", peering.get("keys", {}))
    return "\n".join(found)


def table(header: str, values: Mapping[str, Any]) -> list[str]:
    """Return the lines of one table, and an empty one."""
    return [header, *(f"{key} = {_value(value)}" for key, value in values.items()), ""]


def _value(value: Any) -> str:
    """Return a text, number, truth or list of texts as TOML has it: as JSON does, but for the octet 0x7F in a text."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
