"""The traffic selectors that Child SAs have: each set once, however many have it, and few different ones.

A set has 255 ranges a side at most, which take 150 KiB, and a peer may ask for another one for each of its Child SAs.
An honest one's are the same for all but a few. Refused: more than AGREED_MAX different sets in one endpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from weakref import WeakValueDictionary

from fwd.proto.ike.limits import AGREED_MAX
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.selectors import Selector, encode_selectors
from fwd.proto.sa import Narrowed


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Agreed:
    """What both sides of a Child SA have agreed on. `narrowed`: what it is held to, if not to the configuration."""

    local_ts: tuple[Selector, ...]
    remote_ts: tuple[Selector, ...]
    narrowed: Narrowed | None = None

    @property
    def digest(self) -> bytes:
        """What tells it from all others."""
        parts = encode_selectors(self.local_ts), encode_selectors(self.remote_ts)
        held = self.narrowed.encode() if self.narrowed is not None else b""
        return hashlib.sha256(b"".join(len(one).to_bytes(4, "big") + one for one in (*parts, held))).digest()


class AgreedSets:
    """Those of one endpoint that some Child SA has."""

    def __init__(self) -> None:
        self._known: WeakValueDictionary[bytes, Agreed] = WeakValueDictionary()

    def share(self, agreed: Agreed) -> Agreed:
        """Return the one that is there already, or this one. Raises ProtocolError if there are too many."""
        digest = agreed.digest
        known = self._known.get(digest)
        if known is None:
            if len(self._known) >= AGREED_MAX:
                raise ProtocolError(Notify.NO_ADDITIONAL_SAS, f"more than {AGREED_MAX} different traffic selectors")
            known = self._known[digest] = agreed
        return known
