"""`fwd join`: make this host known to a controller, and keep what it gives in a directory for root alone.

    token's pin ──▶ the CA, out of the controller's own chain ──▶ TLS that is believed ──▶ token, two requests (CSR)
    certificates, CAs, the key that signs documents ──▶ the directory, whole, by one rename

All keys are made here, and leave this host never: link's, and of a gateway keyd's. They lie beside the directory until
the host has joined, so that a second attempt, after an answer that was lost, asks with the same keys, for which the
token is good.
Refused, as UserError of one line: whatever is wrong with URL, token, directory or answer; then nothing has changed.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import re
import select
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from fwd import __version__
from fwd.files import read_secret, sync
from fwd.link.directory import ABOUT, CA, DOCUMENT_KEY, IKE, LINK, About, put
from fwd.link.http import Connection, FailedError, Reply, context_of, refusal_in
from fwd.link.kept import FILES
from fwd.link.place import Place, place_in
from fwd.proto.errors import UserError

CONNECT_S: Final = 10.0
ANSWER_S: Final = 30.0
_ANSWER_BYTES_MAX: Final = 1 << 20
_TOKEN: Final = re.compile(r"fwd1\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})")
_TOKEN_BYTES_MAX: Final = 4096
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_EXCHANGE, _AT_FDCWD = 2, -100  # RENAME_EXCHANGE
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Token:
    """What `fwd token create` has shown: a secret, and the SHA-256 of the CA's certificate."""

    secret: str
    pin: str


@dataclass(frozen=True)
class Wish:
    """What this host says of itself."""

    name: str
    inner: Sequence[str] = ()
    outer: Sequence[str] = ()
    members: int | None = None
    kind: Literal["gateway", "router"] = "gateway"

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it has: a router speaks no IKE."""
        return (LINK, IKE) if self.kind == "gateway" else (LINK,)


def join(url: str, token_file: Path, wish: Wish, directory: Path, *, again: bool = False) -> str:
    """Join; returns one line for the user. Raises UserError."""
    try:
        place = place_in(url)
    except ValueError as error:
        raise UserError(str(error)) from None
    if not _NAME.fullmatch(wish.name):
        raise UserError(f"--name {wish.name!r}: expected 1 to 32 small letters, digits and dashes, and no dash first")
    token = _token_in(token_file)
    try:
        is_taken = directory.exists() and any(directory.iterdir())
    except OSError as error:
        raise UserError(f"{directory}: keys cannot be kept here: {error.strerror}") from None
    if is_taken and not again:
        raise UserError(f"{directory}: this host has joined already: --again to join anew, with other keys")

    # Keys first: a second attempt after one that has failed half-way has the same.
    keys = _keys(directory.with_name(f".{directory.name}.joining"), wish.keys)
    requests = {name: _request(key, wish.name) for name, key in keys.items()}
    try:
        answer = _ask(place, token, wish, requests)
    except FailedError as error:
        raise UserError(f"{url}: {error}") from None
    files = _files_of(answer, About(url, "", "", ""), token, keys, requests)
    _install(directory, files)
    about = json.loads(files[ABOUT])
    kind = "" if wish.kind == "gateway" else f"{wish.kind} "
    return f"{directory}: joined {url} as {kind}{about['name']}"


# -- token and keys ---------------------------------------------------------------------------------------------------


def _token_in(path: Path) -> Token:
    data = read_secret(path, "token", _TOKEN_BYTES_MAX)
    match = _TOKEN.fullmatch(data.decode("ascii", errors="replace").strip())
    if match is None:
        raise UserError(f"{path}: no host's token: expected one line, fwd1.SECRET.PIN, as `fwd token create` shows it")
    return Token(match[1], match[2])


def _keys(staged: Path, names: Sequence[str]) -> dict[str, ec.EllipticCurvePrivateKey]:
    """Make all keys, or take those of an attempt before."""
    found = {}
    try:
        staged.mkdir(mode=0o700, parents=True, exist_ok=True)
        if staged.stat().st_uid != os.geteuid() or staged.stat().st_mode & 0o077:
            raise UserError(f"{staged}: others have it open: remove it")
        for name in names:
            path = staged / f"{name}.key"
            key = _read_key(path)
            if key is None:
                key = ec.generate_private_key(ec.SECP256R1())
                put(staged, path.name, _key_pem(key))
            found[name] = key
    except OSError as error:
        raise UserError(f"{staged}: keys cannot be kept here: {error.strerror}") from None
    return found


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


# -- the controller ---------------------------------------------------------------------------------------------------


def _ask(place: Place, token: Token, wish: Wish, requests: dict[str, str]) -> dict[str, Any]:
    """Join, by TLS that the token's pin has made believable. Raises FailedError."""
    address, ca = _pinned(place, token.pin)
    body = {
        "token": token.secret, "kind": wish.kind, "name": wish.name, "link_csr": requests[LINK],
        "ike_csr": requests.get(IKE), "inner": list(wish.inner),
        "outer": list(wish.outer), "members": wish.members, "version": __version__,
    }  # fmt: skip

    # The CA that the pin has proved is the only one that is believed; TLS takes it from a file.
    try:
        with tempfile.NamedTemporaryFile("wb") as file:
            file.write(ca.public_bytes(Encoding.PEM))
            file.flush()
            context = context_of(file.name)
    except OSError as error:
        raise UserError(f"a file for a moment cannot be written: {error.strerror}: is there room in /tmp?") from None

    # The token is used up by this: what comes back is either the host's certificates or the reason why not.
    connection = Connection(place, context)
    connection.request(address, "POST", "/v1/join", json.dumps(body).encode())
    reply = _answered(connection)
    if reply.status != 201:
        raise FailedError(refusal_in(reply))
    try:
        answer = json.loads(reply.pieces)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise FailedError("an answer of another form: is the controller newer than this fwd?")
    return answer


def _answered(connection: Connection) -> Reply:
    deadline = time.monotonic() + ANSWER_S
    while connection.is_busy and time.monotonic() < deadline:
        if (waits := connection.waits_for) is not None:
            poll = select.poll()
            poll.register(*waits)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        connection.turn()
        if connection.reply is not None and len(connection.reply.pieces) > _ANSWER_BYTES_MAX:
            raise FailedError("an answer of more octets than any has")
    reply = connection.reply
    connection.close()
    if reply is None or not reply.is_whole:
        raise FailedError(f"no answer within {ANSWER_S:.0f} s")
    return reply


def _pinned(place: Place, pin: str) -> tuple[str, x509.Certificate]:
    """Find the CA that the token means in the controller's chain; and the address that has answered."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is sent by this connection
    try:
        with (
            socket.create_connection((place.host, place.port), CONNECT_S) as plain,
            context.wrap_socket(plain, server_hostname=place.host) as sock,
        ):
            address, chain = sock.getpeername()[0], _chain_of(sock)
    except ssl.SSLError as error:
        raise FailedError(f"TLS: {error.reason or error}") from None
    except (OSError, UnicodeError) as error:
        raise FailedError(getattr(error, "strerror", None) or str(error) or "no answer") from None
    for data in chain:
        try:
            one = x509.load_der_x509_certificate(data)
        except ValueError:
            continue
        if one.fingerprint(hashes.SHA256()).hex() == pin:
            return address, one
    raise FailedError("this is not the controller that the token is of: its chain has no CA of the token's SHA-256")


def _chain_of(sock: ssl.SSLSocket) -> list[bytes]:
    """Return the certificates that the peer has shown, in DER; a method of its own has Python from 3.13 on."""
    own = getattr(sock, "get_unverified_chain", None)
    if own is not None:
        return list(own())
    return [one.public_bytes(2) for one in sock._sslobj.get_unverified_chain()]  # type: ignore[attr-defined]  # 2: DER


# -- the directory ----------------------------------------------------------------------------------------------------


def _files_of(
    answer: dict[str, Any], about: About, token: Token, keys: dict[str, ec.EllipticCurvePrivateKey],
    requests: dict[str, str],
) -> dict[str, bytes]:  # fmt: skip
    """Return what the directory is to hold. Raises UserError for an answer that cannot be used."""
    try:
        found = About(about.url, str(answer["cluster_id"]), str(answer["name"]), str(answer["identity"]))
        key = base64.b64decode(answer["document_key"], validate=True)
        Ed25519PublicKey.from_public_bytes(key)
        bundle = str(answer["ca_bundle"]).encode()
        authorities = x509.load_pem_x509_certificates(bundle)
        if token.pin not in {one.fingerprint(hashes.SHA256()).hex() for one in authorities}:
            raise ValueError("a bundle without the CA that the token is of")
        files = {ABOUT: json.dumps(asdict(found)).encode(), CA: bundle, DOCUMENT_KEY: base64.b64encode(key) + b"\n"}
        for name in keys:
            text = answer[f"{name}_certificate"]
            certificate = x509.load_pem_x509_certificate(str(text).encode())
            if certificate.public_key() != keys[name].public_key():
                raise ValueError(f"a certificate of {name}'s that is for another key")
            files |= {f"{name}.pem": str(text).encode(), f"{name}.key": _key_pem(keys[name])}
            files[f"{name}.csr"] = requests[name].encode()
    except (ValueError, TypeError, KeyError) as error:
        why = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{about.url}: its answer cannot be used: {why}") from None
    return files


def _install(directory: Path, files: dict[str, bytes]) -> None:
    """Have them in the directory, all or none. What was kept of the same controller's documents stays."""
    staged, new = directory.with_name(f".{directory.name}.joining"), directory.with_name(f".{directory.name}.new")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        for name, data in files.items():
            put(new, name, data)
        if _is_same(directory, files):
            for name in FILES:
                if (directory / name).is_file():
                    put(new, name, (directory / name).read_bytes())
        if directory.exists():
            _exchange(new, directory)
            shutil.rmtree(new, ignore_errors=True)
        else:
            new.rename(directory)
        sync(directory.parent)
        shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{error.filename or directory}: cannot be written: {error.strerror}") from None


def _is_same(directory: Path, files: dict[str, bytes]) -> bool:
    """Whether the host was joined to this controller, by the same name."""
    try:
        before = json.loads((directory / ABOUT).read_bytes())["name"]
        key = (directory / DOCUMENT_KEY).read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(key == files[DOCUMENT_KEY] and before == json.loads(files[ABOUT])["name"])


def _exchange(one: Path, other: Path) -> None:
    """Let two directories have each other's names, at once."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(other))
    # A file system that cannot: for a moment there is none.
    before = other.with_name(f".{other.name}.before")
    other.rename(before)
    one.rename(other)
    before.rename(one)
