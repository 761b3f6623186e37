"""Far gateways that the configuration gives by name: their addresses, as the DNS and /etc/hosts have them.

A name is looked up at the start, on SIGHUP, and while nothing joins its peering to the far gateway: so a new address is
taken when IKE begins anew, and never under traffic. What was found stays when the next look-up fails. Of several
addresses the next one is tried if ELSEWHERE_S at one came to nothing. A peering with several far gateways waits until
each has an address; while one of them is joined, the others' names are left alone, too.

A look-up is done by a child without rights that lives DEADLINE_S at most; what it says is not believed to be anything
but addresses. A peering whose name has no address yet waits, with its guards closed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from fwd.model.config import Config, Peering
from fwd.model.distinct import indistinct
from fwd.model.words import Address, ConfigError
from fwd.proto.logged import event
from fwd.supervise import privileges, sandbox
from fwd.supervise.users import User

LOST_S: Final = 3.0  # without the far gateway, before anything is done
FIRST_S: Final = 5.0  # between two look-ups of one peering's name; doubles
LONGEST_S: Final = 60.0
ELSEWHERE_S: Final = 30.0
DEADLINE_S: Final = 20.0
AT_ONCE: Final = 8  # children; the others wait their turn
_SAID_BYTES_MAX: Final = 1 << 12
_ADDRESSES_MAX: Final = 16  # of one name
_REASON_CHARACTERS_MAX: Final = 200
log = logging.getLogger(__name__)

Name = tuple[str, int]  # and which IP version is wanted; 0: both


@dataclass
class _Place:
    """Where one of a peering's far gateways is, as far as it is known."""

    name: Name
    address: Address | None = None
    taken_at: float = 0.0
    due_at: float = 0.0
    every_s: float = FIRST_S
    lost_since: float | None = None  # since when nothing joins us to it
    afresh: bool = False  # whatever is found is taken
    is_lent: bool = False  # the address is that of before the name, until there is an answer
    told: str = ""

    def is_due(self, now: float) -> bool:
        return now >= self.due_at and self.may_change(now)

    def may_change(self, now: float) -> bool:
        return self.address is None or self.afresh or self._is_lost_for(LOST_S, now)

    def choose(self, found: Sequence[Address], now: float) -> Address | None:
        """Return which of the addresses found is to be used: that of before, as long as it may be the right one."""
        if self.address is None or (self.address not in found and self.may_change(now)):
            return found[0]
        if self._is_lost_for(ELSEWHERE_S, now) and now - self.taken_at >= ELSEWHERE_S and self.address in found:
            ring = sorted(found, key=int)
            return ring[(ring.index(self.address) + 1) % len(ring)]
        return self.address

    def _is_lost_for(self, seconds: float, now: float) -> bool:
        return self.lost_since is not None and now - self.lost_since >= seconds


@dataclass
class Lookup:
    """A child that looks up one name, and what it has said so far."""

    name: Name
    pid: int
    answer: int
    until: float
    said: bytearray = field(default_factory=bytearray)


class Names:
    """The addresses of all names, and the children that look them up as `user`."""

    def __init__(self, user: User) -> None:
        self._user = user
        self._places: dict[tuple[str, str], _Place] = {}  # by peering and name
        self._nameless: Sequence[Peering] = ()  # a configuration that has no names, as it was seen last
        self._lookups: list[Lookup] = []

    def resolved(self, config: Config) -> Config:
        """Return the configuration with addresses for names; a peering that can have none keeps its name."""
        found: list[Peering] = []
        for peering in config.peering:
            places = [self._places.get((peering.name, name)) for name in peering.names]
            known = [place for place in places if place is not None and place.address is not None]
            if known and len(known) == len(places):
                peering = self._at(peering, known, found)
            found.append(peering)
        return config.model_copy(update={"peering": found})

    def again(self, peerings: Sequence[Peering], in_force: Mapping[str, Sequence[Address]]) -> None:
        """Look up all names as soon as may be, and take what is found: SIGHUP.

        A peering that has a name from now on keeps the address that is in force until the name has been looked up.
        """
        self._follow(peerings)
        for place in self._places.values():
            place.due_at, place.every_s, place.afresh = 0.0, FIRST_S, True
        for peering in peerings:
            ends, before = [leg.address for leg in peering.legs], in_force.get(peering.name, ())
            for name, address in zip(ends, before, strict=False) if len(ends) == len(before) else ():
                named = self._places.get((peering.name, str(name)))
                if named is not None and named.address is None and address.version == named.name[1]:
                    named.address, named.is_lent = address, True

    def turn(self, peerings: Sequence[Peering], is_joined: Callable[[str], bool], now: float) -> bool:
        """Go on with it. `is_joined`: whether a peering has its far gateway; True: `resolved` has changed."""
        if not self._places and (peerings is self._nameless or not any(one.names for one in peerings)):
            self._nameless = peerings
            return False
        self._follow(peerings)
        for (peering, _), place in self._places.items():
            if is_joined(peering):
                place.lost_since, place.every_s = None, FIRST_S
            elif place.lost_since is None:
                place.lost_since = now

        # What children have said by now.
        changed = False
        for lookup in list(self._lookups):
            if (said := heard(lookup, now)) is not None:
                self._lookups.remove(lookup)
                changed |= self._take(lookup.name, said, now)

        # What is to be asked; the same name once for all that have it.
        under_way = {lookup.name for lookup in self._lookups}
        due = sorted((p.due_at, p.name) for p in self._places.values() if p.name not in under_way and p.is_due(now))
        for _, name in due:
            if len(self._lookups) < AT_ONCE and name not in under_way:
                try:
                    self._lookups.append(begin(name, self._user, now))
                except OSError as error:  # too many processes: as a look-up that found nothing
                    changed |= self._take(name, f"!{error.strerror}\n".encode(), now)
                under_way.add(name)
        return changed

    def close(self) -> None:
        """End the children, if there are any."""
        while self._lookups:
            end(self._lookups.pop())

    def _follow(self, peerings: Iterable[Peering]) -> None:
        """Note which names there are; what is known of others is forgotten."""
        places: dict[tuple[str, str], _Place] = {}
        for peering in peerings:
            for name in peering.names:
                key, wanted = (peering.name, name), (name, peering.local_addrs.version)
                before = self._places.get(key)
                places[key] = before if before and before.name == wanted else _Place(wanted)
        self._places = places

    def _take(self, name: Name, said: bytes, now: float) -> bool:
        """Note what was found of a name; whether one of its peerings has another address now."""
        addresses, reason = answer_in(said, name[1])
        changed = False
        for place in self._places.values():
            if place.name != name:
                continue
            place.due_at = now + place.every_s
            place.every_s = min(2 * place.every_s, LONGEST_S)
            if not addresses:
                _tell(place, f"cannot be looked up: {reason}")
                if place.is_lent:
                    place.address, changed = None, True
            elif (chosen := place.choose(addresses, now)) != place.address:
                place.address, place.taken_at, place.told, changed = chosen, now, "", True
                told = event("name.resolved", name=name[0], address=str(chosen))
                log.info("%s (remote_addrs) is %s", name[0], chosen, extra=told)
            place.afresh = place.is_lent = False
        return changed

    def _at(self, peering: Peering, places: Sequence[_Place], others: Sequence[Peering]) -> Peering:
        """Return the peering at the addresses of its names, if it can be had there."""
        try:
            placed = peering.at({place.name[0]: place.address for place in places if place.address is not None})
            for other in others:
                if reason := indistinct(other, placed):
                    raise ConfigError(f"peerings {other.name} and {peering.name} {reason}")
        except ConfigError as error:
            for place in places:
                _tell(place, f"is {place.address}, which cannot be taken: {error}")
            return peering
        return placed


def _tell(place: _Place, what: str) -> None:
    """Log what is wrong with a peering's name, once."""
    if place.told != what:
        place.told = what
        told = event("name.unresolved", name=place.name[0], reason=what)
        log.warning("%s (remote_addrs) %s", place.name[0], what, extra=told)


def answer_in(said: bytes, version: int) -> tuple[list[Address], str]:
    """Return what a child has said: addresses of the IP version that is wanted, or why there are none."""
    line, end, _ = said.decode("ascii", errors="replace").partition("\n")
    if not end:
        return [], "no answer in time"
    if line.startswith("!"):
        return [], "".join(one for one in line[1:_REASON_CHARACTERS_MAX] if one.isprintable())
    addresses: list[Address] = []
    for word in line.split()[:_ADDRESSES_MAX]:
        with contextlib.suppress(ValueError):
            address = ip_address(word)
            if version in (0, address.version):
                addresses.append(address)
    return addresses, "" if addresses else f"no address of IPv{version}"


def heard(lookup: Lookup, now: float) -> bytes | None:
    """Return what the child has said, once it is done or its time is over: then it is ended."""
    done = now >= lookup.until
    with contextlib.suppress(BlockingIOError):
        while data := os.read(lookup.answer, _SAID_BYTES_MAX):
            lookup.said += data
            if len(lookup.said) > _SAID_BYTES_MAX:
                break
        done = True
    if not done:
        return None
    end(lookup)
    return bytes(lookup.said)


# -- the child ------------------------------------------------------------------------------------------------------


def begin(name: Name, user: User, now: float) -> Lookup:
    """Begin to look a name up, as `user`; by IP version 0: addresses of both. Raises OSError."""
    near, far = os.pipe()
    os.set_blocking(near, False)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        os.close(near)
        os.close(far)
        raise
    if pid == 0:
        try:
            _look_up(name, user, parent, far)
        finally:
            os._exit(0)
    os.close(far)
    return Lookup(name, pid, near, now + DEADLINE_S)


def end(lookup: Lookup) -> None:
    """End the child."""
    os.close(lookup.answer)
    with contextlib.suppress(ProcessLookupError):
        os.kill(lookup.pid, signal.SIGKILL)
    os.waitpid(lookup.pid, 0)


def _look_up(name: Name, user: User, parent: int, far: int) -> None:
    """Give up root, look the name up, and write one line."""
    privileges.shed("names", lambda: {far}, lambda: None)
    privileges.limit_short()
    privileges.drop(*user, parent)
    sandbox.enter_resolver()

    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(name[1], socket.AF_UNSPEC)
    try:
        answers = socket.getaddrinfo(name[0].encode("ascii"), None, family, socket.SOCK_DGRAM)
        words = " ".join(dict.fromkeys([str(answer[4][0]) for answer in answers][:_ADDRESSES_MAX]))
    except OSError as error:
        words = f"!{error.strerror}"
    os.write(far, f"{words}\n".encode("ascii", errors="replace"))
