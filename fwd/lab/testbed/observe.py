"""The dashboard and the alert rules, asked of a Prometheus that scrapes both gateways.

Refuses, as Failed: an expression that Prometheus does not take, and one of the dashboard that has nothing to show.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from fwd.lab.scenario import Failed
from fwd.lab.waiting import until

DASHBOARD = Path("grafana/fwd.json")
_ANSWER_S = 5.0
_FILLED_S = 45.0  # rates want two scrapes in their window


class Prometheus:
    """The HTTP API of one."""

    def __init__(self, address: str) -> None:
        self._base = f"http://{address}:9090/api/v1"

    def query(self, expression: str) -> list[Any]:
        """What an expression gives now; nothing while nobody answers."""
        found: list[Any] = self._ask(f"query?{urlencode({'query': expression})}").get("result", [])
        return found

    def rules(self) -> list[dict[str, Any]]:
        """All rules, each with its name, health and last error."""
        return [rule for group in self._ask("rules").get("groups", []) for rule in group["rules"]]

    def _ask(self, what: str) -> dict[str, Any]:
        try:
            with urlopen(f"{self._base}/{what}", timeout=_ANSWER_S) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except (URLError, OSError):
            return {}
        return data


def expressions(dashboard: dict[str, Any]) -> Iterator[str]:
    """Those of a Grafana dashboard, its rows included."""
    for panel in dashboard.get("panels", []):
        yield from expressions(panel)
        yield from (target["expr"] for target in panel.get("targets", []))


def check(prometheus: Prometheus, directory: Path) -> dict[str, Any]:
    """Each expression of the dashboard shows something, and each rule was evaluated without an error."""
    wanted = list(expressions(json.loads((directory / DASHBOARD).read_text())))
    for expression in wanted:
        until(functools.partial(prometheus.query, expression), f"Prometheus has something for {expression}", _FILLED_S)
    until(lambda: _evaluated(prometheus), "Prometheus has evaluated the rules", _FILLED_S)
    rules = prometheus.rules()
    if bad := [rule for rule in rules if rule["health"] != "ok"]:
        raise Failed(f"rule {bad[0]['name']}: {bad[0].get('lastError')}")
    firing = [rule["name"] for rule in rules if rule.get("state") == "firing"]
    return {"expressions": len(wanted), "rules": len(rules), "firing": firing}


def _evaluated(prometheus: Prometheus) -> bool:
    rules = prometheus.rules()
    return bool(rules) and all(rule["health"] != "unknown" for rule in rules)
