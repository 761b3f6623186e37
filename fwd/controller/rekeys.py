"""Whether a peering that is to have new keys has them, by the word of its gateways: pure, but for what it remembers.

A gateway says how old the oldest SA is on which a member of the peering sends (`keys_s`). Once that is younger than the
operation at all of them, both ways of every tunnel have new keys, and the operation is done; after `BOUND_S` it has
failed, with who lacks what. A gateway of an older release does not say: that it has heard is all that is known then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from fwd.controller import records
from fwd.controller.desk import Desk
from fwd.controller.records import Operation
from fwd.controller.sights import number_in
from fwd.controller.watch import Beat

ACT: Final = "rekey"
BOUND_S: Final = 180.0  # a gateway makes new keys once a minute, and the exchanges take a while
_TABLES_MAX: Final = 64


class Rekeys:
    """See the module. Times are those of a clock that is never set; only an operation of before goes by the wall's."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}  # when each operation began that is under way

    def lacking(
        self, one: Operation, hosts: Collection[str], beats: Mapping[str, Beat], now: float, wall: float
    ) -> dict[str, str]:
        """Say of which gateways new keys are not known, and why. `hosts`: those that there are."""
        since = self._since.setdefault(one.id, now - max(0.0, wall - one.at))
        found = {host: _why_not(one, beats.get(host), since) for host in one.hosts if host in hosts}
        return {host: why for host, why in found.items() if why}

    async def turn(self, desk: Desk, beats: Mapping[str, Beat], now: float, wall: float) -> None:
        """Note which operations have ended: due each second. Raises what the desk does; the next turn goes on."""
        if desk.term is None:
            return
        hosts = {name for _, name in desk.hosts}
        running = [one for one in desk.records.operations.values() if one.act == ACT and not one.result]
        for one in running:
            lacking = self.lacking(one, hosts, beats, now, wall)
            if lacking and now - self._since[one.id] < BOUND_S:
                continue
            said = "; ".join(f"{host} {why}" for host, why in lacking.items())
            await desk.progress(
                one.id, result=f"failed: not all keys are new after {BOUND_S:.0f} s: {said}" if said else "done"
            )
        self._since = {one.id: self._since[one.id] for one in running if one.id in self._since}


def is_under_way(one: Operation) -> bool:
    """Whether it is an operation of this kind whose end is not known."""
    return one.act == ACT and one.result in ("", records.RUNNING)


def _why_not(one: Operation, beat: Beat | None, since: float) -> str:
    """Say why a gateway's keys are not known to be new; empty if they are, or if it does not tell."""
    if beat is None or beat.applied < one.order:
        return "has not heard of it"
    told = beat.status.get("peerings")
    tables: list[Any] = told[:_TABLES_MAX] if isinstance(told, list) else []
    table = next((row for row in tables if isinstance(row, dict) and row.get("name") == one.name), {})
    if "keys_s" not in table:
        return ""
    if (age_s := number_in(table["keys_s"])) is None:
        return "has a member that sends on no SA"
    return f"has a member whose key is {age_s:.0f} s old" if age_s > beat.at - since else ""
