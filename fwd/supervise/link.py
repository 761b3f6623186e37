"""A gateway's controller, as the supervisor has it: what it wants of this gateway (joined.py), beside what the local
file has (plan.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from fwd.datapath.memory import Memory
from fwd.link.admit import IKE_KEYS, beside, check_members, guarded, why_outside
from fwd.link.directory import IKE, LINK
from fwd.link.document import DocumentError
from fwd.model.config import Config, Peering
from fwd.model.reasons import Code, Reason
from fwd.proto.errors import UserError
from fwd.supervise.admin import RefusedError
from fwd.supervise.checking import Found
from fwd.supervise.joined import Joined
from fwd.supervise.users import User, Users

Json = dict[str, Any]
REKEY_S: Final = 60.0  # between two rekeyings that a controller wants, however often it does


class Controlled(Joined):
    """A gateway that has joined."""

    KIND = "gateway"
    CERTIFICATES = (f"{LINK}.pem", f"{IKE}.pem")

    def __init__(
        self,
        directory: Path,
        local: Callable[[], Config],
        follow: Callable[[bool], None],
        memory: Memory,
        checker: User,
        looks_up: User,
    ) -> None:
        """Read what `fwd join` has put there. Raises UserError."""
        super().__init__(directory, local, follow, memory, checker, looks_up)
        self._local = local
        self.peerings: tuple[Peering, ...] = ()
        self.draining = False
        self._rekeys: Mapping[str, int] = {}
        self._to_rekey, self._rekey_at = set[str](), 0.0

    def beside(self, local: Config) -> Config:
        """Return a local configuration with what the controller wants beside it. Raises UserError."""
        if local.controller is None or local.controller.directory != self.directory.path:
            raise UserError("controller.directory cannot change while fwd runs: restart fwd")
        try:
            check_members(self.peerings, local.controller)
        except DocumentError as error:
            raise UserError(f"{error}; these are the controller's, and in force: take some away there first") from None
        for one in self.peerings:
            if why := why_outside(one, local.controller):
                raise UserError(f"{why}; it is the controller's, and in force: take it away there first")
        try:
            return beside(local, self.peerings)
        except DocumentError as error:
            raise UserError(f"the controller's peerings {error}") from None

    @property
    def closed(self) -> list[Peering]:
        """Peerings that are kept and cannot be in force: what is for their subnets must not leave in the clear."""
        return [] if self.has_begun else guarded(self._local(), self._kept.peerings if self._kept else ())

    def reasons(self) -> list[Reason]:
        """Return why the gateway is not ready, if what is kept is not in force."""
        return [] if self.has_begun or not self._why_not else [Reason.of(Code.NOT_IN_FORCE, why=self._why_not)]

    def _check(self, found: Found) -> None:
        """Believe the child in nothing that the local file does not give away, whoever has taken it over."""
        local = self._local()
        assert local.controller is not None
        check_members(found.peerings, local.controller)
        ours = [self.directory.keys(with_crl=one).model_dump(exclude=set(IKE_KEYS)) for one in (False, True)]
        for peering in found.peerings:
            if peering.keys.model_dump(exclude=set(IKE_KEYS)) not in ours:
                raise DocumentError(f"peering {peering.name}: its keys are not those of {self.directory.path}")
            if why := why_outside(peering, local.controller):
                raise DocumentError(why)
        beside(local, found.peerings)

    def _want(self, found: Found) -> int:
        if found.draining != self.draining:  # what a user wants since then stays
            self._shared.drains[0] = found.draining
        # Another number means new keys for what is in force; what comes, as all does at the start, has new ones anyway.
        there = {one.name for one in self.peerings}
        self._to_rekey |= {one for one in there if found.rekeys.get(one, 0) != self._rekeys.get(one, 0)}
        self._rekeys = found.rekeys
        self.peerings, self.draining = found.peerings, found.draining
        return len(found.peerings)

    def to_rekey(self, now: float) -> Collection[str]:
        """Name the peerings that are to have new keys now, once; what is wanted too soon waits."""
        if not self._to_rekey or now < self._rekey_at:
            return ()
        found, self._to_rekey, self._rekey_at = self._to_rekey, set(), now + REKEY_S
        return found


class Alone:
    """A gateway without a controller: what there is to do is nothing."""

    directory = None
    told = None
    has_begun = True
    closed: Final[list[Peering]] = []

    def begin(self) -> None:
        """Take nothing."""

    def turn(self, now: float) -> None:
        """Go on with nothing."""

    def close(self) -> None:
        """End nothing."""

    def beside(self, local: Config) -> Config:
        """Return the local configuration. Raises UserError if it has a controller by now."""
        if local.controller is not None:
            raise UserError("[controller] cannot come while fwd runs: restart fwd")
        return local

    def look_again(self) -> None:
        """Examine nothing."""

    def reasons(self) -> list[Reason]:
        """Return nothing: nobody else wants anything."""
        return []

    def to_rekey(self, now: float) -> Collection[str]:
        """Name nothing."""
        return ()

    def accept(self) -> Iterator[Json | None]:
        """Refuse: nothing is held."""
        raise RefusedError("this gateway has no [controller]: nothing is held")


Controller = Controlled | Alone


def controller_of(
    config: Config, local: Callable[[], Config], follow: Callable[[bool], None], memory: Memory, users: Users
) -> Controller:
    """Return the controller that a configuration names. Raises UserError if this host has not joined it."""
    if config.controller is None:
        return Alone()
    return Controlled(config.controller.directory, local, follow, memory, users["keyd"], users["agent"])
