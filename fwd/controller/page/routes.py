"""Routes of the dashboard: each page, the same as `.json`, and to sign in and out."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Path, Query, Request
from fastapi.responses import RedirectResponse, Response

from fwd.controller import roles
from fwd.controller.api import shown
from fwd.controller.api.asked import COOKIE, SIGN_IN, SIGN_OUT, Controller, rate
from fwd.controller.control import Control
from fwd.controller.desk import LeaderlessError
from fwd.controller.page import render
from fwd.controller.page.contents import Content, events_page, host_page, map_page, peering_page
from fwd.controller.page.facts import facts_of
from fwd.controller.page.views import FleetView, fleet_view
from fwd.controller.page.visitors import (
    PageError,
    StrangerError,
    Visiting,
    Visitor,
    check_form,
    form_of,
    local_path,
)  # fmt: skip
from fwd.controller.sessions import LIFETIME_S
from fwd.controller.store import ConflictError, NotLeaderError, StoreError

router = APIRouter(include_in_schema=False)
_Name = Annotated[str, Path(max_length=64)]
_Opened = Annotated[str, Query(max_length=64)]
_NOT_DONE: Final = (LeaderlessError, NotLeaderError, StoreError, ConflictError)


def _fleet(control: Control) -> FleetView:
    return fleet_view(facts_of(control))


def _answer(request: Request, visitor: Visitor, content: Content | None) -> Response:
    """Show a page, or what it shows as JSON."""
    path = request.url.path
    if content is None:
        raise PageError(404, f"there is no {path.removesuffix('.json')} (any more)")
    if path.endswith(".json"):
        return render.as_json(content.json)
    return render.page(content.template, visitor=visitor, path=path, title=content.title, **content.values)


@router.get("/")
@router.get("/map.json")
async def show_map(request: Request, control: Controller, visitor: Visiting, open: _Opened = "") -> Response:
    return _answer(request, visitor, map_page(_fleet(control), open))


@router.get("/gateways/{name}")
@router.get("/gateways/{name}.json")
async def show_gateway(request: Request, control: Controller, visitor: Visiting, name: _Name) -> Response:
    return _answer(request, visitor, host_page(_fleet(control), "gateway", name, control.happened.events))


@router.get("/routers/{name}")
@router.get("/routers/{name}.json")
async def show_router(request: Request, control: Controller, visitor: Visiting, name: _Name) -> Response:
    return _answer(request, visitor, host_page(_fleet(control), "router", name, control.happened.events))


@router.get("/peerings/{name}")
@router.get("/peerings/{name}.json")
async def show_peering(request: Request, control: Controller, visitor: Visiting, name: _Name) -> Response:
    made = [
        shown.operation(control, one)
        for one in sorted(control.desk.records.operations.values(), key=lambda one: one.id)
        if (one.kind, one.name) == ("peering", name)
    ]
    return _answer(request, visitor, peering_page(_fleet(control), name, made))


@router.get("/events")
@router.get("/events.json")
async def show_events(
    request: Request, control: Controller, visitor: Visiting,
    host: Annotated[str, Query(max_length=64)] = "", what: Annotated[str, Query(max_length=64)] = "",
) -> Response:  # fmt: skip
    return _answer(request, visitor, events_page(_fleet(control), control.happened.events, host, what))


@router.get("/static/{digest}/{name}")
async def static(digest: str, name: str) -> Response:
    found = render.static(name)
    if found is None:
        raise PageError(404, "there is no such file")
    return found


# -- to sign in and out -----------------------------------------------------------------------------------------------


@router.get(SIGN_IN)
async def show_sign_in(to: Annotated[str, Query(max_length=500)] = "/") -> Response:
    return _sign_in_page(200, local_path(to), "")


@router.post(SIGN_IN)
async def sign_in(request: Request, control: Controller) -> Response:
    form = await form_of(request)
    to = local_path(form.get("to", "/"))
    try:
        token = control.person(f"Bearer {form.get('token', '').strip()}", writes=False)
        rate(control.people, token.name, request)
        secret = await control.sessions.begin(token, control.wall())
    except roles.DeniedError as error:
        return _sign_in_page(401, to, str(error))
    except _NOT_DONE as error:
        return _sign_in_page(503, to, f"could not sign in: {error or _leader(control)}")
    answer = RedirectResponse(to, 303, {"Cache-Control": "no-store"})
    answer.set_cookie(COOKIE, secret, int(LIFETIME_S), path="/", secure=True, httponly=True, samesite="strict")
    return answer


@router.post(SIGN_OUT)
async def sign_out(request: Request, control: Controller, visitor: Visiting) -> Response:
    check_form(visitor, await form_of(request))
    try:
        await control.sessions.end(request.cookies.get(COOKIE, ""), control.clock())
    except _NOT_DONE as error:
        raise PageError(503, f"could not sign out: {error or _leader(control)}") from None
    answer = RedirectResponse(SIGN_IN, 303, {"Cache-Control": "no-store", "Clear-Site-Data": '"cache"'})
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


def _sign_in_page(status: int, to: str, error: str) -> Response:
    return render.page("sign_in.html", status, title="Sign in", to=to, error=error, visitor=None, path=SIGN_IN)


def _leader(control: Control) -> str:
    return f"{control.leader or 'another controller'} leads, and this one does not"


# -- what cannot be shown ---------------------------------------------------------------------------------------------


def handle_errors(app: FastAPI) -> None:
    """Have strangers sent to sign in, and errors told by a page."""
    app.add_exception_handler(StrangerError, _stranger)
    app.add_exception_handler(PageError, _error)


async def _stranger(request: Request, error: Exception) -> Response:
    path = request.url.path
    if path.endswith(".json") or request.method != "GET":
        return _problem(request, 401, str(error))
    whole = f"{path}?{request.url.query}" if request.url.query else path
    return RedirectResponse(f"{SIGN_IN}?to={quote(whole)}" if whole != "/" else SIGN_IN, 303)


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PageError)
    return _problem(request, error.status, str(error))


def _problem(request: Request, status: int, text: str) -> Response:
    if request.url.path.endswith(".json"):
        return render.as_json({"detail": text}, status)
    values: dict[str, Any] = {"visitor": None, "path": request.url.path, "title": "Not shown"}
    return render.page("error.html", status, text=text, **values)
