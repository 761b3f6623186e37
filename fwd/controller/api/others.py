"""Routes of what is no object of the fleet: tokens, pairs, events, operations, recovery; health and metrics."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from fwd.controller import tokens
from fwd.controller.api import answers, shown
from fwd.controller.api.answers import READING, WRITING, Authorities, Listed, problems
from fwd.controller.api.asked import Admin, Controller, DryRun, Viewer
from fwd.controller.api.metrics import metrics_of
from fwd.controller.ca import pin
from fwd.controller.changes import RefusedError
from fwd.controller.desk import Asked
from fwd.model.fleet import Name

_NAMES_CHARS_MAX = 200
router = APIRouter()
_Path = Annotated[str, Path(max_length=64)]


class TokenWanted(BaseModel):
    """A token to be made: of a host that joins (`vpc`), or of a bearer."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[Name | None, Field(description="by default one is drawn")] = None
    role: Annotated[Literal["join", "viewer", "admin"], Field(description="join: for one host, once, for an hour")] = (
        "join"
    )
    vpc: Annotated[Name | None, Field(description="of the host that joins")] = None
    kind: Annotated[tokens.Host | None, Field(description="what the host joins as; by default a gateway")] = None
    replaces: Annotated[
        Name | None, Field(description="one that has joined, built anew: the certificates before are revoked")
    ] = None


class TokenMade(BaseModel):
    """A token that was made. `token`: its text, which is shown this once."""

    token: str
    name: str
    role: str
    operation: str


@router.post("/v1/tokens", operation_id="create_token", tags=["tokens"], responses=problems(*WRITING))
async def create_token(control: Controller, admin: Admin, body: TokenWanted) -> TokenMade:
    now, name = control.wall(), body.name or ""
    if (body.role == "join") != (body.vpc is not None):
        raise RefusedError(
            "token: give a vpc for a host that joins with it, or the role viewer or admin for a bearer, not both"
        )
    if body.vpc is None and (body.kind or body.replaces):
        raise RefusedError("token: one that a host joins with has a kind or replaces a host, and a bearer's does not")
    if body.vpc is not None:
        ca = control.desk.keys.authority.certificate
        text, kept = tokens.new_join_token(
            body.vpc, pin(ca), now, name, kind=body.kind or "gateway", replaces=body.replaces or ""
        )
    else:
        text, kept = tokens.new_bearer_token(body.role, now, name)
    made = await control.desk.put_token(Asked(admin.name, "create", "token", kept.name, now), kept)
    return TokenMade(token=text, name=kept.name, role=kept.role, operation=made.id)


@router.get("/v1/tokens", operation_id="list_token", tags=["tokens"], responses=problems(*READING))
async def list_tokens(control: Controller, viewer: Viewer) -> Listed:
    now = control.wall()
    return Listed(items=[shown.token(one, now) for one in control.desk.records.tokens.values()])


@router.get("/v1/tokens/{name}", operation_id="show_token", tags=["tokens"], responses=problems(*READING))
async def show_token(control: Controller, viewer: Viewer, name: _Path) -> dict[str, Any]:
    one = control.desk.records.tokens.get(name)
    if one is None:
        raise RefusedError(f"there is no token {name}", missing=True)
    return shown.token(one, control.wall())


@router.delete("/v1/tokens/{name}", operation_id="delete_token", tags=["tokens"], responses=problems(*WRITING))
async def delete_token(control: Controller, admin: Admin, name: _Path) -> answers.Changed:
    made = await control.desk.drop_token(Asked(admin.name, "delete", "token", name, control.wall()))
    return answers.Changed(dry_run=False, plan=[], operation=made.id, object=None)


@router.get("/v1/pairs", operation_id="list_pair", tags=["pairs"], responses=problems(*READING))
async def list_pairs(control: Controller, viewer: Viewer) -> answers.Pairs:
    return answers.Pairs(items=[shown.pair(control, one) for one in control.desk.kept.pairs])


@router.get("/v1/events", operation_id="list_event", tags=["events"], responses=problems(*READING))
async def list_events(
    control: Controller,
    viewer: Viewer,
    after: Annotated[int, Query(ge=0, le=2**63 - 1, description="the number of the last one that is known")] = 0,
) -> answers.Events:
    found = [one for one in control.happened.events if one.number > after]
    return answers.Events(
        items=[
            answers.Happened(number=one.number, at=one.at, what=one.what, host=one.host, text=one.text) for one in found
        ]
    )


@router.get("/v1/operations", operation_id="list_operation", tags=["operations"], responses=problems(*READING))
async def list_operations(control: Controller, viewer: Viewer) -> answers.Operations:
    found = sorted(control.desk.records.operations.values(), key=lambda one: one.id, reverse=True)
    return answers.Operations(items=[shown.operation(control, one) for one in found])


@router.get("/v1/operations/{id}", operation_id="show_operation", tags=["operations"], responses=problems(*READING))
async def show_operation(control: Controller, viewer: Viewer, id: _Path) -> answers.Operation:
    one = control.desk.records.operations.get(id)
    if one is None:
        raise RefusedError(f"there is no operation {id}: the last ones are kept", missing=True)
    return shown.operation(control, one)


@router.get("/v1/controller", operation_id="controller", tags=["controller"], responses=problems(*READING))
async def standing(control: Controller, viewer: Viewer) -> answers.Standing:
    """Say whether this controller leads, and which one does."""
    return shown.standing(control)


@router.get("/v1/authorities", operation_id="authorities", tags=["controller"], responses=problems(*READING))
async def authorities(control: Controller, viewer: Viewer) -> Authorities:
    """Say which CAs hosts are told to trust, and who has yet to hear of them."""
    return shown.authorities(control)


@router.post("/v1/recover", operation_id="recover", tags=["controller"], responses=problems(*WRITING))
async def recover(control: Controller, admin: Admin) -> answers.Changed:
    """Begin an epoch above all that hosts have seen: after an older store was put back."""
    seen = {host: max(beat.seen, beat.applied) for host, beat in control.watch.beats.items()}
    asked = Asked(admin.name, "recover", "controller", "store", control.wall())
    made = await control.desk.recover(asked, seen)
    return answers.Changed(dry_run=False, plan=[], operation=made.id, object=None)


class UpgradeWanted(BaseModel):
    """Gateways to be upgraded, one after another in this order."""

    model_config = ConfigDict(extra="forbid")
    gateways: Annotated[list[Name], Field(min_length=1, max_length=256)]


@router.post("/v1/upgrade", status_code=202, operation_id="upgrade", tags=["controller"], responses=problems(*WRITING))
async def upgrade(control: Controller, admin: Admin, body: UpgradeWanted, dry_run: DryRun = False) -> answers.Changed:
    """Begin to upgrade gateways: each is drained, upgraded, and goes back into service, until one fails."""
    _ = control.desk.newest
    if control.upgrading is None:
        raise RefusedError("this controller upgrades nothing", conflict=True)
    if dry_run:
        return answers.Changed(dry_run=True, plan=control.upgrading.plan(body.gateways), operation=None, object=None)
    asked = Asked(admin.name, "upgrade", "gateway", ",".join(body.gateways)[:_NAMES_CHARS_MAX], control.wall())
    made = await control.upgrading.begin(asked, body.gateways)
    return answers.Changed(dry_run=False, plan=list(made.plan), operation=made.id, object=None)


@router.get("/healthz", tags=["controller"], operation_id="healthz", responses=problems(503))
async def healthz(control: Controller) -> dict[str, bool]:
    """Say whether this controller leads and its store takes what is written; no token is needed."""
    await control.try_writer()
    return {"leading": True}


@router.get(
    "/metrics", tags=["controller"], operation_id="metrics", response_class=Response,
    responses={**problems(*READING), 200: {"content": {"text/plain": {}}}},
)  # fmt: skip
async def metrics(control: Controller, viewer: Viewer) -> Response:
    return Response(metrics_of(control), media_type="text/plain; version=0.0.4; charset=utf-8")
