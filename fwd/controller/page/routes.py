"""Routes of the dashboard: each page, the same as `.json`, and to sign in and out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from fwd.controller import roles
from fwd.controller.api import shown
from fwd.controller.api.answers import DETAIL_MAX, Operation, line_of_http, line_of_invalid, problem
from fwd.controller.api.asked import COOKIE, SIGN_IN, SIGN_OUT, Controller, rate
from fwd.controller.control import Control
from fwd.controller.desk import LeaderlessError
from fwd.controller.page import change_routes, render
from fwd.controller.page.contents import (
    Content,
    events_page,
    host_page,
    map_page,
    operation_page,
    operations_page,
    path_page,
    peering_page,
)  # fmt: skip
from fwd.controller.page.facts import facts_of, members_of, seen_of
from fwd.controller.page.live import Parts, Streams
from fwd.controller.page.replay import offset_in, replay_of
from fwd.controller.page.views import fleet_view
from fwd.controller.page.visitors import (
    PageError,
    StrangerError,
    Visiting,
    Visitor,
    check_form,
    form_of,
    is_still,
    local_path,
)
from fwd.controller.page.way import way_of
from fwd.controller.sessions import LIFETIME_S
from fwd.controller.store import ConflictError, NotLeaderError, StoreError
from fwd.proto.text import line_of

router = APIRouter(include_in_schema=False)
_Page = Annotated[str, Query(max_length=500)]
_LIVE: Final = "/live"
_NOT_DONE: Final = (LeaderlessError, NotLeaderError, StoreError, ConflictError)


def _content(control: Control, path: str, query: Mapping[str, str]) -> Content | None:
    """Return what is on a page; None: there is no such page."""
    facts, events = facts_of(control), control.happened.events
    fleet = fleet_view(facts)

    # The fleet as it is now, by its parts.
    match path.split("/")[1:]:
        case [""] | ["map"]:
            return map_page(fleet, query.get("open", ""))
        case [("gateways" | "routers") as kind, name]:
            return host_page(fleet, kind.removesuffix("s"), name, events, seen_of(control, name))
        case ["peerings", name]:
            return peering_page(
                fleet, name, [one for one in _made(control) if (one.kind, one.name) == ("peering", name)]
            )
        case ["operations"]:
            return operations_page(fleet, _made(control)[::-1])
        case ["operations", id]:
            made = control.desk.records.operations.get(id)
            return operation_page(fleet, shown.operation(control, made)) if made is not None else None

        # What is asked of it: the way of a flow, and how it was.
        case ["path"]:
            return path_page(fleet, way_of(facts, fleet, query, lambda host: members_of(control, host)))
        case ["events"]:
            offset_s = offset_in(query.get("at", ""))
            replay = replay_of(facts, control.past, offset_s) if offset_s is not None else None
            return events_page(fleet, events, query.get("host", ""), query.get("what", ""), replay)
    return None


def _made(control: Control) -> list[Operation]:
    """The last operations, the oldest first."""
    return [shown.operation(control, one) for _, one in sorted(control.desk.records.operations.items())]


async def _show(request: Request, control: Controller, visitor: Visiting) -> Response:
    """Show a page, or what it shows as JSON, to who has not had too many: hosts wait while they are made."""
    whose, began_s = visitor.token.name, time.thread_time()
    if not control.pages.may(whose, control.clock()):
        raise PageError(429, f"{whose} asks for too many pages: wait a second")
    try:
        return _shown(request, control, visitor)
    finally:
        control.pages.spend(whose, control.clock(), 100 * (time.thread_time() - began_s))


def _shown(request: Request, control: Control, visitor: Visitor) -> Response:
    path, query = request.url.path, request.url.query
    content = _content(control, path.removesuffix(".json"), request.query_params)
    if content is None:
        raise PageError(404, f"there is no {path.removesuffix('.json')} (any more)")
    if path.endswith(".json"):
        return render.as_json(content.json)
    whole = f"{path}?{query}" if query else path
    return render.page(
        "page.html", visitor=visitor, path=path, title=content.title,
        live=f"{_LIVE}?page={quote(whole, safe='')}" if content.live else "",
        json=("/map.json" if path == "/" else f"{path}.json") + (f"?{query}" if query else ""),
        parts=render.parts_of(content, may_change=visitor.may_change),
    )  # fmt: skip


for _path in ("/", "/map.json", "/events", "/events.json", "/path", "/path.json", "/operations", "/operations.json"):
    router.add_api_route(_path, _show)
for _kind in ("gateways", "routers", "peerings", "operations"):
    router.add_api_route(f"/{_kind}/{{name}}", _show)


@router.get(_LIVE)
async def live(request: Request, control: Controller, visitor: Visiting, page: _Page) -> Response:
    """Tell an open page what has changed, for as long as it has a session."""
    streams, whole = request.app.state.streams, urlsplit(page)
    query = dict(parse_qsl(whole.query))
    if _content(control, whole.path, query) is None:
        raise PageError(404, f"there is no {whole.path} (any more)")
    whose = visitor.token.name
    if streams.is_full(whose):
        raise PageError(503, f"too many pages are open, and nobody has more of them than {whose}: close some")

    def parts() -> Parts | None:
        content = _content(control, whole.path, query)
        return render.parts_of(content, may_change=visitor.may_change) if content is not None else None

    async def look() -> Parts | None:
        if control.stopping or not await is_still(request, visitor):
            return None
        return streams.once((page, visitor.may_change, control.states.number), parts)  # type: ignore[no-any-return]

    frames = streams.frames(look, whose, control.states)
    return StreamingResponse(frames, media_type="text/event-stream", headers=render.HEADERS)


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
        await control.sessions.end(request.cookies.get(COOKIE, ""))
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


def attach(app: FastAPI) -> None:
    """Have an application serve pages: strangers are sent to sign in, and errors are told by a page."""
    app.include_router(router)
    app.include_router(change_routes.router)
    app.state.streams = Streams()
    app.add_exception_handler(StrangerError, _stranger)
    app.add_exception_handler(PageError, _error)
    for error, line in ((HTTPException, line_of_http), (RequestValidationError, line_of_invalid)):
        app.add_exception_handler(error, _answering(line))


def tell(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Say why something was not done: by a page where pages are asked for, else as the API does."""
    if request.url.path.startswith("/v1/") or request.url.path in ("/healthz", "/metrics"):
        return problem(status, text, headers)
    return _problem(request, status, text, headers)


def _answering(line: Callable[[Request, Any], str]) -> Any:
    async def answer(request: Request, error: Exception) -> Response:
        return tell(request, getattr(error, "status_code", 422), line(request, error), getattr(error, "headers", None))

    return answer


async def _stranger(request: Request, error: Exception) -> Response:
    path = request.url.path
    if path.endswith(".json") or path == _LIVE or request.method != "GET":
        return _problem(request, 401, str(error))
    whole = f"{path}?{request.url.query}" if request.url.query else path
    return RedirectResponse(f"{SIGN_IN}?to={quote(whole)}" if whole != "/" else SIGN_IN, 303)


async def _error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PageError)
    return _problem(request, error.status, str(error))


def _problem(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    text = line_of(text, DETAIL_MAX)
    if request.url.path.endswith(".json"):
        return render.as_json({"detail": text}, status)
    title = "Not shown" if request.method == "GET" else "Not done"
    values: dict[str, Any] = {"visitor": None, "path": request.url.path, "title": title}
    return render.page("error.html", status, headers, text=text, **values)
