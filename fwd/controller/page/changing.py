"""Changes from pages: first the plan, then the same operation as by the API, for the same reasons refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from fwd.controller import changes
from fwd.controller.api import objects, others
from fwd.controller.ca import RequestError
from fwd.controller.changes import RefusedError
from fwd.controller.control import Control
from fwd.controller.desk import Asked, LeaderlessError
from fwd.controller.fleet import Seen, StaleError, digest_of
from fwd.controller.page.forms import Wanted, body_of
from fwd.controller.store import ConflictError, NotLeaderError, StoreError
from fwd.controller.tokens import Token, TokenError
from fwd.model.fleet import Fleet
from fwd.model.mistakes import reason_of

REFUSED: Final = (RefusedError, StaleError, ConflictError, RequestError, TokenError)
NOT_DONE: Final = (LeaderlessError, NotLeaderError, StoreError)
_Body = TypeVar("_Body", bound=BaseModel)


@dataclass(frozen=True)
class Came:
    """What came of it. `operation`: its id; empty: nothing was to be changed. `token`: one that was made, once.

    `moved`: what it moves of flows, which is another at each look and does not belong to the plan.
    """

    lines: tuple[str, ...]
    operation: str = ""
    token: str = ""
    moved: tuple[str, ...] = ()


def shown_to(control: Control, wanted: Wanted, plan: Sequence[str]) -> dict[str, str]:
    """Return what a plan's form carries, to be read again by `seen_by`."""
    revision = control.desk.kept.revisions.get((wanted.kind, wanted.name), 0)
    return {"seen": str(revision), "planned": digest_of(plan)}


def seen_by(wanted: Wanted, form: Mapping[str, str]) -> Seen:
    """Read what the person has looked at who sends a plan's form."""
    text = form.get("seen", "")
    revision = int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else -1
    return Seen(wanted.kind, wanted.name, None if wanted.act == "create" else revision, form.get("planned", ""))


async def perform(control: Control, person: Token, wanted: Wanted, seen: Seen | None, *, dry_run: bool) -> Came:
    """Do it, or say what it means. `seen`: what the person has looked at. Raises REFUSED and NOT_DONE."""
    if wanted.kind == "token":
        return await _token(control, person, wanted, dry_run=dry_run)
    if wanted.act == "upgrade":
        upgrade = _read(others.UpgradeWanted, "gateway", {"gateways": [wanted.name]})
        answer = await others.upgrade(control, person, upgrade, dry_run)
        return Came(tuple(answer.plan), answer.operation or "")

    # Objects of the fleet.
    asked = Asked(person.name, wanted.act, wanted.kind, wanted.name, control.wall())
    if wanted.act == "restart":
        answer = await objects.restart(control, asked, seen, dry_run=dry_run)
        return Came(tuple(answer.plan), answer.operation or "")
    if wanted.act == "delete":
        done = await objects.delete(control, asked, seen, dry_run=dry_run)
    else:
        done = await objects.change(control, asked, _act(control, wanted), seen, dry_run=dry_run)
    return Came(done.lines, done.operation.id if done.operation else "", moved=done.moved)


def _act(control: Control, wanted: Wanted) -> Callable[[Fleet], Fleet]:
    kind, name = wanted.kind, wanted.name
    if wanted.act == "create":
        return lambda fleet: changes.create(fleet, kind, body_of(wanted))
    if wanted.act == "rekey":
        return objects.rekeying(control, name)
    states: dict[str, dict[str, Any]] = {"drain": {"state": "draining"}, "undrain": {"state": "active"}}
    fields = states.get(wanted.act) or body_of(wanted)
    return lambda fleet: changes.change(fleet, kind, name, fields)


def _read(model: type[_Body], what: str, body: dict[str, Any]) -> _Body:
    """Read what the API's own route would read of a body. Raises RefusedError."""
    try:
        return model(**body)
    except ValidationError as error:
        raise RefusedError(f"{what}: {reason_of(error.errors()[0])}") from None


async def _token(control: Control, person: Token, wanted: Wanted, *, dry_run: bool) -> Came:
    body = _read(others.TokenWanted, "token", body_of(wanted))
    if body.role == "join" and body.vpc not in control.desk.kept.fleet.vpc:
        raise RefusedError("token: one that a host joins with needs a VPC that is there")
    if dry_run:
        joins = f"one host may join VPC {body.vpc} with it as a {body.kind}, once, within an hour"
        return Came((joins if body.role == "join" else f"whoever has it is a {body.role}, until it is deleted",))
    made = await others.create_token(control, person, body)
    return Came((), made.operation, made.token)
