"""`fwd rekey`, `fwd terminate` and `fwd initiate`: asked of the supervisor, and waited for by looking at the status.

Raises UserError where there is nothing to be done, or it is not done within WAIT_S; then the status says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from fwd.agent.client import ask
from fwd.control.admin import tell
from fwd.proto.errors import UserError

WAIT_S: Final = 10.0
_POLL_S: Final = 0.05
Json = dict[str, Any]


def rekey(control: Path, name: str) -> str:
    """Returns one line for the user."""
    before = _peering(control, name)
    old = _established(before)
    if old is None:
        raise UserError(f"{name}: there is no IKE SA to rekey{_why(before)}")
    sends = {member["index"]: member["spi_out"] for member in before["members"] if member["spi_out"]}

    def done(now: Json) -> bool:
        sa = _established(now)
        renewed = all(m["spi_out"] != sends[m["index"]] for m in now["members"] if m["index"] in sends)
        return sa is not None and sa["spi_i"] != old["spi_i"] and renewed

    took_s = _ask_and_wait(control, name, "rekey", done, "rekeyed")
    return f"{name}: the IKE SA and {len(sends)} Child SAs in use rekeyed in {took_s:.1f} s"


def terminate(control: Path, name: str) -> str:
    """Returns one line for the user."""
    took_s = _ask_and_wait(control, name, "terminate", _carries_nothing, "terminated")
    return f"{name}: terminated after {took_s:.1f} s: no traffic passes until `fwd initiate {name}`"


def initiate(control: Path, name: str) -> str:
    """Returns one line for the user."""
    took_s = _ask_and_wait(control, name, "initiate", lambda now: _established(now) is not None, "established")
    return f"{name}: IKE SA established, after {took_s:.1f} s"


def _ask_and_wait(control: Path, name: str, command: str, done: Callable[[Json], bool], what: str) -> float:
    start_s = time.monotonic()
    tell(control, command, peering=name)
    while not done(now := _peering(control, name)):
        if time.monotonic() > start_s + WAIT_S:
            raise UserError(f"{name}: not {what} within {WAIT_S:g} s{_why(now)}; `fwd status` shows what there is")
        time.sleep(_POLL_S)
    return time.monotonic() - start_s


def _peering(control: Path, name: str) -> Json:
    found: list[Json] = ask(control)["peerings"]
    for peering in found:
        if peering["name"] == name:
            return peering
    raise UserError(f"{control}: no peering {name!r}; there are: {', '.join(one['name'] for one in found)}")


def _carries_nothing(peering: Json) -> bool:
    """Return whether all has ended here; a peer that is gone never answers the Delete."""
    return _established(peering) is None and not any(member["spi_out"] for member in peering["members"])


def _established(peering: Json) -> Json | None:
    return next((sa for sa in peering["ike_sas"] if sa["state"] == "established"), None)


def _why(peering: Json) -> str:
    return f": {peering['ike_error']}" if peering["ike_error"] else ""
