"""Who looks at a page, and the forms that they send: signed in with a bearer token, or a program with its own.

What another site has a browser send is refused before (api/asked.py): by its Origin, and since browsers send this
cookie for nobody else's page. A form also carries a key of its session.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request

from fwd.controller import roles
from fwd.controller.api.asked import COOKIE, control_of, rate, signed_in
from fwd.controller.desk import LeaderlessError
from fwd.controller.page.forms import joined
from fwd.controller.sessions import form_key
from fwd.controller.store import StoreError
from fwd.controller.tokens import Token

_FIELDS_MAX: Final = 100


class StrangerError(Exception):
    """Somebody who has not signed in."""


class PageError(Exception):
    """A page that cannot be shown: its status, and a line for the user."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Visitor:
    """Who looks. `form_key`: what the forms of this session carry; empty: there is no session."""

    token: Token
    form_key: str

    @property
    def may_change(self) -> bool:
        """Whether it is an admin's."""
        return self.token.role in roles.WRITES


async def _visitor(request: Request) -> Visitor:
    control = control_of(request)
    try:
        if (authorization := request.headers.get("Authorization")) is not None:
            found = Visitor(control.person(authorization, writes=False), "")
        else:
            found = Visitor(await signed_in(request), form_key(request.cookies.get(COOKIE, "")))
    except roles.DeniedError as error:
        raise StrangerError(str(error)) from None
    except (LeaderlessError, StoreError) as error:
        raise PageError(503, f"could not check who asks: {error or 'this controller has read nothing yet'}") from None
    except HTTPException as error:
        raise PageError(error.status_code, str(error.detail)) from None
    rate(control.people, found.token.name, request)
    return found


Visiting = Annotated[Visitor, Depends(_visitor)]


async def is_still(request: Request, visitor: Visitor) -> bool:
    """Whether somebody who has looked for a while still may."""
    if not visitor.form_key:
        known = control_of(request).desk.records.tokens.get(visitor.token.name)
        return known is not None and known.digest == visitor.token.digest
    try:
        await signed_in(request)
    except (roles.DeniedError, HTTPException):
        return False
    except (LeaderlessError, StoreError):
        pass  # that could not be looked up is no denial
    return True


async def form_of(request: Request) -> Mapping[str, str]:
    """Read a form. Raises PageError."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise PageError(422, "a form is needed")
    try:
        return joined(parse_qsl((await request.body()).decode(), max_num_fields=_FIELDS_MAX, keep_blank_values=True))
    except ValueError:
        raise PageError(422, "this form cannot be read") from None


def check_form(visitor: Visitor, form: Mapping[str, str]) -> None:
    """See that a form is of this session. Raises PageError."""
    if not visitor.form_key or not hmac.compare_digest(visitor.form_key.encode(), form.get("form_key", "").encode()):
        raise PageError(403, "this form is of another session: load the page again")


def local_path(text: str) -> str:
    """Return where to go on, which is nowhere else than here."""
    is_local = text.startswith("/") and text[1:2] not in ("/", "\\") and text.isprintable()
    return text if is_local else "/"
