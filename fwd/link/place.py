"""Where a controller is: its URL, taken apart."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Place:
    """A controller's URL, taken apart. `base`: the path before /v1."""

    host: str
    port: int
    base: str = ""

    @property
    def authority(self) -> str:
        """The host and port, as HTTP names them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"


def place_in(url: str) -> Place:
    """Read a URL. Raises ValueError, one line."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError:
        raise ValueError(f"{url[:200]!r} is no URL, such as https://controller.example:8443") from None
    if parts.scheme != "https" or not parts.hostname or parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{url[:200]!r}: expected a URL such as https://controller.example:8443, and no more in it")
    if not all(one.isascii() and one.isprintable() and one != " " for one in url):
        raise ValueError(f"{url[:200]!r} has characters that no URL has")
    return Place(parts.hostname, port, parts.path.rstrip("/"))
