"""The IKE SAs of one endpoint, by our SPI, and what the endpoints of a process have in common.

An IKE SA that has died by a request may have *last words*: for a while its answer is given again to a request that
comes again, since the first answer may be lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fwd.proto.ike.child import SPI_MIN, Child
from fwd.proto.ike.crypto import Random
from fwd.proto.ike.events import Address, Connection
from fwd.proto.ike.limits import (
    FRAGMENTS_BYTES_ALL,
    HALF_OPEN_BYTES_ALL,
    IKE_SAS_MAX,
    LAST_WORDS_MAX,
    LAST_WORDS_S,
)
from fwd.proto.ike.message import Header
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.rate import Budget
from fwd.proto.ike.sa import NO_SPI, IkeSa
from fwd.proto.ike.states import State

if TYPE_CHECKING:
    from fwd.proto.ike.endpoint import Endpoint

_UNUSED_TRIES = 1000


class Commons:
    """What the endpoints of one process share: where each IKE SA is, and the memory that others may have them hold."""

    def __init__(self) -> None:
        self.homes: dict[bytes, Endpoint] = {}  # by our SPI of an IKE SA
        self.half_open = Budget(HALF_OPEN_BYTES_ALL)
        self.fragments = Budget(FRAGMENTS_BYTES_ALL)


class IkeSas:
    """See the module. `home`: the endpoint whose they are."""

    def __init__(self, home: Endpoint, commons: Commons) -> None:
        self._home = home
        self._homes = commons.homes
        self._sas: dict[bytes, IkeSa] = {}
        self._last_words: dict[bytes, tuple[IkeSa, float]] = {}  # of those that are dead, until when

    def __iter__(self) -> Iterator[IkeSa]:
        """Those that there are now, whatever becomes of them meanwhile."""
        return iter(list(self._sas.values()))

    def __len__(self) -> int:
        return len(self._sas)

    def find(self, header: Header) -> IkeSa | None:
        """The one that a message is for."""
        return self._sas.get(our_spi(header))

    def of(self, name: str) -> list[IkeSa]:
        """All of a connection."""
        return [sa for sa in self._sas.values() if sa.connection.name == name]

    def established(self, name: str) -> IkeSa | None:
        """The one that speaks for a connection now."""
        speaking = [sa for sa in self.of(name) if sa.state in (State.ESTABLISHED, State.REKEYING)]
        return max(speaking, key=lambda sa: sa.established_at, default=None)

    def find_child(self, name: str, spi: int) -> tuple[IkeSa, Child] | None:
        """The Child SA that we receive on `spi`, and whose it is."""
        return next(((sa, sa.children[spi]) for sa in self.of(name) if spi in sa.children), None)

    def that_give_way_to(self, sa: IkeSa) -> list[IkeSa]:
        """Attempts of ours of which the peer has kept nothing that counts: it has begun, too, and come further."""
        return [one for one in self.of(sa.connection.name) if one.initiator and one.is_unanswered]

    def that_were_before(self, sa: IkeSa) -> list[IkeSa]:
        """Those that end as the peer has begun anew and knows of no IKE SA but this one (RFC 7296 §2.4).

        One that was established while this one was under way is not meant: both have begun at once.
        """
        others = [one for one in self.of(sa.connection.name) if one is not sa]
        return [one for one in others if 0 < one.established_at < sa.begun_at]

    def too_many(self, names: Iterable[str]) -> list[IkeSa]:
        """The oldest of each connection: a peer may begin or rekey as often as it likes."""
        found: list[IkeSa] = []
        for name in names if len(self) > IKE_SAS_MAX else ():
            held = sorted((sa for sa in self.of(name) if sa.established_at), key=lambda sa: sa.established_at)
            found += held[:-IKE_SAS_MAX]
        return found

    def adopt(self, sa: IkeSa) -> None:
        """Messages for it find it from now on."""
        self._sas[sa.spi] = sa
        self._homes[sa.spi] = self._home

    def forget(self, sa: IkeSa) -> None:
        """Messages for it find nothing any more, but its last words."""
        if self._sas.get(sa.spi) is sa:
            del self._sas[sa.spi]
        self._leave(sa.spi)

    def _leave(self, spi: bytes) -> None:
        if spi not in self._sas and spi not in self._last_words and self._homes.get(spi) is self._home:
            del self._homes[spi]

    def unused_ike_spi(self, random: Random) -> bytes:
        """One that no IKE SA of ours has (RFC 7296 §2.6)."""
        while (spi := random(len(NO_SPI))) == NO_SPI or spi in self._homes:
            pass
        return spi

    def unused_spi(self, octet: int, random: Random, spi_free: Any) -> int:
        """An inbound SPI of a Child SA with this low octet, that nobody uses."""
        used = {spi for sa in self._sas.values() for spi in sa.children}
        for _ in range(_UNUSED_TRIES):
            spi = int.from_bytes(random(3), "big") << 8 | octet
            if spi >= SPI_MIN and spi not in used and spi_free(spi):
                return spi
        raise ProtocolError(Notify.NO_ADDITIONAL_SAS, "no unused SPI is left")

    # -- last words ---------------------------------------------------------------------------------------------

    def keep_last_words(self, sa: IkeSa, now: float) -> None:
        """Of one that is dead. There are so many, and the oldest go."""
        self._last_words[sa.spi] = sa, now + LAST_WORDS_S
        while len(self._last_words) > LAST_WORDS_MAX:
            self._drop_last_words(next(iter(self._last_words)))

    def last_words(self, header: Header, now: float) -> IkeSa | None:
        """The dead one that a message is for, if it may still answer."""
        sa, until = self._last_words.get(our_spi(header), (None, 0.0))
        return sa if now < until else None

    def expire(self, now: float) -> None:
        """Forget last words that are too old."""
        for spi in [spi for spi, (_, until) in self._last_words.items() if now >= until]:
            self._drop_last_words(spi)

    def _drop_last_words(self, spi: bytes) -> None:
        del self._last_words[spi]
        self._leave(spi)


def our_spi(header: Header) -> bytes:
    """Of the IKE SA that a message is for."""
    return header.spi_r if header.by_initiator else header.spi_i


def fits(connection: Connection, local: Address, remote: Address) -> bool:
    """Whether a peer at `remote` may begin this connection at `local`; behind a NAT its own port may be any."""
    ports = (connection.local[1], connection.float_port)
    return (connection.local[0], connection.remote[0]) == (local[0], remote[0]) and local[1] in ports
