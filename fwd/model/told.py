"""A peering as the supervisor tells keyd and the agent of it: as configured, and who is paired with whom by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fwd.model.config import Peering
from fwd.model.pairing import from_json, to_json


def in_words(peering: Peering) -> dict[str, Any]:
    """Write a peering down."""
    told: dict[str, Any] = {"peering": peering.model_dump(mode="json")}
    return {**told, "seats": to_json(peering.fars)} if peering.is_seated else told


def told_in(body: Mapping[str, Any]) -> Peering:
    """Return the peering that was written down. Raises ValueError."""
    peering = Peering.model_validate(body["peering"])
    return peering.seated(from_json(body["seats"])) if "seats" in body else peering
