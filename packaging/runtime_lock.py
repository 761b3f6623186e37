"""Prints the part of requirements.lock that fwd needs at run time, hashes included.

Which packages those are is read from the metadata of what is installed in .venv, from fwd on down. pip with
--require-hashes refuses to install anything that is missing here, so the result cannot be too short.
"""

from __future__ import annotations

import re
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).parents[1] / "requirements.lock"


def needed(name: str, found: set[str]) -> set[str]:
    """`name` and everything below it, added to `found`."""
    if name not in found:
        found.add(name)
        for line in distribution(name).requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed(canonicalize_name(requirement.name), found)
    return found


def runtime_lock() -> str:
    """The entries of the lock, as they stand there."""
    names = needed("fwd", set()) - {"fwd"}
    entries = re.split(r"^(?=\S)", LOCK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition("==")[0] in names)


if __name__ == "__main__":
    print(runtime_lock(), end="")
