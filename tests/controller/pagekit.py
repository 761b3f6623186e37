"""Who looks at the dashboard as a browser does: with a cookie, and forms that say where they come from."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import httpx
from apikit import Api

from fwd.controller.api.asked import COOKIE

ORIGIN = "https://c.example"


class Browser:
    """See the module. `cookie`: the session's, once somebody has signed in."""

    def __init__(self, api: Api, cookie: str = "") -> None:
        self.api, self.cookie = api, cookie

    def get(self, path: str) -> httpx.Response:
        return self.api.ask("GET", path, token="", headers=self._headers())

    def send(self, path: str, fields: dict[str, str], origin: str | None = ORIGIN) -> httpx.Response:
        """Send a form."""
        headers = self._headers() | ({"Origin": origin} if origin is not None else {})
        return self.api.ask("POST", path, token="", headers=headers, data=fields)

    def sign_in(self, token: str, to: str = "/") -> httpx.Response:
        answer = self.send("/sign-in", {"token": token, "to": to})
        self.cookie = answer.cookies.get(COOKIE) or self.cookie
        self.api.http.cookies.clear()
        return answer

    def form_key(self) -> str:
        """What the forms of this session carry."""
        found = re.search(r'name="form_key" value="([0-9a-f]{64})"', self.get("/").text)
        assert found is not None
        return found[1]

    def _headers(self) -> dict[str, str]:
        return {"Cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}


class Tags(HTMLParser):
    """All elements of a page: their names and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
