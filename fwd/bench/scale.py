"""Part `scale`: throughput by number of members, over a capped line (`line`) and in memory by cores (`cores`), and by
number of gateways, each of which is capped (`pairs`).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from fwd.bench import cores, line, pairs
from fwd.bench.result import Plan


def run(plan: Plan) -> dict[str, Any]:
    """The part's result. Raises LabError."""
    found, before = {}, 0
    parts = (("cores", cores), ("line", line), ("pairs", pairs))
    total = sum(part.steps(quick=plan.quick) for _, part in parts)
    for name, part in parts:
        found[name] = part.run(quick=plan.quick, step=partial(_step, plan, before, total))
        before += part.steps(quick=plan.quick)
    return found


def _step(plan: Plan, before: int, total: int, done: int, what: str) -> None:
    plan.step(before + done, total, what)
