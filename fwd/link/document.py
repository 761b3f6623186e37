"""The document by which a controller tells a host what is wanted, and whether the host takes it: pure.

A document is `(cluster_id, term, generation, content)`, signed with Ed25519 (RFC 8032) under a key that the host has
pinned when it joined. It is written as one JSON line of the signed octets and the signature, both in base64.

A host takes a document that is newer by (term, generation) than all it has seen. It refuses older ones: they come of a
leader that was replaced, or of a store that was put back from a backup. It holds one that takes away all or half of
what it does, unless the document itself names what was taken away on purpose, in a generation that the host has not had
yet: an empty store is no wish of anybody's, and one wish is not another one later.
What is held waits for root on that host.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

BYTES_MAX: Final = 4 << 20
_CONTEXT: Final = b"fwd desired state 1\0"  # so that a signature is good for nothing else
NUMBER_MAX: Final = 2**63 - 1
# As `sign` writes it: what anybody may have written costs no more than looking at each octet.
_SIGNED: Final = re.compile(rb'\{"signed": "([A-Za-z0-9+/=]*)", "signature": "([A-Za-z0-9+/=]{88})"\}\s*')
ACCEPTS: Final = {"gateway": "fwd apply --accept-shrink", "router": "fwd router accept-shrink"}  # what is held
_ENDS: Final = {"peering": "remote_addrs", "spread": "gateway"}  # of each table what its ends are


class DocumentError(Exception):
    """A document that cannot be believed; its text is one line."""


@dataclass(frozen=True)
class Document:
    """What is wanted of one host. `host`: whose it is. `removed`: peerings that were taken away on purpose, wholly
    or in part, and the generation that did so."""

    cluster_id: str
    term: int
    generation: int
    host: str
    content: Mapping[str, Any]
    removed: tuple[tuple[str, int], ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """What is higher is newer."""
        return self.term, self.generation


def sign(document: Document, key: Ed25519PrivateKey) -> bytes:
    """Write a document, signed."""
    fields = {
        "cluster_id": document.cluster_id, "term": document.term, "generation": document.generation,
        "host": document.host, "content": document.content, "removed": list(document.removed),
    }  # fmt: skip
    body = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    signature = key.sign(_CONTEXT + body)
    return json.dumps({"signed": _text(body), "signature": _text(signature)}).encode() + b"\n"


def verify(data: bytes, key: Ed25519PublicKey, host: str) -> Document:
    """Read a signed document. Raises DocumentError for whatever is not this controller's, or another host's."""
    if len(data) > BYTES_MAX:
        raise DocumentError(f"more than {BYTES_MAX} octets: this is no document")
    try:
        outer = _SIGNED.fullmatch(data)
        body, signature = (base64.b64decode(one, validate=True) for one in outer.groups()) if outer else (b"", b"")
    except binascii.Error:
        outer = None
    if outer is None:
        raise DocumentError("this is no signed document")
    try:
        key.verify(signature, _CONTEXT + body)
    except InvalidSignature:
        raise DocumentError("the signature is not this controller's") from None

    # From here on it is the controller's; it may still be nonsense, or meant for another.
    try:
        fields = json.loads(body)
        document = Document(
            fields["cluster_id"], fields["term"], fields["generation"], fields["host"], fields["content"],
            tuple((str(name), int(generation)) for name, generation in fields["removed"]),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DocumentError("a signed document of another form: is the controller newer than this host?") from None
    if not _is_sane(document):
        raise DocumentError("a signed document with values that cannot be")
    if document.host != host:
        raise DocumentError(f"a document for {document.host[:64]}, and this host is {host}")
    return document


def _is_sane(one: Document) -> bool:
    numbers = (one.term, one.generation)
    texts = (one.cluster_id, one.host)
    return (
        all(type(number) is int and 0 <= number <= NUMBER_MAX for number in numbers)
        and all(isinstance(text, str) for text in texts)
        and isinstance(one.content, dict)
        and all(_is_tables(one.content.get(name, []), ends) for name, ends in _ENDS.items())
    )


def _is_tables(value: object, ends: str) -> bool:
    """Whether it is a list of tables, whose far ends are lists: what is weighed."""
    return isinstance(value, list) and all(isinstance(t, dict) and isinstance(t.get(ends, []), list) for t in value)


class Answer(Enum):
    """What a host does with a document."""

    TAKE = "take"
    SAME = "same"  # it is in force
    OLD = "old"  # refused
    HOLD = "hold"  # until root accepts it here


@dataclass(frozen=True)
class Held:
    """What a host has seen: the newest (term, generation), and what is in force. `accepted`: what root has let pass."""

    order: tuple[int, int] = (0, 0)
    cluster_id: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)
    accepted: tuple[int, int] | None = None


def judge(document: Document, held: Held) -> tuple[Answer, str]:
    """Say what becomes of a verified document, and why."""
    if document.order == held.order and document.cluster_id == held.cluster_id:
        if document.content == held.content:
            return Answer.SAME, ""
        return Answer.OLD, f"another document of term {document.term}, generation {document.generation}: refused"
    is_lost = not held.cluster_id  # what was in force, whose order is known all the same: it may come again
    if document.order < held.order or (document.order == held.order and not is_lost):
        return Answer.OLD, (
            f"term {document.term}, generation {document.generation} is older than what this host has seen"
            f" ({held.order[0]}, {held.order[1]}): was the controller's store put back? `fwd controller recover`"
        )
    routes = "spread" in held.content
    ends, accepts = ("gateways", ACCEPTS["router"]) if routes else ("tunnels' ends", ACCEPTS["gateway"])
    before, after = _weight(held.content), _weight(document.content)
    meant = _weight(held.content, {name for name, generation in document.removed if generation > held.order[1]})
    if before and 2 * after <= before and after < meant and held.accepted != document.order:
        return Answer.HOLD, (
            f"it leaves {after} of {before} {ends}, and nobody has taken the others away: `{accepts}` on this host lets"
            " it pass"
        )
    return Answer.TAKE, ""


def _weight(content: Mapping[str, Any], without: Collection[str] = ()) -> int:
    """How much a content has a host do: far gateways over all peerings, and gateways over all spreads."""
    return sum(
        len(table.get(ends, ()))
        for name, ends in _ENDS.items()
        for table in content.get(name, ())
        if table.get("name") not in without
    )


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
