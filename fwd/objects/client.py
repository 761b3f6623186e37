"""Ask a controller over HTTPS. Its URL, its CA and the bearer token come from the environment or a file, never from
the command line, where others can read them.

    FWD_CONTROLLER              its URL
    FWD_CONTROLLER_CA           the file of its CA's certificate; by default those that the system trusts
    FWD_CONTROLLER_TOKEN_FILE   the file of a bearer token, mode 0600; or FWD_CONTROLLER_TOKEN, the token itself
    FWD_CLIENT                  a file that says so: url, ca, token_file (TOML); by default ~/.config/fwd/client.toml,
                                and on the controller's own host the one that it writes

Raises UserError, one line, for whatever was not done.
"""

from __future__ import annotations

import json
import os
import ssl
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from fwd.agent.client import harmless
from fwd.files import open_secret, read_copy
from fwd.link.place import place_in
from fwd.proto.errors import UserError

_FILES: Final = ("~/.config/fwd/client.toml", "/var/lib/fwd/controller/client.toml")
_KEYS: Final = {
    "url": "FWD_CONTROLLER", "ca": "FWD_CONTROLLER_CA", "token_file": "FWD_CONTROLLER_TOKEN_FILE",
}  # fmt: skip
_TOKEN, _FILE = "FWD_CONTROLLER_TOKEN", "FWD_CLIENT"
_TIMEOUT_S: Final = 15.0  # for a connection, and for each piece of an answer
_ANSWER_S: Final = 60.0  # for all of an answer
_ANSWER_OCTETS_MAX: Final = 64 << 20
_TOKEN_BYTES_MAX: Final = 4096


class Client:
    """See the module."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        settings = _settings(environ)
        token = environ.get(_TOKEN, "") or _token(settings)
        try:
            context = ssl.create_default_context(cafile=settings.get("ca"))
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"{settings.get('ca')}: no CA's certificates: {error.strerror or error}") from None
        if not (token.isascii() and token.isprintable()):
            place = _TOKEN if environ.get(_TOKEN) else settings["token_file"]
            raise UserError(f"{place}: no bearer token, which is one line of ASCII")
        self._url, self._ca = settings["url"], settings.get("ca")
        try:
            self._http = httpx.Client(
                base_url=self._url, verify=context, timeout=_TIMEOUT_S, trust_env=False,
                headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            )  # fmt: skip
        except (httpx.InvalidURL, ValueError) as error:
            raise UserError(f"{self._url}: no URL: {error}") from None

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, params: Mapping[str, str] | None = None,
        if_match: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Return what the controller answers; `etag` is its own key of that."""
        headers = {"If-Match": if_match} if if_match else {}
        try:
            content = json.dumps(body, allow_nan=False).encode() if body is not None else None
        except ValueError:
            raise UserError("a number that is finite is needed: no nan, no inf") from None

        # Whoever answers may be no controller at all.
        try:
            with self._http.stream(method, path, content=content, params=params, headers=headers) as answer:
                data = _whole(answer)
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise UserError(f"{self._url}: {self._why(error)}") from None
        try:
            value = harmless(json.loads(data))
        except (ValueError, RecursionError):
            raise UserError(f"{self._url}: answers {answer.status_code}, and not as a controller does") from None

        # A refusal has its reason with it.
        if not answer.is_success:
            detail = value.get("detail") if isinstance(value, dict) else None
            raise UserError(str(detail or f"{self._url}: answers {answer.status_code}"))
        if not isinstance(value, dict):
            raise UserError(f"{self._url}: answers what no controller does")
        found = _Answer(self._url, value)
        if "ETag" in answer.headers:
            found["etag"] = answer.headers["ETag"]
        return found

    def _why(self, error: BaseException) -> str:
        """Say why there is no answer."""
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, ssl.SSLCertVerificationError):
                ca = f"{self._ca} vouches" if self._ca else "the system's CAs vouch"
                return f"not the controller for which {ca} (FWD_CONTROLLER_CA, `ca`): {link.verify_message}"
            link = link.__cause__ or link.__context__
        return f"no controller answers: {error or type(error).__name__}"


class _Answer(dict[str, Any]):
    """What a controller answers; a key that is not there is an error for the user."""

    def __init__(self, url: str, value: Mapping[str, Any]) -> None:
        super().__init__(value)
        self._url = url

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._url}: answers without `{key}`: is it a controller, and of this release?")


def _whole(answer: httpx.Response) -> bytes:
    """Read a body while it comes. Raises OSError for one that does not end."""
    until, data = time.monotonic() + _ANSWER_S, bytearray()
    for piece in answer.iter_bytes():
        data += piece
        if time.monotonic() > until:
            raise TimeoutError(f"not all of it within {_ANSWER_S:.0f} s")
        if len(data) > _ANSWER_OCTETS_MAX:
            raise OSError(f"more than {_ANSWER_OCTETS_MAX} octets")
    return bytes(data)


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Read where the controller is: the file's words, and over them the environment's."""
    named = environ.get(_FILE)
    places = [Path(named)] if named else [Path(one).expanduser() for one in _FILES]
    path = next((one for one in places if _is_there(one)), None) if not named else places[0]
    found = _file(path) if path is not None else {}
    found |= {key: environ[variable] for key, variable in _KEYS.items() if environ.get(variable)}
    if "url" not in found:
        raise UserError(
            f"where is the controller? Set FWD_CONTROLLER, or write `url` to {_FILES[0]}; on its own host it finds"
            " itself for the user that it runs as"
        )
    try:
        is_whole = not place_in(found["url"]).base
    except ValueError as error:
        raise UserError(str(error)) from None
    if not is_whole:
        raise UserError(f"{found['url']}: a controller's URL has no path: https://controller.example:8443")
    return found


def _is_there(path: Path) -> bool:
    """Whether there is such a file for who asks: a controller's own directory is its user's alone."""
    try:
        return path.is_file()
    except OSError:
        return False


def _file(path: Path) -> dict[str, str]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not TOML: {error}") from None
    if strange := sorted(set(found) - set(_KEYS)):
        raise UserError(f"{path}: {strange[0]}: unknown key: use {', '.join(_KEYS)}")
    if wrong := next((key for key, value in found.items() if not isinstance(value, str)), None):
        raise UserError(f"{path}: {wrong}: expected a text in quotes")
    return found


def _token(settings: Mapping[str, str]) -> str:
    if "token_file" not in settings:
        raise UserError("a bearer token is needed: FWD_CONTROLLER_TOKEN_FILE names its file")
    path = Path(settings["token_file"])
    fd = open_secret(path, "bearer token", _TOKEN_BYTES_MAX)
    try:
        return read_copy(fd).decode("ascii").strip()
    except UnicodeDecodeError:
        raise UserError(f"{path}: no bearer token, which is ASCII") from None
    finally:
        os.close(fd)
