"""The application: all routes of the controller, over one `Control`."""

from __future__ import annotations

from fastapi import FastAPI

from fwd import __version__
from fwd.controller.api import hosts, others
from fwd.controller.api.answers import handle_errors
from fwd.controller.api.asked import Doors
from fwd.controller.api.objects import router_of
from fwd.controller.changes import KINDS
from fwd.controller.control import Control
from fwd.controller.page import routes as page


def application(control: Control) -> FastAPI:
    """Make the application of a controller."""
    app = FastAPI(
        title="fwd controller", version=__version__, openapi_url="/v1/openapi.json", docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.control = control
    for kind in KINDS:
        app.include_router(router_of(kind))
    app.include_router(others.router)
    app.include_router(hosts.router)
    handle_errors(app)
    page.attach(app)
    app.add_middleware(Doors, tell=page.tell)
    return app
