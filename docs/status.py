"""Writes what the code says of the status into docs/status.md, between its markers, and docs/status.schema.json:
`python docs/status.py`.

The keys come from fwd/model/status.py, codes from fwd/model/reasons.py, drop reasons from fwd/proto/drops.py.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter

from fwd.model.reasons import KINDS
from fwd.model.shown import Shown, classes, shown
from fwd.model.status import Process, Status
from fwd.proto.drops import DropReason

PAGE = Path(__file__).parent / "status.md"
SCHEMA_FILE = Path(__file__).parent / "status.schema.json"
_WORDS = {"int": "integer", "str": "text", "float": "number", "bool": "true or false"}


def with_tables(page: str) -> str:
    """Return the page with the tables as they are now."""
    for name, text in (("keys", keys()), ("reasons", reasons()), ("drops", drops())):
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        before, rest = page.split(begin)
        _, after = rest.split(end)
        page = f"{before}{begin}{text}{end}{after}"
    return page


def keys() -> str:
    """Return a heading and a table for each object of the status."""
    sections = []
    for cls in classes(Status):
        inherited = shown(Process) if cls is not Process and issubclass(cls, Process) else ()
        own = [one for one in shown(cls) if one not in inherited]
        rows = [(f"`{one.key}`", _type(one.type), _escaped(one.sentence), _metric(one)) for one in own]
        heading = f"### {cls.__name__}\n\n{cls.__doc__}\n\n"
        sections.append(heading + _table(("key", "type", "meaning", "metric"), rows))
        if cls.__name__ == "Gateway":  # before the first process
            rows = [(f"`{one.key}`", _type(one.type), _escaped(one.sentence), _metric(one)) for one in shown(Process)]
            sections.append(
                f"### Process\n\n{Process.__doc__}\n\n" + _table(("key", "type", "meaning", "metric"), rows)
            )
    return "\n".join(sections)


def reasons() -> str:
    """Return the table of why a gateway is not ready."""
    rows = [(f"`{code.value}`", _escaped(kind.meaning), _filled(kind.remedy)) for code, kind in KINDS.items()]
    return _table(("code", "meaning", "what to do"), rows)


def drops() -> str:
    """Return the table of drop reasons."""
    rows = [(f"`{one.label}`", one.unit, one.stage, _escaped(one.sentence)) for one in DropReason]
    return _table(("reason", "counts", "where", "meaning"), rows)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the status, with each key's sentence. Keys that are not in it may come."""
    made = TypeAdapter(Status).json_schema()
    objects: dict[str, Any] = {"Status": made, **made["$defs"]}
    for cls in classes(Status):
        of = objects[cls.__name__]
        of.pop("additionalProperties")
        of["description"] = cls.__doc__
        for one in shown(cls):
            of["properties"][one.key] |= {"description": one.sentence}
    for of in objects.values():
        for found in of["properties"].values():
            found.pop("title", None)
            found.pop("default", None)
        of["required"] = list(of["properties"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def schema_text() -> str:
    """Return the schema as its file has it."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _metric(one: Shown) -> str:
    if one.metric is None:
        return ""
    return f"`{one.metric.name}{'_total' if one.metric.kind == 'counter' else ''}`"


def _type(wanted: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if origin in (Union, types.UnionType):
        return f"{_type(arguments[0])} or null"
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in arguments)
    return f"[{wanted.__name__}](#{wanted.__name__.lower()})" if is_dataclass(wanted) else _WORDS[wanted.__name__]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def _filled(template: str) -> str:
    """Return a sentence with the names of what is filled in."""
    return re.sub(r"\{(\w+)\}", r"*\1*", _escaped(template))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
