"""A router's controller: the spreads that it wants of this router, beside those of the local file (link/routed.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fwd.datapath.memory import Memory
from fwd.link.directory import LINK
from fwd.link.document import DocumentError
from fwd.link.routed import beside, guarded, why_outside
from fwd.model.router import RouterConfig, Wish
from fwd.proto.errors import UserError
from fwd.supervise.checking import Found
from fwd.supervise.joined import Joined
from fwd.supervise.users import User


class JoinedRouter(Joined):
    """A router that has joined."""

    KIND = "router"
    CERTIFICATES = (f"{LINK}.pem",)

    def __init__(
        self,
        directory: Path,
        local: Callable[[], RouterConfig],
        follow: Callable[[bool], None],
        memory: Memory,
        checker: User,
        looks_up: User,
    ) -> None:
        """Read what `fwd join` has put there. Raises UserError."""
        super().__init__(directory, local, follow, memory, checker, looks_up)
        self._local = local
        self._wish = Wish()

    def beside(self, local: RouterConfig) -> RouterConfig:
        """Return a local configuration with what the controller wants beside it. Raises UserError."""
        if local.controller is None or local.controller.directory != self.directory.path:
            raise UserError("controller.directory cannot change while the router runs: restart it")
        wish = self._wish if self.has_begun else self._closed(local)
        if self.has_begun and (why := why_outside(wish, local.controller)):
            raise UserError(f"{why}; it is the controller's, and in force: take it away there first")
        try:
            return beside(local, wish)
        except DocumentError as error:
            raise UserError(f"the controller's spreads {error}") from None

    @property
    def reasons(self) -> list[str]:
        """Why the router is not ready, if what is kept is not in force."""
        return [] if self.has_begun or not self._why_not else [f"controller: {self._why_not}"]

    def _closed(self, local: RouterConfig) -> Wish:
        """Spreads that are kept and cannot be in force: what is for their subnets must take no other way."""
        kept = self._kept.router if self._kept else None
        return guarded(local, kept) if kept else Wish()

    def _check(self, found: Found) -> None:
        local = self._local()
        assert local.controller is not None
        if found.router is None:
            raise DocumentError("it is no router's")
        if why := why_outside(found.router, local.controller):
            raise DocumentError(why)
        beside(local, found.router)

    def _want(self, found: Found) -> int:
        assert found.router is not None
        self._wish = found.router
        return len(self._wish.spread)
