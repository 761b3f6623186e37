"""One IKE SA: retransmission, encryption, and whose turn it is (RFC 7296 §2.1 to §2.4, §2.23).

What is said in the exchanges is in initial.py, exchanges.py and rekey.py, as *tasks*: `start` gives the payloads of a
request, `finish` takes those of its answer. One request is under way at a time (a window of 1), others wait. Requests
and answers are kept as datagrams: what is sent again is the same, bit by bit.

Nothing that has not authenticated changes anything. Refused: message ids outside the window, requests that this SA's
state does not allow. A message of the peer's own that breaks the format ends the SA (RFC 7296 §2.21.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fwd.proto.ike import numbers
from fwd.proto.ike.causes import By, Failure, failure_of
from fwd.proto.ike.channel import Channel
from fwd.proto.ike.child import Child
from fwd.proto.ike.crypto import IkeKeys, Suite
from fwd.proto.ike.events import (
    Address,
    ChildConfirmed,
    ChildDown,
    ChildUp,
    Connection,
    Datagram,
    ExchangeRefused,
    IkeDown,
    IkeUp,
    PeerFacts,
    Standing,
    World,
)
from fwd.proto.ike.limits import INIT_ERROR_S, MESSAGE_BYTES_STRANGER
from fwd.proto.ike.message import Assemblies, Fragment, Header
from fwd.proto.ike.mobility import PROBE_TRIES, Path, Probe, consider
from fwd.proto.ike.numbers import SPI_BYTES, Exchange, Flag, Notify, ProtocolError, Status
from fwd.proto.ike.payloads import AnyPayload, Delete, Notification, decode_chain, notify_for
from fwd.proto.ike.request import RETRANSMIT_S, TRIES_MAX, Request
from fwd.proto.ike.states import IKE_MOVES, State, Use, check_move
from fwd.proto.ike.task import Respond, Task
from fwd.proto.ike.tasks import Tasks
from fwd.proto.ike.window import Window

TRAFFIC_S: Final = 10.0  # a peer whose traffic came so lately is not given up
NO_SPI: Final = bytes(SPI_BYTES)


class IkeSa:
    """See the module. `local` and `remote` are where its messages go."""

    def __init__(
        self,
        world: World,
        connection: Connection,
        spis: tuple[bytes, bytes],
        remote: Address,
        respond: Respond,
        *,
        initiator: bool,
    ) -> None:
        """`spis`: the initiator's and the responder's, NO_SPI while it is not known."""
        self.world, self.respond, self.connection = world, respond, connection
        self.local, self.remote = connection.local, remote
        self.initiator = initiator
        self.spi_i, self.spi_r = spis

        # Its state, keys and Child SAs.
        self._state = State.CONNECTING
        self.keys: IkeKeys | None = None
        self.suite: Suite | None = None
        self.by = By.START if initiator else By.PEER  # by whom it was made
        self.children: dict[int, Child] = {}  # by our inbound SPI
        self.unconfirmed: list[Child] = []  # of our last answer, which the peer may not have yet
        self.gone_early: set[int] = set()  # peer's SPIs deleted while the answer that names them was under way

        # What becomes of it in a rekeying (RFC 7296 §2.18, §2.25).
        self.successor: IkeSa | None = None  # once it is REKEYED
        self.rival: tuple[IkeSa, bytes] | None = None  # a successor by the peer's request, and its lowest nonce
        self.origin: IkeSa | None = None  # whose rival it is

        # What is known of the peer, and of the way to it.
        self.peer = PeerFacts()
        self.standing = Standing()  # what the peer's proof of who it is is good for
        self.rekey_refused = False  # by the peer
        self.answered_from = remote  # from where the answer came that is being taken
        self.probe_not_before = 0.0

        # When what has happened (0: it has not yet), and how it ends.
        self.begun_at = self.established_at = self.rekeyed_at = self.heard_at = 0.0
        self.rekey_s = connection.rekey_s  # as it was when this one was established
        self.traffic_at = float("-inf")  # when ESP of the peer's was heard last
        self.ends = self.distrusts = False  # with the answer that is being made; since the peer's proof holds no more
        self.has_last_words = False  # its answer to the request that ended it may be asked for again
        self.error = ""
        self.initial: Any = None  # what IKE_SA_INIT left for IKE_AUTH (initial.py)

        # What goes to and fro: tasks that wait, the messages in turn, and what encrypts them.
        self._tasks, self._window = Tasks(), Window()
        self._channel = Channel(Assemblies(world.strangers_fragments, world.fragments))
        self._refused_at: float | None = None  # when an error in clear text has refused our IKE_SA_INIT

    # -- what it is -------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._state

    def move(self, to: State) -> None:
        """Every change of state. Raises IllegalMoveError, and changes nothing, if it cannot follow (states.py)."""
        check_move(IKE_MOVES, self._state, to)
        self._state = to

    @property
    def speaks(self) -> bool:
        """Whether it is in use: the peer has proved who it is, and no other has taken over."""
        return self._state in (State.ESTABLISHED, State.REKEYING)

    @property
    def owes_status(self) -> bool:
        """Whether the peer, another fwd, was told of us what holds no more."""
        return self.peer.is_fwd and self.peer.told != self.connection.status

    @property
    def spi(self) -> bytes:
        """Our own, by which messages find it."""
        return self.spi_i if self.initiator else self.spi_r

    @property
    def busy(self) -> bool:
        """Whether a request is under way or waits."""
        return self._window.request is not None or bool(self._tasks)

    @property
    def counts(self) -> bool:
        """Whether it is more than somebody's half-open IKE SA."""
        return self.initiator or self.established_at > 0

    @property
    def is_unanswered(self) -> bool:
        """Whether the peer has yet to answer the IKE_SA_INIT that it began with."""
        return self._state is State.CONNECTING and self.keys is None

    @property
    def busy_with_children(self) -> bool:
        """Whether a request about Child SAs is under way."""
        return self._window.request is not None and self._window.request.task.about_children

    def unanswered_s(self, now: float) -> float:
        """For how long the peer has left the request under way unanswered, though it was sent again; else 0."""
        return self._window.request.unanswered_s(now) if self._window.request is not None else 0.0

    def use_keys(self, keys: IkeKeys, suite: Suite) -> None:
        """From now on messages are encrypted."""
        self.keys, self.suite = keys, suite
        mine, theirs = (keys.ei, keys.er) if self.initiator else (keys.er, keys.ei)
        self._channel.use(mine, theirs)
        if self.world.reveal is not None:
            self.world.reveal(self)

    def establish(self, now: float, replaces: IkeSa | None = None) -> None:
        """The peer has proved who it is, or this SA comes of one that has."""
        self.move(State.ESTABLISHED)
        self.established_at = self.heard_at = now
        self.rekey_s = self.connection.rekey_s
        before = (replaces.spi_i, replaces.spi_r) if replaces is not None else None
        spis, proposal = (self.spi_i, self.spi_r), str(self.suite)
        name, made = self.connection.name, self.initiator
        self.world.tell(IkeUp(name, spis, self.remote, proposal, made, self.by, self.standing, before))

    # -- requests ---------------------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        """All that is under way, waits, or was put off."""
        return [*([self._window.request.task] if self._window.request else []), *self._tasks.all()]

    def is_planned(self, kind: type) -> bool:
        """Whether such a task is under way, waits, or was put off."""
        return any(isinstance(task, kind) for task in self.tasks())

    def submit(self, task: Task, now: float) -> None:
        """Do this as soon as nothing else is under way."""
        self._tasks.append(task)
        self._start_next(now)

    def submit_first(self, task: Task, now: float) -> None:
        """Do this as soon as nothing else is under way, before all that waits."""
        self._tasks.append(task, first=True)
        self._start_next(now)

    def submit_later(self, task: Task, due: float) -> None:
        """Do this, but not before `due`."""
        self._tasks.put_off(task, due)

    def take_queue(self) -> list[Task]:
        """What waits, to be done by a successor."""
        return self._tasks.take_all()

    def _start_next(self, now: float) -> None:
        while self._window.request is None and self._tasks and self.state is not State.DEAD:
            if self._window.is_used_up:
                self.die("its message ids are used up", By.COUNT)
                return
            task = self._tasks.pop()
            payloads = task.start(self, now)
            if payloads is not None:
                self.send_request(task, payloads, now)

    def send_request(self, task: Task, payloads: Sequence[AnyPayload], now: float) -> None:
        """Send a request; the one under way before is forgotten (IKE_SA_INIT may be tried again)."""
        header = self._header(task.exchange, self._window.next_id, response=False)
        datagrams = self._encode(header, payloads)
        path = task.path if isinstance(task, Probe) else None
        self._window.request = Request(task, self._window.next_id, datagrams, path, now, now + RETRANSMIT_S)
        self._send(datagrams, path)

    def tick(self, now: float) -> None:
        """What is due: tasks put off, the request under way once more; or the peer is given up."""
        self._channel.assemblies.expire(now)
        if self._refused_at is not None and now >= self._refused_at + INIT_ERROR_S:
            self.die(self.error)
            return

        # What was put off is due by now. The request under way is sent again, until it was sent often enough.
        for task in self._tasks.pop_due(now):
            self.submit(task, now)
        request = self._window.request
        if request is None or now < request.due or self._refused_at is not None:
            return
        if isinstance(request.task, Probe) and request.path is not None and request.tries >= PROBE_TRIES:
            request.task.give_up(self)
            self.send_request(request.task, [], now)
            return

        # Silence alone is no end while the peer's ESP is heard.
        if request.tries >= TRIES_MAX and (now >= self.traffic_at + TRAFFIC_S or self.state is State.DELETING):
            self.world.fail(Failure.NO_ANSWER)
            self.die("the peer does not answer", By.SILENCE)
            return

        request.try_again(now)
        self._send(request.datagrams, request.path)
        for task in self._tasks.waiting():  # the peer may be where we would look if this request were answered
            if isinstance(task, Probe):
                self._send(request.datagrams, task.path)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        times = [self._tasks.next_due(), *self._channel.assemblies.timeouts()]
        if self._refused_at is not None:
            times.append(self._refused_at + INIT_ERROR_S)
        elif self._window.request:
            times.append(self._window.request.due)
        return min((at for at in times if at is not None), default=None)

    # -- messages that come -----------------------------------------------------------------------------------

    def receive(self, header: Header, data: bytes, path: tuple[Address, Address], now: float) -> None:
        """An encrypted message for this SA; `path`: our address and the peer's."""
        if self.state is State.DEAD or not self._channel.is_encrypted or header.by_initiator == self.initiator:
            return

        # What is out of turn is dropped; so is a request of who has yet to prove who it is: it comes again.
        unproven = self.state is State.CONNECTING and self.initiator
        if not self._window.takes(header) or (unproven and not header.is_response):
            return

        # What a stranger may cost is bounded before anything is opened.
        if self.state is State.CONNECTING and len(data) > MESSAGE_BYTES_STRANGER:
            return
        fragment = self._channel.open(header, data)
        if fragment is None:
            return

        # From here on it is authentic. A request that comes again gets its answer again.
        if self._window.is_copy(header):
            self._answer_again(fragment, path, now)
            return
        whole = self._channel.assemblies.add(header, fragment, now, strange=self.state is State.CONNECTING)
        if whole is None:
            return
        if self.state is State.CONNECTING and not header.is_response and not self.world.admits(path[1], now):
            self.world.fail(Failure.RATE_LIMITED)
            return  # as good as lost: it comes again

        # The message is whole: who sends it lives, and may have moved.
        self.heard_at = now  # of what had come before anybody may have kept a copy (RFC 7296 §2.4)
        consider(self, path, now)
        if header.is_response:
            self.answered_from = path[1]
            self._take_answer(*whole, now)
        else:
            self._take_request(header, *whole, path, now)

    def repeat(self, header: Header, data: bytes, path: Path, now: float) -> None:
        """It is dead; whoever asks again what ended it has not had the answer."""
        if self._window.is_copy(header) and header.by_initiator != self.initiator:
            self._answer_again(self._channel.open(header, data), path, now)

    def _answer_again(self, copy: Fragment | None, path: Path, now: float) -> None:
        """It goes to where the copy seems to come from, and is longer: a few times a second, and elsewhere apart."""
        if copy and copy.number == 1 and self._window.may_answer_again(now, to_the_peer=path[1] == self.remote):
            self._send(self._window.answer, path)

    def _take_answer(self, first: int, plain: bytes, now: float) -> None:
        task = self._window.take_request().task
        try:
            task.finish(self, decode_chain(first, plain), now)
        except ProtocolError as error:
            self.world.fail(failure_of(error))
            task.refused(self, error, now)
        self._start_next(now)

    def take_init_answer(self, header: Header, data: bytes, payloads: list[AnyPayload], now: float) -> None:
        """The answer to our IKE_SA_INIT, which is not encrypted."""
        request = self._window.request
        if request is None or request.task.exchange != Exchange.IKE_SA_INIT:
            return
        if header.message_id or self._channel.is_encrypted:
            return
        self.initial.take(header, data)
        try:
            request.task.finish(self, payloads, now)
        except ProtocolError as error:
            self.world.fail(failure_of(error))
            request.task.refused(self, error, now)
        self._start_next(now)

    def refuse_init(self, error: str, now: float) -> None:
        """Somebody refuses our IKE_SA_INIT, which anybody can: a better answer may come yet (RFC 7296 §2.21.1)."""
        if self._refused_at is None:
            self._refused_at, self.error = now, error

    def pass_init(self) -> None:
        """IKE_SA_INIT is over: the next request is number 1."""
        self._window.request = None
        self._refused_at, self.error = None, ""
        self._window.next_id = 1

    def first_message(self) -> bytes:
        """Our IKE_SA_INIT request as it was sent last: AUTH signs it."""
        assert self._window.request is not None
        return self._window.request.datagrams[0]

    def _take_request(self, header: Header, first: int, plain: bytes, path: Path, now: float) -> None:
        self._confirm()  # with a window of 1 the peer has our last answer
        fatal = False
        try:
            reply = self.respond(self, header.exchange, decode_chain(first, plain), now)
        except ProtocolError as error:
            self.world.fail(failure_of(error))
            reply = [notify_for(error), *self.ending()]
            fatal = error.notify in (Notify.INVALID_SYNTAX, Notify.AUTHENTICATION_FAILED)
            self.error = str(error) if fatal else self.error  # else it is not what this IKE SA will end of
            if header.exchange == Exchange.CREATE_CHILD_SA:
                self.world.tell(ExchangeRefused.by_us(self.connection.name, error))
        self._window.answered(self._encode(self._header(header.exchange, header.message_id, response=True), reply))
        self._send(self._window.answer, path)  # to where the request came from (RFC 7296 §2.11)
        if fatal or self.ends:
            self.has_last_words = True
            self.die(self.error)
        self._start_next(now)

    def answered_init(self) -> None:
        """The responder's IKE_SA_INIT is answered: the next request is number 1."""
        self._window.expected_id = 1

    # -- Child SAs --------------------------------------------------------------------------------------------

    def add_child(self, child: Child, replaces: int | None = None, by: By = By.PEER) -> None:
        """It is installed: both its SAs may be used."""
        self.children[child.spi_in] = child
        self.world.tell(ChildUp(self.connection.name, child.keys, replaces, self.standing, by))

    def answer_with(self, child: Child, replaces: int | None = None) -> None:
        """Add a Child SA that our answer, which is about to be sent, tells the peer of."""
        self.add_child(child, replaces)
        self.unconfirmed.append(child)

    def _confirm(self) -> None:
        for child in self.unconfirmed:
            if child.spi_in in self.children:
                self.world.tell(ChildConfirmed(self.connection.name, child.keys.member, child.spi_in))
        self.unconfirmed.clear()

    def remove_child(self, child: Child, by: By = By.PEER) -> None:
        """It is gone, on the peer's side too."""
        if self.children.pop(child.spi_in, None) is not None:
            child.move(Use.GONE)
            at_once = by is By.PEER and (not self.peer.is_fwd or self.peer.has_ended)
            self.world.tell(ChildDown(self.connection.name, child.keys.member, child.spi_in, by, at_once))

    def child_by_peer(self, spi: int) -> Child | None:
        """The Child SA that the peer knows by this SPI of its own."""
        return next((child for child in self.children.values() if child.spi_out == spi), None)

    # -- the end ----------------------------------------------------------------------------------------------

    def die(self, error: str, by: By = By.PEER) -> None:
        """At once and without a word."""
        if self.state is State.DEAD:
            return
        self.error = error
        self.move(State.DEAD)
        self._window.request = None
        self.take_queue()
        self._channel.assemblies.clear()
        for child in list(self.children.values()):
            self.remove_child(child, by)
        if self.established_at:
            self.world.tell(IkeDown(self.connection.name, (self.spi_i, self.spi_r), by, error))

    def say_farewell(self) -> None:
        """Send a Delete for the whole of it, and wait for no answer: not even for that to what is under way."""
        if not self._channel.is_encrypted or self.state in (State.CONNECTING, State.DEAD):
            return

        # The request under way may not have come to the peer, which takes the Delete only after it.
        request = self._window.request
        if request is not None:
            self._send(request.datagrams, request.path)
        if self.state is not State.DELETING:  # else that was the Delete
            header = self._header(Exchange.INFORMATIONAL, self._window.next_id + bool(request), response=False)
            self._send(self._encode(header, [Delete(numbers.Protocol.IKE), *self.ending()]))

    def ending(self) -> list[Notification]:
        """What tells another fwd that nothing is accepted any more: the peering has ended, or it is not trusted."""
        if self.connection.stopped:
            return self.peer.understood([Notification(Notify.FWD_STATUS, bytes([Status.ENDED]))])
        return [Notification(Notify.AUTHENTICATION_FAILED)] if self.distrusts and self.peer.is_fwd else []

    # -- sending ----------------------------------------------------------------------------------------------

    def _header(self, exchange: int, message_id: int, *, response: bool) -> Header:
        flags = (Flag.INITIATOR if self.initiator else 0) | (Flag.RESPONSE if response else 0)
        return Header(self.spi_i, self.spi_r, exchange, flags, message_id)

    def _encode(self, header: Header, payloads: Sequence[AnyPayload]) -> list[bytes]:
        return self._channel.encode(header, payloads, self.connection.fragment_bytes if self.peer.fragments else 0)

    def _send(self, datagrams: Sequence[bytes], path: tuple[Address, Address] | None = None) -> None:
        local, remote = path or (self.local, self.remote)
        for data in datagrams:
            self.world.send(Datagram(data, local, remote))
