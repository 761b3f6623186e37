"""A lab's controller as its admin asks it, over HTTPS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Final

import httpx

from fwd.lab.world import LabError

_TIMEOUT_S: Final = 15.0


class Api:
    """See the module. What the controller refuses, and that it does not answer, is a LabError."""

    def __init__(self, url: str, ca: Path, token_file: Path) -> None:
        self.url = url
        try:
            context = ssl.create_default_context(cafile=ca)
            self.token = token_file.read_text(encoding="ascii").strip()
        except OSError as error:
            raise LabError(f"the controller has written no {Path(error.filename or ca).name} yet") from None
        headers = {"Authorization": f"Bearer {self.token}"}
        self._http = httpx.Client(
            base_url=f"{url}/v1", verify=context, trust_env=False, timeout=_TIMEOUT_S, headers=headers
        )

    def ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """Return what it answers."""
        try:
            answer = self._http.request(method, f"/{path}", json=body)
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, OSError, ValueError) as error:
            raise LabError(
                f"{method} {path}: the controller does not answer: {error or type(error).__name__}"
            ) from None
        if not answer.is_success:
            raise LabError(f"{method} {path}: {found.get('detail', answer.status_code)}")
        return found

    def get(self, path: str) -> dict[str, Any]:
        """Return an object, or what there is of a kind."""
        return self.ask("GET", path)

    def items(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind."""
        found: list[dict[str, Any]] = self.get(kind)["items"]
        return found

    def create(self, kind: str, /, **body: Any) -> dict[str, Any]:
        """Create an object."""
        return self.ask("POST", kind, body)

    def change(self, kind: str, name: str, /, **body: Any) -> dict[str, Any]:
        """Change fields of an object."""
        return self.ask("PATCH", f"{kind}/{name}", body)

    def delete(self, kind: str, name: str) -> dict[str, Any]:
        """Delete an object."""
        return self.ask("DELETE", f"{kind}/{name}")

    def close(self) -> None:
        """End connections."""
        self._http.close()
