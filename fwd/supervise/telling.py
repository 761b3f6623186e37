"""What keyd, the agent and the beacon are told while they run: peerings that come, change and go, and IKE's sockets.

Each life of either has a channel of its own (datapath/channel.py). It is forked with all that is open then; what is
open later is compared with what it knows, and the difference is told: so nothing that dies half-way leaves it with
anything but the truth. The supervisor waits for nobody: what finds no room is sent at a later turn, and who has not
done within LATE_S what it was told is ended, and is forked with the whole.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from fwd.datapath import channel
from fwd.datapath.channel import Notice
from fwd.model.config import Peering
from fwd.model.told import in_words
from fwd.proto.logged import event
from fwd.supervise.children import Child
from fwd.supervise.peering import Pairs, PeeringParts
from fwd.supervise.sockets import Endpoint, seqpacket_pair
from fwd.supervise.standing import RETRY_S, Standing

log = logging.getLogger(__name__)
LATE_S: Final = 5.0
Peerings = Mapping[str, PeeringParts]


class NotHeardError(Exception):
    """A process that runs does not do what it is told."""


@dataclass(frozen=True)
class _Known:
    """A peering as a process knows it. `facts`: what may change while it is open."""

    parts: PeeringParts
    facts: tuple[object, ...]
    members: tuple[object, ...]  # their socket pairs, which are no other's


class Teller:
    """Tells one process. Its answers wake the supervisor by `selector`."""

    def __init__(self, name: str, selector: selectors.BaseSelector) -> None:
        self.name = name
        self._selector = selector
        self._near: socket.socket | None = None
        self.far: socket.socket | None = None  # the process's own end
        self._known: dict[str, _Known] = {}
        self._sockets: dict[Endpoint, socket.socket] = {}
        self._version = -1  # of `standing`, which those two are of
        self._queue: deque[tuple[Notice, PeeringParts | None]] = deque()  # with whose memory goes along
        self._sent = self._answered = 0
        self._told_of: dict[int, str] = {}  # the peering of each notice that waits for its answer
        self._again: set[str] = set()  # of which something went wrong
        self._again_at = self._well_at = 0.0
        self._speaks = True  # there may be an answer to be read

    def wake(self) -> None:
        """Its socket is readable."""
        self._speaks = True

    def renew(self, standing: Standing) -> None:
        """Make the channel of a process that is about to be forked, and to inherit all this."""
        self.close()
        self._near, self.far = seqpacket_pair()
        self._selector.register(self._near, selectors.EVENT_READ, self)
        self._known = {name: self._known_of(parts) for name, parts in standing.served().items()}
        self._sockets, self._version = standing.ike_served(), standing.version
        self._queue.clear()
        self._sent = self._answered = 0
        self._again, self._told_of = set(), {}

    def tell(self, standing: Standing) -> bool:
        """Tell what is new; whether the process has done all that it was told. Raises NotHeardError.

        What has been told of is not to be closed before that.
        """
        assert self._near is not None
        waits = self._queue or self._again or self._answered != self._sent
        if not waits and not self._speaks and self._version == standing.version:
            return True
        now, self._speaks = time.monotonic(), False
        self._hear(now)
        if not self._queue and self._again and now >= self._again_at:
            self._forget_again()
        if not self._queue and self._version != standing.version:
            self._compare(standing.served(), standing.ike_served())
            self._version = standing.version

        # As much as there is room for now.
        try:
            while self._queue and self._send(*self._queue[0]):
                self._queue.popleft()
        except OSError:
            pass  # it has just died, as its pidfd tells; or it is tried again
        except (channel.ChannelError, LookupError) as error:  # what it is forked with has no such limit, and is there
            raise NotHeardError(f"peering {self._queue[0][0].peering}: {error}") from None

        # Who has not done it all for long is given up.
        if not self._queue and self._answered == self._sent:
            self._well_at = 0.0
            return True
        self._well_at = self._well_at or now
        if now - self._well_at > LATE_S:
            raise NotHeardError(f"it has not done for {LATE_S:.0f} s what it was told")
        return False

    def _hear(self, now: float) -> None:
        """Take the answers. A peering of which something went wrong is told anew a while later."""
        assert self._near is not None
        try:
            self._answered, wrong = channel.answered(self._near, self._answered)
        except channel.ChannelError as error:
            raise NotHeardError(str(error)) from None
        if self._answered > self._sent:
            raise NotHeardError("it answers what it was not told")
        if wrong:
            self._again |= {self._told_of[number] for number in wrong}
            self._again_at = now + RETRY_S
        self._told_of = {number: name for number, name in self._told_of.items() if number > self._answered}

    def _forget_again(self) -> None:
        """Take what went wrong for unknown; of IKE's sockets ("") all are told anew."""
        for name in self._again:
            if self._known.pop(name, None) is not None:
                self._queue.append((Notice("close", name), None))
        if "" in self._again:
            self._sockets = {}
        self._again, self._version = set(), -1

    def _send(self, notice: Notice, parts: PeeringParts | None) -> bool:
        assert self._near is not None
        with contextlib.ExitStack() as closing:
            shared = closing.enter_context(parts.memory.opened(self.name, notice.memory)) if parts else {}
            whole = replace(notice, fds={**notice.fds, **shared})
            sent = channel.send(self._near, whole, self._sent + 1)
        self._sent += sent
        if sent:
            self._told_of[self._sent] = notice.peering
        return sent

    def order(self, command: str, peering: str) -> None:
        """Tell what a user wants of a peering, if the process runs."""
        if self._near is not None:
            self._queue.append((Notice("command", peering, {"command": command}), None))

    def close(self) -> None:
        """Close the channel. What went wrong half-way can be done again."""
        self._well_at = 0.0
        for sock in (self._near, self.far):
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(KeyError):  # the process's own end is not registered
                    self._selector.unregister(sock)
                sock.close()
        self._near = self.far = None

    # -- what is new --------------------------------------------------------------------------------------------------

    def _compare(self, peerings: Peerings, sockets: dict[Endpoint, socket.socket]) -> None:
        """What goes is told first, since what comes may need its ports. All of it is noted at once, or nothing."""
        known = {name: one for name, one in self._known.items() if peerings.get(name) is one.parts}
        told: list[tuple[Notice, PeeringParts | None]]
        told = [(Notice("close", name), None) for name in self._known if name not in known]
        if self.name == "keyd":
            told += [(notice, None) for notice in self._moving(sockets)]
        for name, parts in peerings.items():
            facts, known_as = self._facts(parts), known.get(name)
            if known_as is None:
                told += [(notice, parts) for notice in self._opening(parts)]
            else:
                if known_as.facts != facts:
                    told.append((self._change(parts, secrets=known_as.facts[1:] != facts[1:]), None))
                told += [(notice, parts) for notice in self._members(parts, known_as.members)]
            known[name] = self._known_of(parts)
        self._queue, self._known, self._sockets = deque(told), known, sockets

    def _moving(self, sockets: dict[Endpoint, socket.socket]) -> Iterator[Notice]:
        """IKE's sockets that go and come, as many in a notice as it can have."""
        gone = [list(at) for at, sock in self._sockets.items() if sockets.get(at) is not sock]
        come = [(list(at), sock) for at, sock in sockets.items() if self._sockets.get(at) is not sock]
        for start in range(0, max(len(come), bool(gone)), channel.DESCRIPTORS_MAX):
            some = come[start : start + channel.DESCRIPTORS_MAX]
            fds = {str(number): sock.fileno() for number, (_, sock) in enumerate(some)}
            yield Notice("sockets", "", {"close": [] if start else gone, "open": [at for at, _ in some]}, fds)

    def _facts(self, parts: PeeringParts) -> tuple[object, ...]:
        return (self._peering(parts), parts.material.version) if self.name == "keyd" else (parts.peering,)

    def _peering(self, parts: PeeringParts) -> Peering:
        return parts.as_keyd_has_it if self.name == "keyd" else parts.peering

    def _words(self, parts: PeeringParts) -> dict[str, Any]:
        return in_words(self._peering(parts))

    def _change(self, parts: PeeringParts, *, secrets: bool) -> Notice:
        files = parts.material.fds if secrets and self.name == "keyd" else {}
        return Notice("change", parts.peering.name, self._words(parts), dict(files))

    def _opening(self, parts: PeeringParts) -> Iterator[Notice]:
        """The peering, then each member: of many members there are more descriptors than one message can have."""
        name, of, keyd = parts.peering.name, parts.memory.sizes(self.name), self.name == "keyd"
        body = {**self._words(parts), "offloads": asdict(parts.offloads)}
        body["members"] = len(self._pairs(parts))
        body |= {"stopped": parts.is_stopped} if keyd else {"inner_mtu": parts.inner_mtu, "warnings": parts.warnings}
        own = {one: octets for one, octets in of.items() if "-" not in one}
        yield Notice("open", name, body, dict(parts.material.fds) if keyd else {}, own)
        yield from self._members(parts, ())

    def _members(self, parts: PeeringParts, known: Sequence[object]) -> Iterator[Notice]:
        """Members that have gone, the last first; then those that have come."""
        there, of, keyd = self._pairs(parts), parts.memory.sizes(self.name), self.name == "keyd"
        same = next((i for i, (a, b) in enumerate(zip(known, there, strict=False)) if a is not b), len(known))
        first = min(same, len(there))
        for index in reversed(range(first, len(known))):
            yield Notice("leave", parts.peering.name, {"index": index})
        for index in range(first, len(there)):
            own = {one: octets for one, octets in of.items() if one.endswith(f"-{index}")}
            fds = there[index].for_keyd() if keyd else {}
            yield Notice("member", parts.peering.name, {"index": index}, fds, own)

    def _pairs(self, parts: PeeringParts) -> list[Pairs]:
        """keyd forgets a member before its process ends, and the agent after that."""
        return parts.served_pairs() if self.name == "keyd" else parts.pairs

    def _known_of(self, parts: PeeringParts) -> _Known:
        return _Known(parts, self._facts(parts), tuple(self._pairs(parts)))


class Tellers:
    """Tells keyd, the agent and the beacon of what `standing` has open."""

    def __init__(self, standing: Standing, selector: selectors.BaseSelector) -> None:
        self._standing = standing
        self._by_name = {name: Teller(name, selector) for name in ("keyd", "agent", "beacon")}
        self.done = True  # all knew all of it when that was looked at last

    def renew(self, name: str) -> None:
        """Make the channel of a process that is about to be forked; others have none."""
        if name in self._by_name:
            self._by_name[name].renew(self._standing)

    def channel(self, name: str) -> socket.socket:
        """Return the end that the process itself has."""
        far = self._by_name[name].far
        assert far is not None
        return far

    def order(self, command: str, peering: str) -> None:
        """Have keyd told what a user wants of a peering."""
        self._by_name["keyd"].order(command, peering)

    def tell(self, children: Mapping[str, Child]) -> bool:
        """Tell what is new; whether they have done all of it, or are forked with all of it.

        Who does not do it is ended, and not by SIGTERM: keyd would tell its peers that all is over.
        """
        self.done, done = False, True
        for name, teller in self._by_name.items():
            child = children.get(name)
            if child is None or child.process is None:
                continue
            try:
                done &= teller.tell(self._standing)
            except NotHeardError as error:
                done, told = False, event("process.not_told", name=name, reason=str(error))
                log.error("%s is ended, and forked anew: %s", name, error, extra=told)
                child.signal(signal.SIGKILL)
        self.done = done
        return done

    def close(self) -> None:
        """Close the channels."""
        for teller in self._by_name.values():
            teller.close()
