"""The process that speaks with the controller, and nothing else: it has a TLS connection, and shared words.

    controller ──desired (a stream)──▶ the mailbox of documents ──▶ a process that examines them (supervise/checking.py)
    what became of them, the gateway's status ──heartbeat, once a second──▶ controller
                                                (and at once, if whom it reaches has changed: urgent.py)
    controller ──renew, at half of a certificate's life──▶ the mailbox of certificates

It believes nothing and decides nothing: whoever takes it over can hand over what the controller has signed, or keep it
back. All it keeps is of a fixed size, however long the controller is away: the newest document, one answer, two times.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import select
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, NoReturn

from fwd.datapath.shared import GatewayShared
from fwd.link.directory import CA, IKE, LINK, Directory
from fwd.link.document import BYTES_MAX
from fwd.link.http import Connection, FailedError, Reply, context_of, refusal_in
from fwd.link.place import Place, place_in
from fwd.link.urgent import standing_in
from fwd.model.linked import BACKDATED_S, News, Told, Validity, news_in, order_in
from fwd.proto.logged import event

BEAT_S: Final = 1.0  # between two heartbeats, and between two that come before their time
ANSWER_S: Final = 5.0  # for a whole answer
SILENCE_S: Final = 10.0  # of the stream, in which an empty line comes every 2 s
FIRST_S, LONGEST_S = 0.5, 4.0  # between two attempts: whoever was away for long is heard by all in 5 s
HALF: Final = 0.5  # of a certificate's life, when it is renewed
AGAIN: Final = 0.02  # of a life, between two attempts to renew
AGAIN_S: Final = (1.0, 600.0)  # and no more often or seldom than that
STALLED_S: Final = 5.0  # without a turn of who has forked link: its words are not passed on any more
_ANSWER_BYTES_MAX: Final = 1 << 18
_TURN_S: Final = 0.25
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinkParts:
    """What the process is forked with. `connect`: makes a connection; `requests`: for renewal, made by `fwd join`."""

    shared: GatewayShared
    url: str
    version: str
    connect: Callable[[Place], Connection]
    requests: dict[str, str | None]


class Patience:
    """When to try again: full jitter, so that those who lost a controller at once do not come back at once."""

    def __init__(self, draw: Callable[[float, float], float] = random.uniform) -> None:
        self._draw = draw
        self._longest_s = FIRST_S
        self.due_at = 0.0

    def failed(self, now: float) -> None:
        """Wait, the longer the more attempts have failed."""
        self.due_at = now + max(FIRST_S, self._draw(0.0, self._longest_s))
        self._longest_s = min(2 * self._longest_s, LONGEST_S)

    def succeeded(self) -> None:
        """Begin anew with short waits."""
        self._longest_s, self.due_at = FIRST_S, 0.0


def renewal_at(validity: Validity) -> float:
    """When a certificate is to be renewed, in seconds since 1970: it was issued some time after it begins."""
    return validity.ends - HALF * _life_s(validity)


def again_s(validity: Validity) -> float:
    """How long after an attempt to renew that the next one is."""
    least, most = AGAIN_S
    return min(max(AGAIN * _life_s(validity), least), most)


def _life_s(validity: Validity) -> float:
    whole_s = validity.ends - validity.begins
    return whole_s - BACKDATED_S if whole_s > BACKDATED_S else whole_s


def parts_of(directory: Directory, shared: GatewayShared, version: str) -> LinkParts:
    """Read what link is to have of the directory: for root, before it gives that up. Raises UserError, and OSError."""
    path = directory.path
    context = context_of(str(path / CA), str(path / f"{LINK}.pem"), str(path / f"{LINK}.key"))
    files = {"link_csr": f"{LINK}.csr", "ike_csr": f"{IKE}.csr"}
    requests = {word: directory.octets(name).decode() for word, name in files.items() if (path / name).exists()}
    connect = partial(Connection, context=context)
    return LinkParts(shared, directory.about().url, version, connect, {"ike_csr": None, **requests})


def run(parts: LinkParts) -> NoReturn:
    """Be link until the process is ended."""
    link = Link(parts)
    while True:
        link.turn()


class Link:
    """The loop's state: one connection for what is asked, one for the stream."""

    def __init__(self, parts: LinkParts) -> None:
        self._parts = parts
        self._shared = parts.shared
        self._heartbeat = parts.shared.link.heartbeat
        place = place_in(parts.url)
        self._asks, self._stream = parts.connect(place), parts.connect(place)
        self._patience, self._stream_patience = Patience(), Patience()
        self._is_renewing = self._has_beaten = False
        self._until = self._stream_until = 0.0  # when an answer is late
        self._beat_at = self._hurry_at = self._renew_at = 0.0
        self._status: object = {}  # as of `_summed`, a version of the board
        self._summed = -1
        self._standing = self._told_standing = standing_in({})
        self._line = bytearray()  # of the stream, what has come of it
        self._told = Told()
        self._logged = ""
        self._seen = -1
        self._news = News()
        self._turns = 0

    def turn(self) -> None:
        """Do what is due, and wait for what comes."""
        now = time.monotonic()
        self._heartbeat[0] = time.monotonic_ns()
        self._shared.follow_log_level()
        self._hear()
        self._apart(self._turn_asks, now, asks=True)
        self._apart(self._turn_stream, now, asks=False)

        # What the next thing is that is due, or that comes.
        poll = select.poll()
        for one in (self._asks, self._stream):
            if one.waits_for is not None:
                poll.register(*one.waits_for)
        poll.poll(_TURN_S * 1000)

    def _hear(self) -> None:
        """Take what the supervisor tells, if it is new."""
        board = self._shared.troubles
        if self._seen != board.version:
            self._seen = board.version
            told = json.loads(board.get() or b"{}")
            self._news = news_in(told.get("controller")) or self._news
        summary = self._shared.summary
        if self._summed != summary.version:
            self._summed, self._status = summary.version, {}
            with contextlib.suppress(ValueError, RecursionError):
                self._status = json.loads(summary.get() or b"{}")
            self._standing = standing_in(self._status)

    def _apart(self, act: Callable[[float], None], now: float, *, asks: bool) -> None:
        """Do one connection's part; what goes wrong ends that connection, and is tried again."""
        try:
            act(now)
        except FailedError as error:
            connection, patience = (self._asks, self._patience) if asks else (self._stream, self._stream_patience)
            connection.close()
            patience.failed(now)
            self._tell(error=str(error), connected_at=None if asks else self._told.connected_at)

    def _address(self) -> str | None:
        """One of the controller's addresses; another one after each that failed."""
        addresses = self._news.addresses
        self._turns += 1
        return addresses[self._turns % len(addresses)] if addresses else None

    # -- what is asked ------------------------------------------------------------------------------------------------

    def _turn_asks(self, now: float) -> None:
        connection = self._asks
        connection.turn()
        if connection.is_busy and now > self._until:
            raise FailedError(f"no answer within {ANSWER_S:.0f} s")
        reply = connection.reply
        if reply is not None and len(reply.pieces) > _ANSWER_BYTES_MAX:
            raise FailedError("an answer of more octets than any has")
        if reply is not None and reply.is_whole:
            connection.reply = None
            self._answered(reply, now)
        # One thing at a time, and a heartbeat no sooner than it is due, or is urgent.
        is_urgent = self._has_beaten and self._standing != self._told_standing
        due_at = min(self._beat_at, self._hurry_at) if is_urgent else self._beat_at
        if not connection.is_busy and now >= max(due_at, self._patience.due_at):
            if now < self._beat_at:
                self._hurry_at = now + BEAT_S
            self._ask(now)

    def _ask(self, now: float) -> None:
        """Send what is due: a renewal, or a heartbeat."""
        address = self._address()
        if address is None:
            return
        self._until, self._beat_at = now + ANSWER_S, now + BEAT_S
        self._is_renewing = self._renewal_is_due(now)
        if self._is_renewing:
            self._asks.request(address, "POST", "/v1/renew", json.dumps(self._parts.requests).encode())
        else:
            self._asks.request(address, "POST", "/v1/heartbeat", json.dumps(self._beat()).encode())
            self._has_beaten = True

    def _renewal_is_due(self, now: float) -> bool:
        """Whether a certificate has half of its life behind it, and no attempt was made lately."""
        # A heartbeat's answer tells the CA's clock. Renewed before that, by a clock that is far ahead, link would be
        # started anew with the new certificates, and never come to more than the next renewal.
        if not self._has_beaten:
            return False
        lives = [one for one in (self._news.link, self._news.ike) if one is not None]
        due = [one for one in lives if time.time() + self._told.clock_s >= renewal_at(one)]  # by the CA's clock
        if not due or now < self._renew_at:
            return False
        self._renew_at = now + min(again_s(one) for one in due)
        return True

    def _beat(self) -> dict[str, Any]:
        news, status = self._news, self._status
        if self._shared.turned[0] and time.monotonic() - self._shared.turned[0] / 1e9 > STALLED_S:
            status = {"ready": False, "stalled": True, "waiting": ["what runs here has not gone on for a while"]}
        held = None if news.held is None else {"order": news.held, "why": news.held_why}
        changed, self._told_standing = self._standing != self._told_standing, self._standing
        return {
            "applied": news.applied, "seen": news.seen, "held": held, "refused": news.refused or None,
            "status": status, "version": self._parts.version, "time": time.time(), "changed": changed,
        }  # fmt: skip

    def _answered(self, reply: Reply, now: float) -> None:
        if reply.status != 200:
            raise FailedError(refusal_in(reply))
        try:
            answer = json.loads(reply.pieces)
            if self._is_renewing:
                pair = {name: answer[name] for name in ("link_certificate", "ike_certificate")}
                self._shared.certificates.put(json.dumps(pair).encode())
            else:
                newest, clock_s = order_in(answer["newest"]), float(answer["time"]) - time.time()
                self._tell(newest=newest, clock_s=round(clock_s, 1))
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
            raise FailedError("an answer of another form: is the controller newer than this gateway?") from None
        self._patience.succeeded()
        self._tell(connected_at=self._told.connected_at or now, heard_at=now)
        if self._stream_patience.due_at == 0.0:
            self._tell(error="")

    # -- the stream ---------------------------------------------------------------------------------------------------

    def _turn_stream(self, now: float) -> None:
        connection = self._stream

        # Ask for it, if it is time to.
        if connection.reply is None:
            if now >= self._stream_patience.due_at and (address := self._address()) is not None:
                term, generation = self._news.applied
                self._line.clear()
                self._stream_until = now + SILENCE_S
                connection.request(address, "GET", f"/v1/desired?term={term}&generation={generation}")
            return

        # Take what has come; it has no end but a fault.
        connection.turn()
        reply = connection.reply
        if reply is None:
            raise FailedError("the stream has ended")
        if reply.pieces and reply.status == 200:
            self._stream_until = now + SILENCE_S
            self._stream_patience.succeeded()
            self._read(reply)
        if reply.is_whole:
            raise FailedError("the stream has ended" if reply.status == 200 else refusal_in(reply))
        if len(reply.pieces) > _ANSWER_BYTES_MAX:
            raise FailedError("an answer of more octets than any has")
        if now > self._stream_until:
            raise FailedError(f"nothing has come by the stream for {SILENCE_S:.0f} s")

    def _read(self, reply: Reply) -> None:
        """Take whole lines out of the stream; the last document is the one that counts."""
        self._line += reply.pieces
        reply.pieces = b""
        *lines, rest = self._line.split(b"\n")
        if max(map(len, (*lines, rest))) > BYTES_MAX:
            raise FailedError("a line of more octets than any document has")
        for line in lines:
            if line.strip():
                self._shared.documents.put(bytes(line))
        self._line = bytearray(rest)

    # -- what is told -------------------------------------------------------------------------------------------------

    def _tell(self, **changes: Any) -> None:
        told = replace(self._told, **changes)
        if told.error != self._logged:
            self._logged = told.error
            if told.error:
                log.warning("the controller: %s; it is tried again", told.error, extra=event("controller.unreachable"))
            else:
                log.info("connected to the controller", extra=event("controller.connected"))
        if told != self._told:
            self._told = told
            self._shared.link_told.put(told.encode())
            self._shared.link_connected[0] = told.connected_at is not None
