"""Answers of the API: their forms, and how each error becomes a status with one line in `detail`."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from fwd.controller.ca import RequestError
from fwd.controller.changes import RefusedError
from fwd.controller.desk import LeaderlessError
from fwd.controller.fleet import StaleError
from fwd.controller.roles import DeniedError
from fwd.controller.store import ConflictError, NotLeaderError, StoreError
from fwd.controller.tokens import TokenError
from fwd.model.mistakes import reason_of
from fwd.proto.text import line_of

DETAIL_MAX: Final = 1000
_AGAIN_S: Final = "1"


class Problem(BaseModel):
    """Why something was not done."""

    detail: Annotated[str, Field(description="one line for the user")]


_TEXTS: Final[Mapping[int, str]] = {
    400: "the body cannot be read",
    401: "a token or certificate is missing, or not known",
    403: "what is known of who asks does not allow it",
    404: "there is no such object",
    409: "it does not go with what is there",
    412: "the object is another than the one of If-Match",
    413: "the body is too long",
    422: "it cannot be: one line says what is wrong",
    429: "too many of them: try again later",
    503: "could not be done or looked up: the store does not answer, or another controller leads; try again",
}
READING: Final = (401, 404, 422, 429, 503)
WRITING: Final = (400, 401, 403, 404, 409, 412, 413, 422, 429, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route, for the OpenAPI."""
    return {status: {"model": Problem, "description": _TEXTS[status]} for status in statuses}


def problem(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Say why something was not done."""
    return JSONResponse({"detail": line_of(text, DETAIL_MAX)}, status, dict(headers or {}))


def handle_errors(app: FastAPI) -> None:
    """Have each error of the controller's own answered by its status."""
    statuses: dict[type[Exception], int] = {
        TokenError: 401, RequestError: 422, StaleError: 412, ConflictError: 409,
    }  # fmt: skip
    for error, status in statuses.items():
        app.add_exception_handler(error, _answering(status))
    app.add_exception_handler(DeniedError, _denied)
    app.add_exception_handler(RefusedError, _refused)
    for error in (StoreError, LeaderlessError, NotLeaderError):
        app.add_exception_handler(error, _unavailable)


def _answering(status: int) -> Any:
    async def answer(request: Request, error: Exception) -> JSONResponse:
        return problem(status, str(error))

    return answer


def denial(error: DeniedError) -> tuple[int, dict[str, str]]:
    """Return the status and headers of an answer to who may not."""
    return (401, {"WWW-Authenticate": "Bearer"}) if error.unknown else (403, {})


async def _denied(request: Request, error: DeniedError) -> JSONResponse:
    status, headers = denial(error)
    return problem(status, str(error), headers)


async def _refused(request: Request, error: RefusedError) -> JSONResponse:
    return problem(404 if error.missing else 409 if error.conflict else 422, str(error))


_OBJECTS: Final = ("dict_type", "model_type", "model_attributes_type")


def line_of_invalid(request: Request, error: RequestValidationError) -> str:
    """Say what is wrong with a request's parameters or body."""
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    more = f" (and {len(others)} more)" if others else ""
    why = "expected a JSON object" if first["type"] in _OBJECTS else reason_of(first)
    return f"{where}: {why}{more}"


def line_of_http(request: Request, error: HTTPException) -> str:
    """Say what is wrong with a request that no route takes, or that was refused."""
    if error.detail not in (HTTPStatus.NOT_FOUND.phrase, HTTPStatus.METHOD_NOT_ALLOWED.phrase):
        return str(error.detail)
    why = "nothing" if error.status_code == HTTPStatus.NOT_FOUND else f"no {request.method}"
    return f"there is {why} at {request.url.path}: /v1/openapi.json has what there is, and / shows the fleet"


async def _unavailable(request: Request, error: Exception) -> JSONResponse:
    text = "this controller does not lead, and another one may" if not isinstance(error, StoreError) else str(error)
    return problem(503, f"could not check: {text}", {"Retry-After": _AGAIN_S})


# -- forms ------------------------------------------------------------------------------------------------------------

Order = tuple[int, int]


class Listed(BaseModel):
    """All objects of a kind."""

    items: list[dict[str, Any]]


class Progress(BaseModel):
    """How far a change has come: which hosts have yet to apply it."""

    hosts: int
    waiting: list[str]


class Operation(BaseModel):
    """A change that was made."""

    id: str
    at: float
    who: str
    act: str
    kind: str
    name: str
    plan: list[str]
    order: Annotated[Order, Field(description="term and generation from which on it holds")]
    progress: Progress
    reason: Annotated[str, Field(description="of what the controller does by itself")]
    steps: Annotated[list[str], Field(description="where one stands that takes a while")]
    result: Annotated[str, Field(description="done, failed, or in progress: hosts have yet to apply it")]


class Operations(BaseModel):
    """Changes, the last one first."""

    items: list[Operation]


class Changed(BaseModel):
    """What came of a change. `object`: as it is afterwards; null: it is gone."""

    dry_run: bool
    plan: Annotated[list[str], Field(description="what it means for the hosts, a line each")]
    operation: Annotated[str | None, Field(description="its id; null: a dry run, or nothing was to be changed")]
    object: dict[str, Any] | None


class Pair(BaseModel):
    """Two gateways that are joined by a peering's tunnels."""

    peering: str
    a: str
    b: str
    state: Annotated[str, Field(description="up, degraded, down, or unknown: neither of them says anything")]
    rtt_ms: float | None
    loss: float


class Pairs(BaseModel):
    """All pairs."""

    items: list[Pair]


class Happened(BaseModel):
    """Something that has happened."""

    number: int
    at: float
    what: str
    host: str
    text: str


class Events(BaseModel):
    """Events, the oldest first."""

    items: list[Happened]


class Standing(BaseModel):
    """How a controller stands, whether it leads or follows."""

    who: Annotated[str, Field(description="this one: its host's name and its process")]
    version: str
    leading: bool
    leader: Annotated[str, Field(description="who leads, as of a second ago; empty: nobody, or nobody knows")]
    term: Annotated[int | None, Field(description="in which it leads")]
    generation: Annotated[int, Field(description="of what hosts are to do")]
    cluster_id: str
    hosts: dict[str, int]


class Authorities(BaseModel):
    """The CAs of hosts, by their pins."""

    trusted: Annotated[list[str], Field(description="the one that issues first")]
    waiting: Annotated[list[str], Field(description="joined hosts that have yet to hear of them")]
    old: Annotated[list[str], Field(description="hosts whose newest certificates are of another than the first")]
