"""Replace the CA in three steps, between which hosts trust both: nobody is ever without a CA that vouches for them.

    1  a new CA is made, and hosts are told to trust it, too
    2  the new one issues; certificates of the old one hold until they are renewed
    3  the old one is forgotten

Each step is one of the files in the state directory (keys.py), and holds from the controller's next start on. Refused:
the next step before that start, since hosts would trust neither the one that issues nor the one that did.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fwd.controller import ca, keys
from fwd.proto.errors import UserError

_OLD: Final = "old.key"  # between two renames; and at the end, so that there is a way back
_RESTART: Final = "restart the controller, and once `fwd operation list` and `fwd gateway list` show that every host"
_NEXT: Final = "take the next step: fwd controller rotate-ca"


def rotate(directory: Path, now: float) -> str:
    """Take the next step: a line for the user. Raises UserError."""
    keys.open_state(directory)
    if not (directory / keys.CA_KEY).exists():
        raise UserError(f"{directory}: no controller has been here: there is no CA to replace")
    held = keys.load(directory, now)
    if held.other is not None and not keys.is_told(directory, held):
        raise UserError(f"{directory}: hosts have not been told of the last step: restart the controller first")
    if held.other is None:
        keys.write_authority(directory / keys.OTHER_KEY, ca.new_authority("fwd controller", now))
        return f"1 of 3: a new CA is made: {_RESTART} is up, {_NEXT}"

    # The younger of the two is the one to come.
    if held.other.certificate.not_valid_before_utc > held.authority.certificate.not_valid_before_utc:
        keys.write_authority(directory / _OLD, held.authority)
        (directory / keys.OTHER_KEY).replace(directory / keys.CA_KEY)
        (directory / _OLD).replace(directory / keys.OTHER_KEY)
        return f"2 of 3: the new CA issues: {_RESTART} has renewed (certificate_ends_at), {_NEXT}"
    (directory / keys.OTHER_KEY).replace(directory / _OLD)
    return "3 of 3: the old CA is forgotten: restart the controller"
