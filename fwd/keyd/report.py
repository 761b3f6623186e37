"""What keyd tells of IKE, as a text for the agent. It always fits: what is too long says that it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from fwd.datapath.board import Board
from fwd.keyd.shown import together
from fwd.model.pairing import Far

Json = dict[str, Any]
Told = Mapping[Far, Mapping[str, Any]]  # of one peering, by far gateway


@dataclass(frozen=True)
class _Known:
    of: Told
    told: Json
    text: str


class Reports:
    """Encodes what the guards of all peerings tell; of a peering anew only if one of its own tells another thing."""

    def __init__(self, octets_max: int = Board.SIZE) -> None:
        self._octets_max: Final = octets_max
        self._known: dict[str, _Known] = {}

    def encode(self, each: Mapping[str, Told]) -> bytes:
        """Return the text of all, by name; the longest are shortened until all fit `octets_max`."""
        self._known = {name: self._known_of(name, of) for name, of in each.items()}
        texts = {name: one.text for name, one in self._known.items() if one.told}
        by_length = sorted(texts, key=lambda name: len(texts[name]))
        while len(text := _joined(texts)) > self._octets_max and by_length:
            name = by_length.pop()
            texts[name] = json.dumps(_shortened(self._known[name].told, len(texts[name])))
        return text if len(text) <= self._octets_max else b"{}"

    def _known_of(self, name: str, of: Told) -> _Known:
        before = self._known.get(name)
        if before is not None and before.of.keys() == of.keys() and all(of[far] is before.of[far] for far in of):
            return before
        told = together(of)
        return _Known(of, told, json.dumps(told))


def _joined(texts: Mapping[str, str]) -> bytes:
    return ("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in texts.items()) + "}").encode()


def _shortened(told: Json, octets: int) -> Json:
    children = sum(len(sa["children"]) for sa in told["sas"])
    reason = f"{len(told['sas'])} IKE SAs with {children} Child SAs ({octets} octets) are more than the status can show"
    kept: Json = {key: told[key] for key in ("half_open", "faults", "failures", "far", "stopped") if key in told}
    return {"sas": [], **kept, "error": reason, "refused": {}}
