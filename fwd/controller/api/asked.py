"""Who asks, and for what: the parts of a request that many routes need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Query, Request
from fastapi.responses import Response

from fwd.controller import roles
from fwd.controller.api.answers import denial
from fwd.controller.audit import audit
from fwd.controller.control import Control
from fwd.controller.desk import LeaderlessError
from fwd.controller.door import whence
from fwd.controller.fleet import Seen
from fwd.controller.rates import Rates
from fwd.controller.store import StoreError
from fwd.controller.tokens import Token

PEER: Final = "fwd.peer"  # in a request's scope: the client's certificate, DER (tls.py)
BODY_BYTES_MAX: Final = 1 << 20
_BODIES_MAX: Final = {
    "/sign-in": 1 << 12,
    "/v1/join": 1 << 16,
    "/v1/renew": 1 << 16,
    "/v1/heartbeat": (1 << 16) + (1 << 13),
}
_NOBODY: Final = "nobody"
_JOINS: Final = "who joins"
_SIGNS_IN: Final = "who signs in"
_BEAT: Final = "/v1/heartbeat"
_HOSTS: Final = ("/v1/renew", _BEAT)
_JOIN: Final = "/v1/join"
_MAY_NOT: Final = (403, 429)
_API: Final = "/v1/"
SIGN_IN: Final = "/sign-in"
SIGN_OUT: Final = "/sign-out"
COOKIE: Final = "__Host-fwd"  # browsers take it over TLS alone, and send it to no other host
_GUESSED: Final = (401, 422)  # answers to those who join or sign in that say that they know nothing


class Doors:
    """ASGI: looks at who asks before a body is read, and refuses a body that is too long while it comes. `tell`: says
    why somebody is refused: request, status and a line.
    """

    def __init__(self, app: Any, tell: Callable[..., Response]) -> None:
        self._app, self._tell = app, tell

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        request, who = Request(scope), _NOBODY
        try:
            who = await _look_at(request)
            _check_writer(request)
        except HTTPException as error:
            answer = self._tell(request, error.status_code, str(error.detail), error.headers)
            await answer(scope, receive, _noted(request, who, send))
            return
        except roles.DeniedError as error:
            status, headers = denial(error)
            answer = self._tell(request, status, str(error), headers)
            await answer(scope, receive, _noted(request, who, send))
            return
        except (LeaderlessError, StoreError):
            pass  # the route says so

        await self._app(scope, _bounded(request, receive), _noted(request, who, _counted(request, send)))


async def _look_at(request: Request) -> str:
    """Find out who asks, for the audit log. Raises DeniedError, LeaderlessError, StoreError, and HTTPException for one
    who is not listened to.
    """
    path = request.url.path
    if not path.startswith(_API):
        return await _look_at_form(request)
    if path in _HOSTS:
        one = control_of(request).host(request.scope.get(PEER))
        return f"{one.kind} {one.name}"
    if path == _JOIN:
        _listen_to(request)
        return _JOINS
    return f"token {_person(request, request.headers.get('Authorization'), writes=False).name}"


def _check_writer(request: Request) -> None:
    """Refuse one who may change nothing, or asks too often: a body costs more than all that. Raises DeniedError,
    LeaderlessError and HTTPException.
    """
    path, control = request.url.path, control_of(request)
    if not path.startswith(_API) or path in (*_HOSTS, _JOIN):
        return
    authorization = request.headers.get("Authorization")
    name = _person(request, authorization, writes=False).name
    try:
        _person(request, authorization, writes=True)
    except roles.DeniedError:
        rate(control.people, name, request)  # who may not change anything does not ask without end either
        raise
    if not control.people.may(name, control.clock()):
        raise _too_often(name)


async def _look_at_form(request: Request) -> str:
    """Find out who sends a page's form. What another site has a browser send is refused, whoever has signed in."""
    origin = request.headers.get("Origin", "")
    if origin != f"{request.url.scheme}://{request.headers.get('Host', '')}":
        raise HTTPException(403, "this form was not sent by a page of this controller")
    if request.url.path == SIGN_IN:
        _listen_to(request)
        return _SIGNS_IN
    token = await signed_in(request)
    if token.role not in roles.WRITES and request.url.path != SIGN_OUT:
        raise roles.DeniedError(f"token {token.name} is a {token.role}'s: an admin's is needed to change anything")
    return f"token {token.name}"


async def signed_in(request: Request) -> Token:
    """Return whose session a request is of. Raises DeniedError, LeaderlessError and StoreError."""
    control = control_of(request)
    try:
        return await control.sessions.find(request.cookies.get(COOKIE, ""), control.wall(), control.clock())
    except roles.DeniedError:
        _listen_to(request)
        if COOKIE in request.cookies:
            control.strangers.take(address_of(request), control.clock())
        raise


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
    """Have whoever joins or signs in with what is no token, or no request at all, counted as a stranger."""
    if request.url.path not in (_JOIN, SIGN_IN):
        return send

    async def counted(message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] in _GUESSED:
            control = control_of(request)
            control.strangers.take(address_of(request), control.clock())
        await send(message)

    return counted


def _noted(request: Request, who: str, send: Any) -> Any:
    """Have the answer in the audit log, but for heartbeats that are heard; of what anybody can have refused as often
    as he likes a few, and how many were left out.
    """
    control = control_of(request)

    async def noted(message: Any) -> None:
        if message["type"] == "http.response.start":
            status, path = message["status"], request.url.path
            whose = address_of(request) if who in (_NOBODY, _JOINS, _SIGNS_IN) else who
            is_endless = who == _NOBODY or status in _MAY_NOT or (path in (*_HOSTS, _JOIN, SIGN_IN) and status >= 400)
            if is_endless and not control.noted.take(whose, control.clock()):
                control.not_noted += 1
            elif path != _BEAT or status >= 400:
                address = request.client.host if request.client else ""
                left_out, control.not_noted = control.not_noted, 0
                audit(who, address, request.method, path, status, left_out)
        await send(message)

    return noted


def control_of(request: Request) -> Control:
    """The controller that this application is of."""
    control = request.app.state.control
    assert isinstance(control, Control)
    return control


async def _control(request: Request) -> Control:
    """Give a route its controller; what is not `async` would have a thread for each request."""
    return control_of(request)


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
            control.strangers.take(address_of(request), control.clock())
        raise


def _listen_to(request: Request) -> None:
    """Refuse one who was refused too often, without saying why."""
    control = control_of(request)
    if not control.strangers.may(address_of(request), control.clock()):
        raise HTTPException(429, "refused too often: wait a second", {"Retry-After": "1"})


_Authorization = Annotated[str | None, Header(description="Bearer fwdb.…")]


async def _viewer(request: Request, authorization: _Authorization = None) -> Token:
    found = _person(request, authorization, writes=False)
    rate(control_of(request).people, found.name, request)
    return found


async def _admin(request: Request, authorization: _Authorization = None) -> Token:
    await _viewer(request, authorization)
    return _person(request, authorization, writes=True)


async def _host(request: Request) -> roles.Host:
    found = control_of(request).host(request.scope.get(PEER))
    rate(control_of(request).links, found.name, request)
    return found


def rate(rates: Rates, name: str, request: Request) -> None:
    """Refuse who asks so often that others would wait for it."""
    if not rates.take(name, control_of(request).clock()):
        raise _too_often(name)


def _too_often(name: str) -> HTTPException:
    return HTTPException(429, f"{name} asks too often: wait a second", {"Retry-After": "1"})


Viewer = Annotated[Token, Depends(_viewer)]
Admin = Annotated[Token, Depends(_admin)]
Link = Annotated[roles.Host, Depends(_host)]
Controller = Annotated[Control, Depends(_control)]
DryRun = Annotated[bool, Query(description="1: only say what would come of it")]
IfMatch = Annotated[str | None, Header(description="the ETag of the object as it was seen")]


def seen_in(if_match: str | None, kind: str, name: str) -> Seen | None:
    """Read which revision of an object the user has seen; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    tag = if_match.strip().removeprefix("W/").strip('"')
    is_number = tag.isascii() and tag.isdecimal() and len(tag) < 19
    return Seen(kind, name, int(tag) if is_number else -1)
