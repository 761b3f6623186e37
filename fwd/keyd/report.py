"""What keyd tells of IKE, as a text for the agent. It always fits: what is too long says that it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def report(told: Mapping[str, Json], octets_max: int) -> bytes:
    """`IkePeering.told` of each peering, by name; the longest are shortened until all fit `octets_max`."""
    texts = {name: json.dumps(of) for name, of in told.items()}
    by_length = sorted(texts, key=lambda name: len(texts[name]))
    while len(text := _joined(texts)) > octets_max and by_length:
        name = by_length.pop()
        texts[name] = json.dumps(_shortened(told[name], len(texts[name])))
    return text if len(text) <= octets_max else b"{}"


def _joined(texts: Mapping[str, str]) -> bytes:
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}").encode()


def _shortened(told: Json, octets: int) -> Json:
    children = sum(len(sa["children"]) for sa in told["sas"])
    reason = f"{len(told['sas'])} IKE SAs with {children} Child SAs ({octets} octets) are more than the status can show"
    kept: Json = {key: told[key] for key in ("half_open", "faults", "failures", "far", "stopped") if key in told}
    return {"sas": [], **kept, "error": reason, "refused": {}}
