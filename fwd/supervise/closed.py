"""Keeps the guards of peerings that are not to be opened: what was for them must not leave in the clear."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fwd.model.config import Peering
from fwd.proto.errors import UserError
from fwd.proto.logged import event
from fwd.supervise.keeper import Keeper
from fwd.supervise.owner import Owner

log = logging.getLogger(__name__)


class Closed:
    """See the module. They go when the keeper is tidied, as all guards do."""

    def __init__(self, kernel: Keeper, owner: Owner) -> None:
        self._kernel, self._owner = kernel, owner
        self._refused: dict[str, str] = {}  # and why

    def keep(self, absent: Sequence[Peering]) -> None:
        """Set their guards, as far as may be; what may not is told once."""
        before, self._refused = self._refused, {}
        if not absent:
            return
        with self._owner.alone():
            self._refused = self._kernel.refusals(absent, self._owner.others())
            for one in absent:
                if one.name not in self._refused:
                    try:
                        self._kernel.set(one, closed=True)
                    except UserError as error:
                        self._refused[one.name] = str(error)
        for name, why in self._refused.items():
            if before.get(name) != why:
                log.error("%s is not guarded: %s", name, why, extra=event("peering.refused", peering=name))
