"""What a user wants of a gateway that runs, by the admin socket.

What is to last is kept here, so that it outlives keyd: a peering that was terminated stays so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

from fwd.model.keys import StartAction
from fwd.proto.logged import event
from fwd.supervise import applying
from fwd.supervise.admin import RefusedError, Request
from fwd.supervise.applying import Applying
from fwd.supervise.link import Controller
from fwd.supervise.standing import Standing
from fwd.supervise.telling import Tellers

LASTING: Final[dict[str, StartAction]] = {"terminate": "none", "initiate": "start"}
IKE: Final = ("rekey", *LASTING)
DRAINS: Final = {"drain": True, "undrain": False}
ACCEPT: Final = "accept-shrink"
VERIFY: Final = "verify"
log = logging.getLogger(__name__)
Json = dict[str, Any]


class Orders:
    """Carries them out on what `standing` has open; `tellers` has keyd know of it, `changes` are of configurations."""

    def __init__(self, standing: Standing, tellers: Tellers, changes: Applying, controller: Controller) -> None:
        self._standing = standing
        self._controller = controller
        self._changes = changes
        self._tellers = tellers

    def obey(self, request: Request) -> Json | Iterator[Json | None]:
        """Do what is asked for; returns the answer, or all of them. Raises RefusedError."""
        if request.command == "apply":
            return self._changes.apply(request)
        if request.command == "confirm":
            return self._changes.confirm()
        if request.command == ACCEPT:
            return self._controller.accept()
        if request.command in IKE:
            return self._ike(request.command, request.text("peering"))
        if request.command in DRAINS:
            return self._drain(request.command)
        if request.command == VERIFY:
            return self._verify(request.text("peering"))
        raise RefusedError(f"unknown command; known: {', '.join((*applying.COMMANDS, ACCEPT, *IKE, *DRAINS, VERIFY))}")

    def turn(self, now: float) -> None:
        """Have what the controller wants rekeyed by now have new keys."""
        served = self._standing.served()
        names = sorted(name for name in self._controller.to_rekey(now) if name in served and served[name].peering.ike)
        for name in names:
            self._tellers.order("rekey", name)
        if names:
            told = event("gateway.rekeyed", peerings=names)
            log.info("the controller wants new keys: %s", ", ".join(names), extra=told)

    def _drain(self, command: str) -> Json:
        """Show the gateway as not ready, or no more; keyd tells the far gateways."""
        drains = self._standing.shared.drains
        if bool(drains[0]) != DRAINS[command]:
            drains[0] = DRAINS[command]
            log.warning("a user asks to %s the gateway", command, extra=event("gateway.asked", command=command))
        return {"asked": command}

    def _verify(self, name: str) -> Json:
        """Have all members of a peering, or of all, check their paths."""
        served = self._standing.served()
        if name and name not in served:
            raise RefusedError(f"no peering {name!r}; there are: {', '.join(served) or 'none'}")
        asked = [name] if name else list(served)
        for one in asked:
            served[one].check()
        return {"asked": asked}

    def _ike(self, command: str, name: str) -> Json:
        """Hand it to keyd. What came of it, the status shows."""
        known = [one for one, parts in self._standing.served().items() if parts.peering.ike]
        if name not in known:
            raise RefusedError(f"no peering {name!r} with IKE; there are: {', '.join(known) or 'none'}")
        if command in LASTING:
            self._standing.begin_or_wait(name, LASTING[command])
        self._tellers.order(command, name)
        return {"asked": command}
