"""Routes of changes: a form, its plan, and then the operation; for admins alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from fwd.controller.api.answers import DETAIL_MAX
from fwd.controller.api.asked import Controller
from fwd.controller.control import Control
from fwd.controller.fleet import StaleError
from fwd.controller.page import render
from fwd.controller.page.changing import NOT_DONE, REFUSED, Came, perform, seen_by, shown_to
from fwd.controller.page.facts import facts_of
from fwd.controller.page.forms import Wanted, fields_of, joined, wanted_in
from fwd.controller.page.views import fleet_view
from fwd.controller.page.visitors import PageError, Visiting, Visitor, check_form, form_of
from fwd.proto.text import line_of

router = APIRouter(include_in_schema=False)
_OF_FORM = ("form_key", "seen", "planned", "confirm")


def _wanted(visitor: Visitor, values: Mapping[str, str]) -> Wanted:
    if not visitor.may_change or not visitor.form_key:
        raise PageError(403, f"token {visitor.token.name} is a {visitor.token.role}'s: an admin signs in to change")
    wanted = wanted_in(values)
    if wanted is None:
        raise PageError(404, "there is no such change")
    return wanted


@router.get("/plan")
async def show_plan(request: Request, control: Controller, visitor: Visiting) -> Response:
    wanted = _wanted(visitor, joined(request.query_params.multi_items()))
    return await _plan_page(control, visitor, wanted)


@router.post("/plan")
async def carry_out(request: Request, control: Controller, visitor: Visiting) -> Response:
    form = await form_of(request)
    check_form(visitor, form)
    wanted = _wanted(visitor, {key: value for key, value in form.items() if key not in _OF_FORM})
    if wanted.is_destructive and form.get("confirm", "") != wanted.name:
        return await _plan_page(control, visitor, wanted, 422, f"type {wanted.name} to do this: nothing was changed")
    try:
        came = await perform(control, visitor.token, wanted, seen_by(wanted, form), dry_run=False)
    except StaleError as error:
        return await _plan_page(control, visitor, wanted, 412, f"nothing was changed: {error}; look at the plan anew")
    except (*REFUSED, *NOT_DONE) as error:
        status = 503 if isinstance(error, NOT_DONE) else 409
        return await _plan_page(control, visitor, wanted, status, _line(error))
    if came.token:
        return _token_page(control, visitor, wanted, came)
    return RedirectResponse(f"/operations/{came.operation}" if came.operation else "/", 303)


async def _plan_page(
    control: Control, visitor: Visitor, wanted: Wanted, status: int = 200, error: str = ""
) -> Response:
    """Show a form, and the plan of what it has, or why that cannot be."""
    fleet = fleet_view(facts_of(control))
    values: dict[str, Any] = {"plan": None, "error": error, "shown": {}}
    if wanted.is_whole:
        try:
            came = await perform(control, visitor.token, wanted, None, dry_run=True)
            values |= {"plan": (*came.lines, *came.moved), "shown": shown_to(control, wanted, came.lines)}
        except (*REFUSED, *NOT_DONE) as why:
            values["error"] = error or _line(why)
    chosen = _chosen(wanted, control)
    hidden = {key: value for key, value in wanted.values.items() if key not in _OF_FORM}
    return render.page(
        "plan.html", status, title=wanted.title, visitor=visitor, path="/plan", wanted=wanted, chosen=chosen,
        fields=fields_of(wanted, fleet), hidden=hidden, **values,
    )  # fmt: skip


def _chosen(wanted: Wanted, control: Control) -> dict[str, str]:
    """What the form begins with: what was filled in, or what the object has."""
    if wanted.act == "set" and "gateways" not in wanted.values:
        cluster = control.desk.kept.fleet.cluster.get(wanted.name)
        return {"gateways": ",".join(cluster.gateways) if cluster else ""}
    return dict(wanted.values)


def _token_page(control: Control, visitor: Visitor, wanted: Wanted, came: Came) -> Response:
    joins = wanted.values.get("role") == "join"
    return render.page(
        "token.html", title=f"Token {wanted.name}", visitor=visitor, path="/plan", token=came.token, joins=joins,
        kind=wanted.values.get("host", "gateway"), operation=came.operation, url=control.url.rstrip("/"),
    )  # fmt: skip


def _line(error: Exception) -> str:
    return line_of(str(error) or "this controller does not lead, and another one may", DETAIL_MAX)
