"""Who asks, and for what: the parts of a request that many routes need."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Depends, Header, HTTPException, Query, Request

from fwd.controller import roles
from fwd.controller.control import Control
from fwd.controller.tokens import Token

PEER: Final = "fwd.peer"  # in a request's scope: the client's certificate, DER (tls.py)
BODY_BYTES_MAX: Final = 1 << 20
_BYTES_MAX: Final = {"/v1/heartbeat": 1 << 16}  # of what each host sends each second, all of which is kept


class BoundedBodies:
    """ASGI: refuses a body that is too long while it comes."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        octets, most = 0, _BYTES_MAX.get(scope.get("path", ""), BODY_BYTES_MAX)

        async def bounded() -> Any:
            nonlocal octets
            message = await receive()
            octets += len(message.get("body", b""))
            if octets > most:
                raise HTTPException(413, f"more than {most} octets")
            return message

        await self._app(scope, bounded if scope["type"] == "http" else receive, send)


def control_of(request: Request) -> Control:
    """The controller that this application is of."""
    control = request.app.state.control
    assert isinstance(control, Control)
    return control


def address_of(request: Request) -> str:
    """Whence a request comes."""
    return request.client.host if request.client else ""


def _person(request: Request, authorization: str | None, *, writes: bool) -> Token:
    try:
        return control_of(request).person(authorization, writes=writes)
    except roles.DeniedError as error:
        if error.unknown:
            count_stranger(request)
        raise


def count_stranger(request: Request) -> None:
    """Note that somebody is refused whom nobody knows; who was refused too often is not answered why."""
    control, address = control_of(request), address_of(request)
    if not control.strangers.may_ask(address, control.clock()):
        raise HTTPException(429, "refused too often: wait a second", {"Retry-After": "1"})
    control.strangers.refused(address, control.clock())


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
