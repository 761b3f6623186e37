"""Part `scale`: throughput by number of members, over a capped line (`line`) and in memory by cores (`cores`)."""

from __future__ import annotations

from typing import Any

from fwd.bench import cores, line
from fwd.bench.result import Plan


def run(plan: Plan) -> dict[str, Any]:
    """The part's result. Raises LabError."""
    of_cores, of_line = cores.steps(quick=plan.quick), line.steps(quick=plan.quick)
    total = of_cores + of_line
    return {
        "cores": cores.run(quick=plan.quick, step=lambda done, what: plan.step(done, total, what)),
        "line": line.run(quick=plan.quick, step=lambda done, what: plan.step(of_cores + done, total, what)),
    }
