"""Pages as text: Jinja2's environment, in which everything is escaped, and the headers that each answer has."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from fastapi.responses import HTMLResponse, JSONResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from fwd.controller.page.contents import Content
from fwd.controller.page.live import states_of

_POLICY: Final = "; ".join(
    (
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self'",
        "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'",
        "trusted-types fwd",  # page.js
    )
)  # fmt: skip
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, a browser would not say where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_UNITS: Final = ((1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s"))
_ENVIRONMENT: Final = Environment(
    loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip


def _static() -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in files(__package__).joinpath("static").iterdir() if one.is_file()}


STATIC: Final = _static()


def static_url(name: str) -> str:
    """Where a file is that pages need; another content is at another address, so browsers may keep it."""
    return f"/static/{hashlib.sha256(STATIC[name]).hexdigest()[:16]}/{name}"


def static(name: str) -> Response | None:
    """Answer with such a file; None: there is none."""
    if name not in STATIC:
        return None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return Response(STATIC[name], media_type=kind, headers={**HEADERS, "Cache-Control": "max-age=31536000, immutable"})


def page(template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values: Any) -> Response:
    """Answer with a page."""
    return HTMLResponse(rendered(template, **values), status, {**HEADERS, **(headers or {})})


def parts_of(content: Content, *, may_change: bool) -> dict[str, Markup]:
    """Render a page's parts, by name; `as_of` is another one each time."""
    fleet = content.fleet
    values = {
        **content.values, "title": content.title, "may_change": may_change,
        "fleet_at": fleet.at, "leading": fleet.leading, "leader": fleet.leader, "states": states_of(fleet),
    }  # fmt: skip
    names = ("title", "as_of", *content.parts, "states")
    return {name: Markup(rendered(f"part_{name}.html", **values)) for name in names}


def rendered(template: str, **values: Any) -> str:
    """Render a template."""
    return str(_ENVIRONMENT.get_template(template).render(values))


def as_json(value: Any, status: int = 200) -> Response:
    """Answer with a view as JSON."""
    return JSONResponse(json.loads(json.dumps(value, default=asdict)), status, headers=HEADERS)


def bits(value: float | None) -> str:
    """Write a rate."""
    if value is None:
        return "-"
    for size, unit in _UNITS:
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} bit/s"


def duration(seconds: int | None) -> str:
    """Write a time that something takes."""
    if seconds is None:
        return "-"
    for size, unit in ((2 * 86400, "d"), (2 * 3600, "h"), (180, "min")):
        if seconds >= size:
            return f"{seconds // {'d': 86400, 'h': 3600, 'min': 60}[unit]} {unit}"
    return f"{seconds} s"


def clock_time(at: float) -> str:
    """Write a time of day."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def moment(at: float) -> str:
    """Write a day and a time of day."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def iso(at: float) -> str:
    """Write a time whole."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def code(text: str) -> Markup:
    """Mark up what is between backticks."""
    parts = (
        escape(part) if n % 2 == 0 else Markup("<code>{}</code>").format(part) for n, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)


_ENVIRONMENT.filters |= {"code": code, "bits": bits, "duration": duration}
_ENVIRONMENT.filters |= {"clock_time": clock_time, "moment": moment, "iso": iso}
_ENVIRONMENT.globals |= {"static_url": static_url}
