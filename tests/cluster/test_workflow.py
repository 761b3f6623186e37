"""The reference's workflow as people do it: a peering, one more gateway that is drained and taken out, deletion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from clusterkit import Cluster, MakeFleet
from workflowkit import workflow


class ByCommand:
    """By `fwd`."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab

    def create(self, kind: str, name: str, **fields: Any) -> None:
        words = [f"{key}={','.join(value) if isinstance(value, list) else value}" for key, value in fields.items()]
        self._lab.fwd(kind, "create", name, *words)

    def gateways(self, cluster: str, names: list[str]) -> None:
        self._lab.fwd("cluster", "set", cluster, f"gateways={','.join(names)}")

    def drain(self, gateway: str) -> None:
        self._lab.fwd("gateway", "drain", gateway)

    def delete(self, kind: str, name: str) -> None:
        self._lab.fwd(kind, "delete", name)

    def token(self, vpc: str, kind: str) -> str:
        path = self._lab.directory / "person.token"
        path.unlink(missing_ok=True)
        self._lab.fwd("token", "create", f"vpc={vpc}", f"kind={kind}", "--output", str(path))
        return Path(path).read_text()

    def look(self, what: str) -> None:
        assert "gw1" in self._lab.fwd("show").stdout, what


class ByApi:
    """By HTTPS."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab

    def create(self, kind: str, name: str, **fields: Any) -> None:
        self._lab.api.create(f"{kind}s", name=name, **fields)

    def gateways(self, cluster: str, names: list[str]) -> None:
        self._lab.api.change("clusters", cluster, gateways=names)

    def drain(self, gateway: str) -> None:
        self._lab.api.ask("POST", f"gateways/{gateway}/drain")

    def delete(self, kind: str, name: str) -> None:
        self._lab.api.delete(f"{kind}s", name)

    def token(self, vpc: str, kind: str) -> str:
        return str(self._lab.api.create("tokens", vpc=vpc, kind=kind)["token"])

    def look(self, what: str) -> None:
        assert self._lab.api.items("pairs"), what


@pytest.mark.parametrize("kind", [ByCommand, ByApi])
@pytest.mark.timeout(240)
def test_two_vpcs_are_peered_a_gateway_is_added_and_all_is_deleted(
    fleets: MakeFleet, kind: type[ByCommand] | type[ByApi]
) -> None:
    lab = fleets(4, 3, up=False)
    workflow(lab, kind(lab))
