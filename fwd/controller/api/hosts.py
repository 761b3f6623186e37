"""Routes of hosts: join by a token; renew, heartbeat and desired state by the link's certificate.

A host sees what is its own, and nothing else. "Could not check" (503) is never a denial.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from fwd.controller.api.answers import Order, problems
from fwd.controller.api.asked import Controller, Link
from fwd.controller.ca import CSR_BYTES_MAX
from fwd.controller.control import Control
from fwd.controller.desk import LeaderlessError
from fwd.controller.joining import Joining
from fwd.controller.roles import Host
from fwd.controller.watch import SKEW_MAX_S, TEXT_MAX, Beat
from fwd.model.fleet import MEMBERS_MAX, Name
from fwd.proto.text import line_of

EMPTY_LINE_S: Final = 2.0
_NUMBER_MAX: Final = 2**63 - 1
router = APIRouter(tags=["hosts"])
_Number = Annotated[int, Field(ge=0, le=_NUMBER_MAX)]
_Order = tuple[_Number, _Number]
_Csr = Annotated[str, Field(max_length=CSR_BYTES_MAX, description="PKCS #10, PEM; the key alone is taken")]
_Addresses = Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=8)]
_Version = Annotated[str, Field(max_length=64)]


class Join(BaseModel):
    """What a host says when it joins."""

    token: Annotated[str, Field(max_length=256, description="the secret part")]
    kind: Literal["gateway", "router"]
    name: Name
    link_csr: _Csr
    ike_csr: _Csr | None = None
    inner: _Addresses = []
    outer: _Addresses = []
    members: Annotated[int, Field(ge=1, le=MEMBERS_MAX)] | None = None
    version: _Version = ""


class Renew(BaseModel):
    """What a host asks for before its certificates end."""

    link_csr: _Csr
    ike_csr: _Csr | None = None


class Certificates(BaseModel):
    """What a host is told when it joins or renews."""

    cluster_id: str
    name: str
    kind: str
    link_certificate: str
    ike_certificate: str | None
    ca_bundle: str
    document_key: Annotated[str, Field(description="raw Ed25519 public key, base64")]
    identity: Annotated[str, Field(description="what IKE calls it")]


class Held(BaseModel):
    """A document that a host holds until root accepts it."""

    order: _Order
    why: Annotated[str, Field(max_length=2000)]


class Heartbeat(BaseModel):
    """How a host is."""

    applied: _Order
    seen: _Order
    held: Held | None = None
    refused: Annotated[str, Field(max_length=2000)] | None = None
    status: dict[str, Any] = {}
    version: _Version = ""
    time: Annotated[float, Field(allow_inf_nan=False)]
    changed: Annotated[bool, Field(description="whom it reaches, or whether it can carry, is not as it said last")] = (
        False
    )


class Heard(BaseModel):
    """What a host is told for its heartbeat."""

    time: float
    newest: Order


@router.post("/v1/join", status_code=201, operation_id="join", responses=problems(400, 401, 409, 413, 422, 429, 503))
async def join(control: Controller, body: Join) -> Certificates:
    joining = Joining(body.kind, body.name, body.link_csr, body.ike_csr, body.inner, body.outer, body.members)
    return Certificates(**await control.desk.join(body.token, joining, control.wall()))


@router.post("/v1/renew", operation_id="renew", responses=problems(400, 401, 403, 409, 413, 422, 429, 503))
async def renew(control: Controller, link: Link, body: Renew) -> Certificates:
    return Certificates(**await control.desk.renew_certificates(link, body.link_csr, body.ike_csr, control.wall()))


@router.post("/v1/heartbeat", operation_id="heartbeat", responses=problems(400, 401, 403, 413, 422, 429, 503))
async def heartbeat(control: Controller, link: Link, body: Heartbeat) -> Heard:
    newest, now = control.desk.newest, control.wall()
    why = (body.held.why if body.held else body.refused) or ""
    skew_s = min(max(body.time - now, -SKEW_MAX_S), SKEW_MAX_S)
    beat = Beat(
        control.clock(), body.applied, body.seen, body.held.order if body.held else None,
        line_of(why, TEXT_MAX), body.status, line_of(body.version, TEXT_MAX), skew_s,
    )  # fmt: skip
    control.watch.hear(link.name, beat, newest, now)
    control.flows.hear(link.name, body.status, beat.at, now)
    if body.changed:
        control.hurry.tell()
    return Heard(time=now, newest=newest)


@router.get(
    "/v1/crl",
    operation_id="crl",
    response_class=Response,
    responses={**problems(503), 200: {"content": {"application/x-pem-file": {}}}},
)
async def crl(control: Controller) -> Response:
    """Give the lists of revoked certificates; whoever asks, since they are signed and no secret."""
    _ = control.desk.newest
    return Response(control.desk.crl, media_type="application/x-pem-file")


@router.get(
    "/v1/desired",
    operation_id="desired",
    response_class=StreamingResponse,
    responses={**problems(401, 403, 422, 429, 503), 200: {"content": {"application/x-ndjson": {}}}},
)
async def desired(
    control: Controller,
    link: Link,
    term: Annotated[int, Query(ge=0, le=_NUMBER_MAX)] = 0,
    generation: Annotated[int, Query(ge=0, le=_NUMBER_MAX)] = 0,
) -> StreamingResponse:
    """Stream the host's documents that are newer, a line each, and an empty line every 2 s."""
    return StreamingResponse(_documents(control, link, (term, generation)), media_type="application/x-ndjson")


async def _documents(control: Control, link: Host, known: Order) -> AsyncIterator[bytes]:
    """The documents of a host, for as long as it may have them and this controller leads."""
    while not control.stopping:
        try:
            newest = control.desk.newest
        except LeaderlessError:
            return
        if (link.kind, link.name) not in control.desk.hosts or link.serial in control.desk.records.revoked:
            return
        if newest > known:
            known = newest
            yield control.desk.document(link.name)
        elif not await control.desk.news(EMPTY_LINE_S):
            yield b"\n"
