"""The admin socket: what changes anything is asked of the supervisor itself, by root alone.

One request a connection, and one message a request (SOCK_SEQPACKET), so that none comes in halves. The supervisor waits
for nobody: a request has its size and its time, connections and requests a second are counted, others wait in the
kernel's queue, and who does not take an answer has none. An answer that would not fit into a message is shortened.
"""

from __future__ import annotations

import array
import json
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final

from fwd.proto.errors import UserError
from fwd.proto.ike.rate import Rate

REQUEST_BYTES_MAX: Final = 4096
REQUEST_S: Final = 1.0
ANSWER_S: Final = 30.0  # for what takes its time
VISITORS_MAX: Final = 8
ANSWER_BYTES_MAX: Final = 60_000  # two of them fit into a socket that nobody reads
PER_S, BURST = 5.0, 20.0  # requests
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid
_INT_BYTES: Final = array.array("i").itemsize
Json = dict[str, Any]


class RefusedError(UserError):
    """A request that is not carried out; its text is one line for who asks."""


@dataclass(frozen=True)
class Request:
    """What is wanted. `file`: a descriptor that came along; who obeys closes it."""

    command: str
    words: Json
    file: int | None = None

    def text(self, name: str) -> str:
        """Return one of its words. Raises RefusedError if that is no text."""
        word = self.words.get(name, "")
        if not isinstance(word, str):
            raise RefusedError(f"{name} is not a text")
        return word


Obey = Callable[[Request], Json | Iterator[Json | None]]  # at once; or bit by bit, None being not yet


class Admin:
    """Serves `listening`; what `user` asks for is done by `obey`, which raises RefusedError."""

    name = "admin"  # for troubles

    def __init__(self, listening: socket.socket, selector: selectors.BaseSelector, obey: Obey, user: int = 0) -> None:
        self._listening = listening
        self._selector = selector
        self._obey = obey
        self._user = user
        self._visitors: dict[Visitor, None] = {}
        self._rate = Rate(PER_S, BURST)
        self._is_open = False
        self._open()

    def wake(self) -> None:
        """Take in who has come, as long as there is room."""
        try:
            sock, _ = self._listening.accept()
        except OSError:  # gone again, or no descriptor left: the next turn tries anew
            return
        sock.setblocking(False)
        visitor = Visitor(self, sock, time.monotonic() + REQUEST_S)
        self._visitors[visitor] = None
        self._selector.register(sock, selectors.EVENT_READ, visitor)
        if len(self._visitors) >= VISITORS_MAX:
            self._selector.unregister(self._listening)
            self._is_open = False

    def turn(self, now: float) -> None:
        """Go on with those who wait for an answer, and dismiss those whose time is over."""
        for visitor in [one for one in self._visitors if one.answers is not None]:
            self._go_on(visitor)
        for visitor in [one for one in self._visitors if now > one.until]:
            self.dismiss(visitor)
        if not self._is_open and len(self._visitors) < VISITORS_MAX:
            self._open()

    @property
    def is_busy(self) -> bool:
        """Whether somebody waits for an answer: then every turn counts."""
        return any(one.answers is not None for one in self._visitors)

    def dismiss(self, visitor: Visitor) -> None:
        """Close a connection."""
        if visitor in self._visitors:
            del self._visitors[visitor]
            if visitor.answers is None:
                self._selector.unregister(visitor.sock)
            elif isinstance(visitor.answers, Generator):
                visitor.answers.close()
            visitor.sock.close()

    def serve(self, visitor: Visitor) -> None:
        """Do what has been asked for, and answer."""
        try:
            request = _heard(visitor.sock, self._user)
        except BlockingIOError:
            return
        except (RefusedError, OSError) as error:
            visitor.say({"error": str(error)})
            self.dismiss(visitor)
            return

        try:
            if not self._rate.allows(time.monotonic()):
                raise RefusedError(f"too many commands, more than {PER_S:g} a second: try again in a moment")
            said = self._obey(request)
        except RefusedError as error:
            said = {"error": str(error)}
        finally:
            if request.file is not None:
                os.close(request.file)
        if isinstance(said, dict):
            visitor.say(said)
            self.dismiss(visitor)
            return
        self._selector.unregister(visitor.sock)  # it is not heard any more
        visitor.answers, visitor.until = said, time.monotonic() + ANSWER_S

    def _go_on(self, visitor: Visitor) -> None:
        """Say what there is to say by now."""
        assert visitor.answers is not None
        try:
            said = next(visitor.answers)
        except StopIteration:
            self.dismiss(visitor)
        except RefusedError as error:
            visitor.say({"error": str(error)})
            self.dismiss(visitor)
        else:
            if said is not None:
                visitor.say(said)

    def close(self) -> None:
        """Dismiss everybody."""
        for visitor in list(self._visitors):
            self.dismiss(visitor)

    def _open(self) -> None:
        self._selector.register(self._listening, selectors.EVENT_READ, self)
        self._is_open = True


class Visitor:
    """A connection."""

    name = "admin"

    def __init__(self, admin: Admin, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self.answers: Iterator[Json | None] | None = None
        self._admin = admin

    def wake(self) -> None:
        """It has said something, or is gone."""
        self._admin.serve(self)

    def say(self, answer: Json) -> None:
        """Answer, if there is room: there is, unless it sends and never reads."""
        try:
            self.sock.send(encoded(answer))
        except OSError:
            self.until = 0.0


def encoded(answer: Json) -> bytes:
    """Return an answer as a message. What is too long for one is shortened: better a part than no answer."""
    data = json.dumps(answer).encode()
    for most in (600, 300, 150, 75, 30):
        if len(data) <= ANSWER_BYTES_MAX:
            break
        data = json.dumps(_shortened(answer, most)).encode()
    return data


def _shortened(thing: Any, most: int) -> Any:
    """No text of more characters, no list and no object of more entries; each says what is left out."""
    match thing:
        case str() if len(thing) > most:
            return f"{thing[:most]}… ({len(thing) - most} characters more)"
        case list():
            left_out = len(thing) - most
            return [*(_shortened(one, most) for one in thing[:most]), *([f"… {left_out} more"] if left_out > 0 else [])]
        case dict():
            left_out = len(thing) - most
            first = {key: _shortened(one, most) for key, one in list(thing.items())[:most]}
            return first | ({"…": f"{left_out} more"} if left_out > 0 else {})
        case _:
            return thing


def _heard(sock: socket.socket, user: int) -> Request:
    """Take the request that waits. Raises RefusedError, or OSError."""
    data, ancillary, flags, _ = sock.recvmsg(REQUEST_BYTES_MAX, socket.CMSG_SPACE(_INT_BYTES), socket.MSG_CMSG_CLOEXEC)

    # Descriptors are ours from here on, whatever the words say.
    fds = array.array("i")
    for level, kind, octets in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(octets[: len(octets) - len(octets) % _INT_BYTES])
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        if uid != user:
            raise RefusedError("this is for root alone")
        if flags & socket.MSG_TRUNC:
            raise RefusedError(f"request longer than {REQUEST_BYTES_MAX} bytes")
        if flags & socket.MSG_CTRUNC or len(fds) > 1:
            raise RefusedError("more than one descriptor")
        command, words = command_in(data)
    except RefusedError:
        for fd in fds:
            os.close(fd)
        raise
    return Request(command, words, fds[0] if fds else None)


def command_in(data: bytes) -> tuple[str, Json]:
    """Return a request's command and all its words. Raises RefusedError."""
    try:
        words = json.loads(data)
    except (ValueError, RecursionError):
        raise RefusedError("request is not JSON") from None
    command = words.get("command") if isinstance(words, dict) else None
    if not isinstance(command, str):
        raise RefusedError("request names no command")
    return command, words
