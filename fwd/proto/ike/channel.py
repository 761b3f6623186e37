"""What encrypts, opens and joins the messages of one IKE SA (RFC 7296 §3.14, RFC 7383, RFC 5282).

Each direction has its own key; each message sent takes IVs of its own, which never come again. Who may send what, and
when, is not decided here (sa.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.message import Assemblies, Fragment, Header, encode_clear, open_authentic, seal_message
from fwd.proto.ike.numbers import Exchange
from fwd.proto.ike.payloads import AnyPayload


class Channel:
    """Messages in clear text until `use` has given it keys."""

    def __init__(self, assemblies: Assemblies) -> None:
        """`assemblies`: where fragments wait for the others of their message."""
        self.assemblies = assemblies
        self._iv = 0
        self._out: Sealer | None = None
        self._in: Sealer | None = None

    @property
    def is_encrypted(self) -> bool:
        """Whether there are keys."""
        return self._in is not None

    def use(self, outbound: bytes, inbound: bytes) -> None:
        """Encrypt with one key from now on, and decrypt with the other."""
        self._out, self._in = Sealer(outbound), Sealer(inbound)

    def encode(self, header: Header, payloads: Sequence[AnyPayload], fragment_bytes: int) -> list[bytes]:
        """Make the datagrams of a message, IKE_SA_INIT in clear text; `fragment_bytes`: the longest, 0: any length."""
        if self._out is None or header.exchange == Exchange.IKE_SA_INIT:
            return [encode_clear(header, payloads)]
        datagrams = seal_message(header, payloads, self._out, self._iv, fragment_bytes)
        self._iv += len(datagrams)
        return datagrams

    def open(self, header: Header, data: bytes) -> Fragment | None:
        """Decrypt a message or a fragment of one; None: the peer has not written it, or not so."""
        return open_authentic(header, data, self._in) if self._in is not None else None
