"""Routes of the fleet's objects, the same for each kind: list, show, create, set, drain, undrain, delete."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path, Response

from fwd.controller import changes
from fwd.controller.api import shown
from fwd.controller.api.answers import READING, WRITING, Changed, Listed, problems
from fwd.controller.api.asked import Admin, Controller, DryRun, IfMatch, Viewer, seen_in
from fwd.controller.changes import KINDS, RefusedError
from fwd.controller.control import Control
from fwd.controller.desk import Asked, Done
from fwd.controller.fleet import Seen
from fwd.controller.reaching import links_in, why_unreached
from fwd.controller.shares import moved, shares_in
from fwd.controller.tokens import Token
from fwd.model.fleet import Fleet

_Name = Annotated[str, Path(max_length=64)]
_Fields = Annotated[dict[str, Any], Body()]
_SET_BY_CONTROLLER: Final = ("number", "rekey_number")  # drawn when an object is made, and counted


def router_of(kind: str) -> APIRouter:
    """Make the routes of a kind."""
    plural, _ = KINDS[kind]
    router = APIRouter(prefix=f"/v1/{plural}", tags=[plural])
    _add_reading(router, kind)
    _add_writing(router, kind)
    if kind == "gateway":
        _add_act(router, kind, "drain", lambda _, name: _setting(kind, name, {"state": "draining"}))
        _add_act(router, kind, "undrain", lambda _, name: _setting(kind, name, {"state": "active"}))
    if kind == "peering":
        _add_act(router, kind, "rekey", rekeying)
    if kind in ("gateway", "router"):
        _add_restarting(router, kind)
    return router


def _add_reading(router: APIRouter, kind: str) -> None:
    @router.get("", operation_id=f"list_{kind}", responses=problems(*READING))
    async def list_all(control: Controller, viewer: Viewer) -> Listed:
        return Listed(items=list(shown.objects(control, kind).values()))

    @router.get("/{name}", operation_id=f"show_{kind}", responses=problems(*READING))
    async def show(control: Controller, viewer: Viewer, name: _Name, response: Response) -> dict[str, Any]:
        return _object(control, kind, name, response)


def _add_writing(router: APIRouter, kind: str) -> None:
    responses = problems(*WRITING)

    @router.post("", operation_id=f"create_{kind}", responses=responses, openapi_extra=_body(kind, whole=True))
    async def create(
        control: Controller, admin: Admin, body: _Fields, response: Response, dry_run: DryRun = False
    ) -> Changed:
        name = body.get("name")
        asked = _asked(control, admin, "create", kind, name if isinstance(name, str) else "")
        _check_unset(kind, body)
        return await _change(control, asked, lambda fleet: changes.create(fleet, kind, body), response, dry_run, None)

    @router.patch("/{name}", operation_id=f"set_{kind}", responses=responses, openapi_extra=_body(kind, whole=False))
    async def set_fields(
        control: Controller, admin: Admin, name: _Name, body: _Fields, response: Response,
        dry_run: DryRun = False, if_match: IfMatch = None,
    ) -> Changed:  # fmt: skip
        asked = _asked(control, admin, "set", kind, name)
        if "rekey_number" in body:
            _check_unset(kind, body)
        act = _setting(kind, name, body)
        return await _change(control, asked, act, response, dry_run, if_match)

    @router.delete("/{name}", operation_id=f"delete_{kind}", responses=responses)
    async def take_away(
        control: Controller, admin: Admin, name: _Name, response: Response,
        dry_run: DryRun = False, if_match: IfMatch = None,
    ) -> Changed:  # fmt: skip
        asked = _asked(control, admin, "delete", kind, name)
        done = await delete(control, asked, seen_in(if_match, kind, name), dry_run=dry_run)
        return _changed(control, asked, done, response, dry_run)


def _add_act(
    router: APIRouter, kind: str, act: str, change: Callable[[Control, str], Callable[[Fleet], Fleet]]
) -> None:
    """Add what changes an object by a word of its own; `change`: what it does to the fleet, of the object's name."""

    @router.post(f"/{{name}}/{act}", operation_id=f"{act}_{kind}", responses=problems(*WRITING))
    async def do(
        control: Controller, admin: Admin, name: _Name, response: Response,
        dry_run: DryRun = False, if_match: IfMatch = None,
    ) -> Changed:  # fmt: skip
        asked = _asked(control, admin, act, kind, name)
        return await _change(control, asked, change(control, name), response, dry_run, if_match)


def rekeying(control: Control, name: str) -> Callable[[Fleet], Fleet]:
    """Return what has a peering rekeyed; refused if one of its gateways would not understand it."""

    def act(fleet: Fleet) -> Fleet:
        after, pairs = changes.rekey(fleet, name), [one for one in control.desk.kept.pairs if one.peering == name]
        if not pairs:
            raise RefusedError(f"peering {name} has no pair: there is nothing to rekey", conflict=True)
        for gateway in sorted({host for one in pairs for host in (one.a, one.b)}):
            beat = control.watch.beats.get(gateway)
            if beat is None or beat.status.get("rekeys") is not True:
                why = "has not reported yet" if beat is None else "runs a fwd that does not know of this"
                raise RefusedError(f"gateway {gateway} {why}: `fwd rekey {name}` on each host does it", conflict=True)
        return after

    return act


def _add_restarting(router: APIRouter, kind: str) -> None:
    @router.post("/{name}/restart", status_code=202, operation_id=f"restart_{kind}", responses=problems(*WRITING))
    async def do(
        control: Controller, admin: Admin, name: _Name, dry_run: DryRun = False, if_match: IfMatch = None
    ) -> Changed:
        asked = _asked(control, admin, "restart", kind, name)
        return await restart(control, asked, seen_in(if_match, kind, name), dry_run=dry_run)


async def restart(control: Control, asked: Asked, seen: Seen | None, *, dry_run: bool) -> Changed:
    """Begin to restart a host by the operator's command, or only say what would come of it."""
    _ = control.desk.newest
    if control.restarting is None:
        raise RefusedError("this controller restarts nothing", conflict=True)
    if dry_run:
        plan = control.restarting.plan(asked.kind, asked.name, seen)
        return Changed(dry_run=True, plan=plan, operation=None, object=None)
    made = await control.restarting.begin(asked, seen)
    return Changed(dry_run=False, plan=list(made.plan), operation=made.id, object=None)


def _setting(kind: str, name: str, fields: dict[str, Any]) -> Callable[[Fleet], Fleet]:
    return lambda fleet: changes.change(fleet, kind, name, fields)


async def _change(
    control: Control, asked: Asked, act: Callable[[Fleet], Fleet], response: Response, dry_run: bool,
    if_match: str | None,
) -> Changed:  # fmt: skip
    done = await change(control, asked, act, seen_in(if_match, asked.kind, asked.name), dry_run=dry_run)
    return _changed(control, asked, done, response, dry_run)


async def change(
    control: Control, asked: Asked, act: Callable[[Fleet], Fleet], seen: Seen | None, *, dry_run: bool
) -> Done:
    """Change an object, or only say what would come of it; hosts that could not reach each other are refused."""
    links, before = links_in({host: beat.status for host, beat in control.watch.beats.items()}), control.desk.kept.fleet
    shares = shares_in(before, control.watch.beats, control.clock())

    def reached(fleet: Fleet) -> Fleet:
        after = act(fleet)
        if why := why_unreached(fleet, after, links):
            raise RefusedError(why, conflict=True)
        return after

    # What it moves of flows, by routers' word, is no host's configuration: it is said, and not kept.
    done = await control.desk.change(asked, reached, seen=seen, dry_run=dry_run)
    return replace(done, moved=tuple(moved(before, done.kept.fleet, shares, control.watch.down)))


async def delete(control: Control, asked: Asked, seen: Seen | None, *, dry_run: bool) -> Done:
    """Delete an object, or only say what would come of it."""
    before = control.desk.kept.fleet
    shares = shares_in(before, control.watch.beats, control.clock())
    done = await control.desk.delete(asked, seen=seen, dry_run=dry_run)
    return replace(done, moved=tuple(moved(before, done.kept.fleet, shares, control.watch.down)))


def _asked(control: Control, admin: Token, act: str, kind: str, name: str) -> Asked:
    return Asked(admin.name, act, kind, name, control.wall())


def _check_unset(kind: str, body: dict[str, Any]) -> None:
    for key in _SET_BY_CONTROLLER:
        if key in body:
            raise RefusedError(f"{kind}: {key} is the controller's to choose")


def _changed(control: Control, asked: Asked, done: Done, response: Response, dry_run: bool) -> Changed:
    """What came of a change; of a dry run the object as it would be."""
    operation = done.operation.id if done.operation else None
    if dry_run:
        one = changes.objects_of(done.kept.fleet, asked.kind).get(asked.name)
    else:
        one = shown.objects(control, asked.kind).get(asked.name)
        if one is not None:
            response.headers["ETag"] = f'"{one["revision"]}"'
    return Changed(dry_run=dry_run, plan=[*done.lines, *done.moved], operation=operation, object=one)


def _object(control: Control, kind: str, name: str, response: Response) -> dict[str, Any]:
    one = shown.objects(control, kind).get(name)
    if one is None:
        raise RefusedError(f"there is no {kind} {name}", missing=True)
    response.headers["ETag"] = f'"{one["revision"]}"'
    return one


def _body(kind: str, *, whole: bool) -> dict[str, Any]:
    """What the OpenAPI says of a body: the object's fields; of a change none is needed."""
    _, model = KINDS[kind]
    schema = model.model_json_schema()
    properties = {key: value for key, value in schema["properties"].items() if key not in _SET_BY_CONTROLLER}
    found = {"type": "object", "properties": properties, "additionalProperties": False}
    if whole:
        found["required"] = [key for key in schema.get("required", ()) if key in properties]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": found}}}}
