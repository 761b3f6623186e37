"""Who asks, and for what: the parts of a request that many routes need."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Query, Request

from fwd.controller import roles
from fwd.controller.api.answers import denied, problem
from fwd.controller.control import Control
from fwd.controller.desk import LeaderlessError
from fwd.controller.door import whence
from fwd.controller.tokens import Token

PEER: Final = "fwd.peer"  # in a request's scope: the client's certificate, DER (tls.py)
BODY_BYTES_MAX: Final = 1 << 20
_BODIES_MAX: Final = {"/v1/join": 1 << 16, "/v1/renew": 1 << 16, "/v1/heartbeat": (1 << 16) + (1 << 13)}
_HOSTS: Final = ("/v1/renew", "/v1/heartbeat")
_JOIN: Final = "/v1/join"
_GUESSED: Final = (401, 422)  # answers to those who join that say that they know nothing


class Doors:
    """ASGI: looks at who asks before a body is read, and refuses a body that is too long while it comes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS", "DELETE"):
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        try:
            _look_at(request)
        except HTTPException as error:
            await problem(error.status_code, str(error.detail), error.headers)(scope, receive, send)
            return
        except roles.DeniedError as error:
            await denied(error)(scope, receive, send)
            return
        except LeaderlessError:
            pass  # the route says so

        await self._app(scope, _bounded(request, receive), _counted(request, send))


def _look_at(request: Request) -> None:
    """Find out who asks. Raises DeniedError, LeaderlessError, and HTTPException for one who is not listened to."""
    path = request.url.path
    if path in _HOSTS:
        control_of(request).host(request.scope.get(PEER))
    elif path == _JOIN:
        _listen_to(request)
    else:
        _person(request, request.headers.get("Authorization"), writes=False)


def _bounded(request: Request, receive: Any) -> Any:
    octets, octets_max = 0, _BODIES_MAX.get(request.url.path, BODY_BYTES_MAX)

    async def bounded() -> Any:
        nonlocal octets
        message = await receive()
        octets += len(message.get("body", b""))
        if octets > octets_max:
            raise HTTPException(413, f"more than {octets_max} octets")
        return message

    return bounded


def _counted(request: Request, send: Any) -> Any:
    """Have whoever joins with what is no token, or no request at all, counted as a stranger."""
    if request.url.path != _JOIN:
        return send

    async def counted(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] in _GUESSED:
            control = control_of(request)
            control.strangers.refused(address_of(request), control.clock())
        await send(message)

    return counted


def control_of(request: Request) -> Control:
    """The controller that this application is of."""
    control = request.app.state.control
    assert isinstance(control, Control)
    return control


def address_of(request: Request) -> str:
    """Whence a request comes, as strangers are counted."""
    return whence(request.client.host) if request.client else ""


def _person(request: Request, authorization: str | None, *, writes: bool) -> Token:
    try:
        return control_of(request).person(authorization, writes=writes)
    except roles.DeniedError as error:
        if error.unknown:
            _listen_to(request)
            control = control_of(request)
            control.strangers.refused(address_of(request), control.clock())
        raise


def _listen_to(request: Request) -> None:
    """Refuse one who was refused too often, without saying why."""
    control = control_of(request)
    if not control.strangers.may_ask(address_of(request), control.clock()):
        raise HTTPException(429, "refused too often: wait a second", {"Retry-After": "1"})


_Authorization = Annotated[str | None, Header(description="Bearer fwdb.…")]


async def _viewer(request: Request, authorization: _Authorization = None) -> Token:
    return _person(request, authorization, writes=False)


async def _admin(request: Request, authorization: _Authorization = None) -> Token:
    return _person(request, authorization, writes=True)


async def _host(request: Request) -> roles.Host:
    return control_of(request).host(request.scope.get(PEER))


Viewer = Annotated[Token, Depends(_viewer)]
Admin = Annotated[Token, Depends(_admin)]
Link = Annotated[roles.Host, Depends(_host)]
Controller = Annotated[Control, Depends(control_of)]
DryRun = Annotated[bool, Query(description="1: only say what would come of it")]
IfMatch = Annotated[str | None, Header(description="the ETag of the object as it was seen")]


def seen_in(if_match: str | None, kind: str, name: str) -> tuple[str, str, int] | None:
    """Read which revision of an object the user has seen; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip().removeprefix("W/").strip('"')
    is_number = tag.isascii() and tag.isdecimal() and len(tag) < 19
    return kind, name, int(tag) if is_number else -1
