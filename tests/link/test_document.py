"""What a host believes of what it is told, and what it does with it."""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fwd.link.document import Answer, Document, DocumentError, Held, judge, sign, verify

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32))), Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC = KEY.public_key()


def peerings(**ends: int) -> dict[str, Any]:
    return {"peering": [{"name": name, "remote_addrs": ["192.0.2.1"] * count} for name, count in ends.items()]}


def newer(content: dict[str, Any], generation: int = 4, removed: tuple[tuple[str, int], ...] = ()) -> Document:
    return Document("c1", 7, generation, "a1", content, removed)


WANTED = Document("c1", 7, 3, "a1", peerings(x=2, y=2))
HELD = Held((7, 3), "c1", WANTED.content)


def test_a_document_comes_back_as_it_was() -> None:
    assert verify(sign(WANTED, KEY), PUBLIC, "a1") == WANTED


def with_signature_of(body: bytes) -> bytes:
    text = base64.b64encode(body).decode()
    return json.dumps({"signed": text, "signature": base64.b64encode(KEY.sign(body)).decode()}).encode()


FORGED = {
    "another key": (sign(WANTED, OTHER), "not this controller's"),
    "another host": (sign(replace(WANTED, host="a2"), KEY), "for a2, and this host is a1"),
    "no signature": (json.dumps({"signed": "e30="}).encode(), "no signed document"),
    "no base64": (json.dumps({"signed": "{}", "signature": "!"}).encode(), "no signed document"),
    "not JSON": (b"\xff", "no signed document"),
    "a list": (b"[]", "no signed document"),
    "deep": (b"[" * 100_000, "no signed document"),
    "a signature for another purpose": (with_signature_of(b"{}"), "not this controller's"),
    "huge": (b"x" * (5 << 20), "octets"),
    "a number that is none": (sign(replace(WANTED, term=True), KEY), "cannot be"),
    "below zero": (sign(replace(WANTED, generation=-1), KEY), "cannot be"),
    "a list of numbers for peerings": (sign(replace(WANTED, content={"peering": [1]}), KEY), "cannot be"),
    "a number for far gateways": (sign(replace(WANTED, content={"peering": [{"remote_addrs": 2}]}), KEY), "cannot be"),
    "a table for spreads": (sign(replace(WANTED, content={"spread": {}}), KEY), "cannot be"),
    "a list for content": (sign(replace(WANTED, content=[]), KEY), "cannot be"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("data", "why"), FORGED.values(), ids=FORGED)
def test_what_is_not_the_controllers_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        verify(data, PUBLIC, "a1")


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_octet_is_noticed(at: int, by: int) -> None:
    data = bytearray(sign(WANTED, KEY))
    data[at % len(data)] ^= by
    with contextlib.suppress(DocumentError):
        assert verify(bytes(data), PUBLIC, "a1") == WANTED, "what JSON does not mean may change"


JUDGED = [
    ("the first", replace(WANTED), Held(), Answer.TAKE),
    ("the same again", WANTED, HELD, Answer.SAME),
    ("a newer generation", replace(WANTED, generation=4), HELD, Answer.TAKE),
    ("a newer term, from the beginning", replace(WANTED, term=8, generation=1), HELD, Answer.TAKE),
    ("an older generation", replace(WANTED, generation=2), HELD, Answer.OLD),
    ("an older term, however high its generation", replace(WANTED, term=6, generation=99), HELD, Answer.OLD),
    ("the same number with another content", replace(WANTED, content=peerings(x=1)), HELD, Answer.OLD),
    ("another store, as new", replace(WANTED, cluster_id="c2"), HELD, Answer.OLD),
    ("another store, above all", replace(WANTED, cluster_id="c2", term=9), HELD, Answer.TAKE),
    ("empty", newer({}), HELD, Answer.HOLD),
    ("half is gone", newer(peerings(x=2)), HELD, Answer.HOLD),
    ("less than half is gone", newer(peerings(x=2, y=1)), HELD, Answer.TAKE),
    ("half is gone on purpose", newer(peerings(x=2), removed=(("y", 4),)), HELD, Answer.TAKE),
    ("half is gone, and on purpose once before", newer(peerings(x=2), removed=(("y", 3),)), HELD, Answer.HOLD),
    ("half is gone on purpose some time ago", newer(peerings(x=2), 9, removed=(("y", 4),)), HELD, Answer.TAKE),
    ("more is gone than on purpose", newer({}, removed=(("y", 4),)), HELD, Answer.HOLD),
    ("empty, and root lets it pass", newer({}), replace(HELD, accepted=(7, 4)), Answer.TAKE),
    ("empty, and root let another one pass", newer({}, 5), replace(HELD, accepted=(7, 4)), Answer.HOLD),
    ("nothing was there", newer({}), replace(HELD, content={}), Answer.TAKE),
]  # fmt: skip


@pytest.mark.parametrize(("document", "held", "answer"), [one[1:] for one in JUDGED], ids=[one[0] for one in JUDGED])
def test_what_a_host_does_with_a_document(document: Document, held: Held, answer: Answer) -> None:
    found, why = judge(document, held)

    assert found is answer
    assert bool(why) is (answer in (Answer.OLD, Answer.HOLD))
