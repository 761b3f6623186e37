"""TLS of the controller: its own certificate, and whose the client's is.

A client's certificate is optional in the handshake (who joins has none), must be of one of the CAs, and may be over:
the application holds its times, its grace and its revocation (roles.py), and says what is wrong with it. uvicorn does
not tell who the client is, so a protocol puts the certificate into each request's scope.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from uvicorn.protocols.http.h11_impl import H11Protocol

from fwd.controller import ca
from fwd.controller.api.asked import PEER
from fwd.controller.door import whence
from fwd.controller.keys import SERVER_PEM, Keys, server_key, write
from fwd.proto.errors import UserError

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME of OpenSSL
FIRST_S: Final = 5.0  # within which a connection asks something, and whoever has begun a request goes on with it
UNREAD_S: Final = 30.0  # within which one without a certificate reads an answer
STRANGER_CONNECTIONS_MAX: Final = 32  # of an address without a certificate
HOST_CONNECTIONS_MAX: Final = 4
LIFETIME_S: Final = ca.DAYS * 86400.0


class PeerProtocol(H11Protocol):
    """HTTP/1.1 whose requests have the client's certificate in their scope (`PEER`), or None.

    A connection on which nothing was asked is closed after FIRST_S, and so is one on which a request has begun and is
    not whole after twice that, or whose answer is not read. An address without a certificate has a few, and no more are
    made; of a host's, which may have lost one without its end, the oldest goes.
    """

    whose: bytes | str = ""
    began_at = 0.0
    _owed: tuple[str, object] | None = ("head", None)
    _owed_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        app: Any = self.config.loaded_app

        async def with_peer(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await app({**scope, PEER: certificate}, receive, send)

        self.app: Any = with_peer
        self._make_room(certificate)

    def _make_room(self, certificate: bytes | None) -> None:
        """Close what is too many of one host's, or of one address."""
        self.whose = certificate or (whence(self.client[0]) if self.client else "")
        self.began_at = self._owed_since = self.loop.time()
        self.loop.call_later(FIRST_S, self._look)
        same = sorted(
            (one for one in self.connections if getattr(one, "whose", None) == self.whose),
            key=lambda one: one.began_at,
        )
        if certificate is not None:
            for one in same[:-HOST_CONNECTIONS_MAX]:
                one.transport.abort()
        elif len(same) > STRANGER_CONNECTIONS_MAX:
            self.transport.abort()

    def _look(self) -> None:
        """Close the connection if the other end has owed the same for too long; else look again later."""
        if self not in self.connections:  # it is gone
            return
        owed, now = self._owes(), self.loop.time()
        if owed != self._owed:
            self._owed, self._owed_since = owed, now
        elif owed is not None and now - self._owed_since >= (UNREAD_S if owed[0] == "answer" else 0.9 * FIRST_S):
            self.transport.abort()
            return
        self.loop.call_later(FIRST_S, self._look)

    def _owes(self) -> tuple[str, object] | None:
        """What the other end owes, and of which request: a head, a body, or that it reads; None: nothing."""
        if self.cycle is None or self.cycle.response_complete:
            rests = self.timeout_keep_alive_task is not None  # uvicorn's own limit
            return None if rests else ("head", self.cycle)
        if self.cycle.more_body:
            return "body", self.cycle
        return ("answer", self.cycle) if self.flow.write_paused and isinstance(self.whose, str) else None


class Server:
    """The controller's TLS: one context, whose certificate is made anew while it is in use."""

    def __init__(self, directory: Path, keys: Keys, names: Sequence[str], now: float) -> None:
        """Make key, certificate and context. Raises UserError."""
        self._directory, self._keys, self._names = directory, keys, names
        self._key = server_key(directory)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
        self.context.load_verify_locations(cadata=ca.bundle(keys.trusted()).decode())
        self._renews_at = now
        self.renew(now)

    def renew(self, now: float) -> None:
        """Make the certificate anew if half of its life is over; key, certificate and CA are in one file."""
        if now < self._renews_at:
            return
        try:
            issued = ca.server_certificate(self._keys.authority, self._key.public_key(), self._names, now, LIFETIME_S)
        except ValueError as error:
            raise UserError(f"controller.names: {error}") from None
        key = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write(self._directory / SERVER_PEM, key + ca.pem(issued) + ca.bundle(self._keys.trusted()[:1]))
        self.context.load_cert_chain(self._directory / SERVER_PEM)
        self._renews_at = now + LIFETIME_S / 2
