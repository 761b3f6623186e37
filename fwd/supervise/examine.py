"""A look at secrets before they are taken, by a process that has given up root and lives no longer than that.

keyd is the only one that may understand keys and certificates (ASN.1 of others' making), but it does so after the old
ones are gone. So files that it would refuse are refused here first, and those of before stay in force.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Final

from fwd.keyd import secrets
from fwd.model.config import Config
from fwd.model.keys import Keys, LabKeys
from fwd.proto.errors import UserError
from fwd.supervise import privileges, sandbox

_WAIT_S: Final = 5.0
_SAID_BYTES_MAX: Final = 1024
_FINE: Final = b"fine"


def open_examined(keys: Keys, user: tuple[int, int]) -> dict[str, int]:
    """Open the files that a peering's keys name, if keyd will be able to use them. Raises SecretError."""
    fds = secrets.open_all(keys)
    look = partial(secrets.credentials, keys, fds)
    try:
        if not isinstance(keys, LabKeys) and (why := refusal(look, fds.values(), user, "keys and certificates")):
            raise secrets.SecretError(why)
    except BaseException:
        for fd in fds.values():
            os.close(fd)
        raise
    return fds


def open_all_examined(each: Sequence[Keys], user: tuple[int, int]) -> list[dict[str, int]]:
    """Open the files that the keys of many peerings name, looked at by one process; empty if something is wrong.

    What that is, and with whose, a look at each alone tells (`open_examined`).
    """
    opened: list[dict[str, int]] = []
    fine = False
    try:
        for keys in each:
            opened.append(secrets.open_all(keys))
        fine = not refusal(partial(_look_at_all, each, opened), [fd for of in opened for fd in of.values()], user, "")
    except (UserError, OSError):
        pass
    finally:
        for fd in [] if fine else [fd for of in opened for fd in of.values()]:
            os.close(fd)
    return opened if fine else []


def _look_at_all(each: Sequence[Keys], opened: Sequence[dict[str, int]]) -> None:
    for keys, fds in zip(each, opened, strict=True):
        secrets.credentials(keys, fds)


def examined(config: Config, user: tuple[int, int]) -> Iterator[None]:
    """Look whether a start with this configuration would have its secrets, one peering a time. Raises UserError."""
    for peering in config.peering:
        try:
            for fd in open_examined(peering.keys, user).values():
                os.close(fd)
        except (UserError, OSError) as error:
            raise UserError(f"peering {peering.name}: {error}") from None
        yield None


def refusal(look: Callable[[], object], fds: Collection[int], user: tuple[int, int], what: str) -> str:
    """Why `look`, which reads these descriptors, refuses them in a process of `user`; empty if it does not."""
    parent = os.getpid()
    near, far = os.pipe()
    with os.fdopen(near, "rb", buffering=0) as answer, os.fdopen(far, "wb", buffering=0) as said:
        pid = os.fork()
        if pid == 0:
            try:
                _look(look, fds, user, parent, far, what)
            finally:
                os._exit(1)
        said.close()

        # It ends with one word if all is well, else with the reason. One that does neither is as good as a refusal.
        poll = select.poll()
        poll.register(near, select.POLLIN)
        heard = answer.read(_SAID_BYTES_MAX) if poll.poll(_WAIT_S * 1000) else b""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if heard == _FINE:
        return ""
    text = " ".join(heard.decode(errors="replace").split())
    return text if text.isprintable() and text else f"{what} could not be examined"


def _look(
    look: Callable[[], object], fds: Collection[int], user: tuple[int, int], parent: int, far: int, what: str
) -> None:
    """The child: read the files as keyd does, and say what comes of it."""
    try:
        privileges.shed("examine", lambda: {far, *fds}, lambda: None)
        privileges.limit_short()
        privileges.drop(*user, parent)
        sandbox.enter("keyd")
        look()
        said = _FINE
    except UserError as error:
        said = str(error).encode()
    except Exception as error:  # noqa: BLE001
        said = f"{what} cannot be read: {error!r}".encode()
    os.write(far, said[:_SAID_BYTES_MAX])
