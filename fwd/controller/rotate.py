"""Replace the CA in three steps, between which hosts trust both: nobody is ever without a CA that vouches for them.

    1  a new CA is made, and hosts are told to trust it, too
    2  the new one issues; certificates of the old one hold until they are renewed
    3  the old one is forgotten, and kept as a file that is not read

Each step is one of the files in the state directory (keys.py), and holds from the controller's next start on. The next
one is refused until the controller runs with the last, and all hosts have heard of it, which is asked of the
controller: who would be left with no CA that it trusts must join anew.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fwd.controller import ca, keys
from fwd.proto.errors import UserError

_RESTART: Final = "restart the controller, and once every host has heard of it, which the next step looks at"
_ASK_S: Final = 15.0
_NEXT: Final = "fwd controller rotate-ca"


@dataclass(frozen=True)
class Standing:
    """What a running controller says: the pins of its CAs, the one that issues first; which hosts have yet to hear of
    them, and which have a certificate of another than the first.
    """

    trusted: Sequence[str]
    waiting: Sequence[str]
    old: Sequence[str]


def rotate(directory: Path, now: float, ask: Callable[[], Standing] | None = None) -> str:
    """Take the next step: a line for the user. `ask`: how the controller stands; None: its files alone are looked at.

    Raises UserError.
    """
    keys.open_state(directory)
    if not (directory / keys.CA_KEY).exists():
        raise UserError(f"{directory}: no controller has been here: there is no CA to replace")
    held = keys.load(directory, now)
    if held.other is None:
        keys.write_authority(directory / keys.OTHER_KEY, ca.new_authority("fwd controller", now))
        return f"1 of 3: a new CA is made: {_RESTART}, take it: {_NEXT}"

    pins = [ca.pin(one) for one in held.trusted()]
    is_told = keys.is_told(directory, held)
    standing = ask() if is_told and ask is not None else Standing(pins, (), ())
    if not is_told or list(standing.trusted) != pins:
        raise UserError(f"{directory}: hosts have not been told of the last step: restart the controller first")
    if standing.waiting:
        raise UserError(f"{_few(standing.waiting)} have yet to hear of the CAs: wait for them, or delete them")

    # The younger of the two is the one to come.
    if held.other.certificate.not_valid_before_utc > held.authority.certificate.not_valid_before_utc:
        keys.swap_authorities(directory, held.authority)
        return f"2 of 3: the new CA issues: {_RESTART}, and has renewed, take it: {_NEXT}"
    if standing.old:
        raise UserError(f"{_few(standing.old)} have certificates of the old CA: wait until they have renewed")
    (directory / keys.OTHER_KEY).replace(directory / keys.OLD_KEY)
    return f"3 of 3: the old CA is forgotten, and kept as {keys.OLD_KEY}: restart the controller"


def ask_running(url: str, directory: Path) -> Standing:
    """Ask the controller of this state directory, as its first admin. Raises UserError."""
    import httpx

    token = keys.read(directory / keys.ADMIN_TOKEN).decode(errors="replace").strip()
    try:
        context = ssl.create_default_context(cafile=directory / keys.CA_PEM)
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, verify=context, timeout=_ASK_S, trust_env=False, headers=headers) as client:
            answer = client.get("/v1/authorities")
            said = answer.json()
        if answer.is_success:
            return Standing(said["trusted"], said["waiting"], said["old"])
        why = str(said["detail"])
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        why = str(error) or type(error).__name__
    raise UserError(
        f"{url}: which hosts have heard of the step before is asked of the controller, and cannot be: {why}"
    )


def _few(hosts: Sequence[str]) -> str:
    more = f" and {len(hosts) - 3} more" if len(hosts) > 3 else ""
    return f"{', '.join(hosts[:3])}{more}"
