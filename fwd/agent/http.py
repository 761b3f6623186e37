"""The agent's HTTP: /metrics, /healthz and /readyz, parsed by http.server out of bytes that are already here.

No socket and no waiting: a request goes in, an answer comes out. One request a connection, GET and HEAD only;
http.server itself refuses everything else, by status code.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from typing import Any

from fwd import __version__
from fwd.agent.metrics import exposition
from fwd.model.status import Status

_TEXT = "text/plain; charset=utf-8"


def answer(request: bytes, status: Callable[[], Status]) -> bytes:
    """The whole answer to `request`, any bytes at all; `status` is called only if it is needed."""
    return _Handler(request, status).wfile.getvalue()


class _Handler(BaseHTTPRequestHandler):
    wfile: BytesIO

    def __init__(self, request: bytes, status: Callable[[], Status]) -> None:
        # Not the base's __init__, which wants a socket.
        self.rfile = BytesIO(request)
        self.wfile = BytesIO()
        self._status = status
        self.handle_one_request()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            body, content_type = exposition(self._status, self.headers.get("Accept", ""))
            self._send(HTTPStatus.OK, body, content_type)
        elif path == "/healthz":
            self._send(HTTPStatus.OK, b"ok\n", _TEXT)
        elif path == "/readyz":
            reasons = self._status().reasons
            lines = [f"{one.code}: {one.line}\n    {one.remedy}\n" for one in reasons]
            code = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
            self._send(code, ("".join(lines) or "ready\n").encode(), _TEXT)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"try /metrics, /healthz or /readyz\n", _TEXT)

    do_HEAD = do_GET  # noqa: N815

    def _send(self, code: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        """The Server header."""
        return f"fwd/{__version__}"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: whoever can reach the port could fill the disk."""
