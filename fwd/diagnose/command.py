"""`fwd diagnose`: gathers, judges, and prints findings with their evidence and remedies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from fwd.diagnose.checks import CHECKS, Finding, findings
from fwd.diagnose.gather import gather
from fwd.model.config import load
from fwd.model.words import ConfigError


def diagnose(path: Path, control: Path | None, *, as_json: bool) -> tuple[str, int]:
    """Return what to print, and the exit status: 0 if nothing was found, 1 if something was."""
    try:
        config = load(path)
    except ConfigError as error:
        remedy = "mend it: `fwd config check` says the same, `fwd config example` prints one"
        found = [Finding("config", "fault", "", str(error), "read as `fwd demux` does", remedy)]
        unseen: Sequence[str] = ["all else"]
    else:
        facts = gather(config, control or config.gateway.control, path)
        found, unseen = findings(facts), facts.unseen
    if as_json:
        text = json.dumps({"findings": [asdict(one) for one in found], "unseen": list(unseen)}, indent=2)
    else:
        text = "\n".join(lines(found, unseen))
    return text, 1 if found else 0


def lines(found: Sequence[Finding], unseen: Sequence[str], checks: int = len(CHECKS) + 1) -> Iterator[str]:
    """Yield the findings of so many checks as lines for people."""
    for one in found:
        where = f"{one.peering}: " if one.peering else ""
        yield f"{one.severity}: {where}{one.what} [{one.check}]"
        yield f"    evidence: {one.evidence}"
        yield f"    remedy:   {one.remedy}"
    yield from (f"not looked at: {one}" for one in unseen)
    faults = sum(one.severity == "fault" for one in found)
    yield f"{checks} checks: {faults} faults, {len(found) - faults} warnings"
