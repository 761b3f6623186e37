"""Names for log records: `log.info("%s is down", name, extra=event("peering.down", peering=name))`.

A program that reads the log goes by the event and its fields, a person by the text. Names stay what they are when texts
change; docs/status.md lists them. How they are written is fwd/supervise/loglines.py's affair.
"""

from __future__ import annotations

from typing import Any


def event(name: str, /, **fields: object) -> dict[str, Any]:
    """What to pass as `extra`. The fields are text, numbers, or lists of them, and never a key or a secret."""
    return {"event": name, "fields": fields}
