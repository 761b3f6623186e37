"""One HTTPS connection to the controller, for a loop of its own: nothing here waits, and everything has a limit.

    request ──▶ connect ──▶ TLS ──▶ HTTP/1.1 (h11) ──▶ status, pieces of the body, end

The loop asks which way the socket is waited for, calls `turn`, and takes what has come. Whatever goes wrong is one
FailedError with a line for the user; the connection is closed then, and the next request makes a new one.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Final

import h11

from fwd.link.place import Place

PIECE_BYTES: Final = 1 << 16
_PIECES_MAX: Final = 16  # in a turn
_CLOCK: Final = ("not yet valid", "has expired", "certificate is not yet valid", "certificate has expired")


class FailedError(Exception):
    """What went wrong, in one line."""


def context_of(ca_file: str, certificate: str | None = None, key: str | None = None) -> ssl.SSLContext:
    """Return what TLS needs: TLS 1.3, the controller's CAs alone, and this host's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(ca_file)
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


class _State(Enum):
    CLOSED = auto()
    CONNECTING = auto()
    SHAKING_HANDS = auto()
    OPEN = auto()


@dataclass
class Reply:
    """What has come of an answer so far. `pieces`: of its body, since they were taken last."""

    status: int = 0
    pieces: bytes = b""
    is_whole: bool = False


class Connection:
    """One connection at a time, one request at a time."""

    def __init__(self, place: Place, context: ssl.SSLContext) -> None:
        self._place = place
        self._context = context
        self._state = _State.CLOSED
        self._sock: socket.socket | None = None
        self._h11 = h11.Connection(h11.CLIENT)
        self._unsent = b""
        self._wants_write = False
        self.reply: Reply | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a request has not been answered wholly."""
        return self.reply is not None and not self.reply.is_whole

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor, and the events of poll that it waits for; None: there is nothing to wait for."""
        if self._sock is None:
            return None
        writes = self._state is _State.CONNECTING or self._wants_write or (self._unsent and self._state is _State.OPEN)
        return self._sock.fileno(), select.POLLOUT if writes else select.POLLIN

    def request(self, address: str, method: str, target: str, body: bytes | None = None) -> None:
        """Begin a request; by a new connection to `address`, if that of before is gone. Raises FailedError."""
        if self._state is _State.OPEN and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        elif self._state is not _State.OPEN or self._h11.our_state is not h11.IDLE:
            self._connect(address)
        headers = [("Host", self._place.authority), ("Accept-Encoding", "identity"), ("User-Agent", "fwd")]
        if body is not None:
            headers += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        self.reply = Reply()
        self._unsent += self._sent(h11.Request(method=method, target=self._place.base + target, headers=headers))
        self._unsent += self._sent(h11.Data(data=body)) if body else b""
        self._unsent += self._sent(h11.EndOfMessage())
        self.turn()

    def turn(self) -> None:
        """Go on as far as it goes without waiting. Raises FailedError."""
        try:
            self._go_on()
        except (ssl.SSLWantReadError, BlockingIOError):
            self._wants_write = False
        except ssl.SSLWantWriteError:
            self._wants_write = True
        except ssl.SSLCertVerificationError as error:
            self._fail(f"its certificate is not believed: {_certificate_fault(error)}")
        except ssl.SSLError as error:
            self._fail(f"TLS: {error.reason or error}")
        except h11.RemoteProtocolError as error:
            self._fail(f"what it answers is no HTTP: {error}")
        except OSError as error:
            self._fail(error.strerror or str(error))

    def close(self) -> None:
        """Close the connection; a request that is under way has no answer then."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._state, self._unsent, self.reply = None, _State.CLOSED, b"", None
        self._wants_write = False

    # -- steps --------------------------------------------------------------------------------------------------------

    def _connect(self, address: str) -> None:
        self.close()
        self._h11 = h11.Connection(h11.CLIENT)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._sock = socket.socket(family, socket.SOCK_STREAM)
            self._sock.setblocking(False)
            self._state = _State.CONNECTING
            self._sock.connect((address, self._place.port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(error.strerror or str(error))

    def _go_on(self) -> None:
        if self._state is _State.CONNECTING and not self._has_connected():
            return
        assert self._state is _State.CLOSED or isinstance(self._sock, ssl.SSLSocket)
        if self._state is _State.SHAKING_HANDS:
            self._sock.do_handshake()  # type: ignore[union-attr]
            self._state, self._wants_write = _State.OPEN, False
        if self._state is _State.OPEN:
            while self._unsent:
                self._unsent = self._unsent[self._sock.send(self._unsent[:PIECE_BYTES]) :]  # type: ignore[union-attr]
            self._receive()

    def _has_connected(self) -> bool:
        assert self._sock is not None
        if not _is_ready(self._sock, select.POLLOUT):
            return False
        if number := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(number, os.strerror(number))
        self._sock = self._context.wrap_socket(
            self._sock, server_hostname=self._place.host, do_handshake_on_connect=False
        )
        self._state = _State.SHAKING_HANDS
        return True

    def _receive(self) -> None:
        assert self._sock is not None
        for _ in range(_PIECES_MAX):
            data = self._sock.recv(PIECE_BYTES)
            self._h11.receive_data(data)
            for event in self._events():
                self._take(event)
            if not data:
                if self.is_busy:
                    self._fail("it has closed the connection")
                self.close_if_answered()
                return

    def close_if_answered(self) -> None:
        """Close the connection, and keep what was answered."""
        reply = self.reply
        self.close()
        self.reply = reply

    def _events(self) -> Iterator[object]:
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            yield event
            if isinstance(event, h11.ConnectionClosed):
                return

    def _take(self, event: object) -> None:
        reply = self.reply
        if reply is None:
            return
        if isinstance(event, h11.Response):
            reply.status = event.status_code
        elif isinstance(event, h11.Data):
            reply.pieces += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            reply.is_whole = True

    def _sent(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> bytes:
        return self._h11.send(event) or b""

    def _fail(self, why: str) -> None:
        self.close()
        raise FailedError(" ".join(why.split())[:300])


def _is_ready(sock: socket.socket, events: int) -> bool:
    poll = select.poll()
    poll.register(sock, events)
    return bool(poll.poll(0))


def _certificate_fault(error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with the controller's certificate; where times are, what this host's clock says."""
    text = error.verify_message or str(error)
    if any(one in text for one in _CLOCK):
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"{text}; is this host's clock right? It says {now}"
    return text


def refusal_in(reply: Reply) -> str:
    """Return why a request was refused, as one line."""
    try:
        detail = str(json.loads(reply.pieces)["detail"])
    except (ValueError, TypeError, KeyError, RecursionError):
        detail = ""
    shown = "".join(one if one.isprintable() else " " for one in detail[:300])
    return f"{reply.status}: {shown}" if shown else f"it answers {reply.status}"
