"""Takes secrets out of what goes into a support bundle: pure.

Of a configuration, what stands where a secret's path belongs and is no path is not shown. In every text, what looks
like a secret is replaced, and so is whatever the files of secrets hold, in each form in which it might stand there.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

GONE: Final = "[not shown]"
SECRETS: Final = re.compile(r"(?:.*_)?(?:secret|key|token|password|seed)(?:_file)?")  # keys of configurations
_BEHIND_HOST: Final = re.compile(r"(?<=\w)[/?#].*")  # of a URL: a webhook's may be a secret by itself
_COMMANDS: Final = re.compile(r".*_command")
_SHORTEST: Final = 6  # octets of a line of a secret's file that are looked for
_PEM_LINE: Final = b"-----"

_PATTERNS: Final = tuple(
    re.compile(one)
    for one in (
        r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        r"\bfwd[1b]\.[A-Za-z0-9._~+/=-]+",  # tokens of a controller
        r"(?i)(?<=bearer )\S+",
        r"(?<=://)[^/\s@]+(?=@)",  # of a URL
        r"\b(?:0x)?[0-9A-Fa-f]{32,}\b",  # keys in hexadecimal; an SPI is shorter
    )
)


def shown(value: Any, key: str = "") -> Any:
    """Return a configuration without what is secret: paths of secrets stay, and so does a command without arguments."""
    if isinstance(value, Mapping):
        found = {name: shown(one, name) for name, one in value.items()}
        return found | {"url": _host_of(str(value["url"]))} if key == "webhook" and "url" in value else found
    if SECRETS.fullmatch(key):
        return value if isinstance(value, str) and value.startswith("/") else GONE
    if isinstance(value, list):
        if _COMMANDS.fullmatch(key):
            return [*value[:1], *([GONE] if len(value) > 1 else [])]
        return [shown(one) for one in value]
    return value


def _host_of(url: str) -> str:
    """Return a URL without what follows its host."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{_BEHIND_HOST.sub(f'/{GONE}', rest)}"


def paths_in(value: Any, key: str = "") -> list[str]:
    """Return the paths of secrets that a configuration names."""
    if isinstance(value, Mapping):
        return [path for name, one in value.items() for path in paths_in(one, name)]
    if isinstance(value, list):
        return [path for one in value for path in paths_in(one, key)]
    return [value] if SECRETS.fullmatch(key) and isinstance(value, str) and value.startswith("/") else []


def forms_of(contents: Iterable[bytes]) -> list[str]:
    """Return how the contents of secrets' files may stand in a text: as they are, in JSON, hexadecimal and base64."""
    found: set[str] = set()
    for content in contents:
        pieces = [content, content.strip(), *(line.strip() for line in content.splitlines())]
        for piece in pieces:
            if len(piece) < _SHORTEST or piece.startswith(_PEM_LINE):
                continue
            text = piece.decode("utf-8", "replace")
            found |= {text, json.dumps(text)[1:-1], piece.hex(), base64.b64encode(piece).decode().rstrip("=")}
            if piece.startswith(b"0x"):
                found.add(piece[2:].decode("ascii", "replace"))
    return sorted(found, key=len, reverse=True)  # the whole before its parts


def clean(text: str, forms: Iterable[str]) -> str:
    """Return a text without secrets."""
    for one in forms:
        text = text.replace(one, GONE).replace(one.upper(), GONE)
    for pattern in _PATTERNS:
        text = pattern.sub(GONE, text)
    return text
