"""SAs and the messages about them: exactly one message is decoded, and no key is ever shown."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.sa import (
    DEADLINE_MAX_MS,
    NARROWED_MAX,
    RANGES_MAX,
    SET_BYTES_MAX,
    SLOTS,
    EventKind,
    MessageError,
    Narrowed,
    SaEvent,
    SaKeys,
    SaSet,
)

_RANGES = st.lists(
    st.sampled_from([4, 16]).flatmap(lambda octets: st.tuples(*[st.binary(min_size=octets, max_size=octets)] * 2)),
    min_size=1, max_size=3,
).map(tuple)  # fmt: skip
FEW = [None, *(Narrowed(((bytes([n] * 4),) * 2,), ((bytes([n] * 16),) * 2,)) for n in range(NARROWED_MAX))]
SAS = st.builds(
    SaKeys,
    spi=st.integers(256, 2**32 - 1),
    esn=st.booleans(),
    key=st.sampled_from([16, 32]).flatmap(lambda octets: st.binary(min_size=octets, max_size=octets)),
    salt=st.binary(min_size=4, max_size=4),
    slot=st.integers(0, SLOTS - 1),
    deadline_ms=st.integers(0, DEADLINE_MAX_MS),
    narrowed=st.sampled_from(FEW),
)
_SOME = st.integers(0, 2**64 - 1), st.lists(SAS, max_size=SLOTS).map(tuple)
_UNTIL = st.integers(0, DEADLINE_MAX_MS)
SETS = st.builds(SaSet, *_SOME, st.none() | SAS, until_ms=_UNTIL, written_ns=_UNTIL) | st.builds(
    SaSet, *_SOME, st.none(), st.just(True)
)
ONE = SaSet(3, (SaKeys(256, True, bytes(32), bytes(4), 1),), SaKeys(257, False, bytes(32), bytes(4), 2)).encode()


@given(SETS)
def test_a_set_comes_back_as_it_was(message: SaSet) -> None:
    assert SaSet.decode(message.encode()) == message


@given(_RANGES, _RANGES)
def test_the_selectors_of_an_sa_come_back_as_they_were(local: Any, remote: Any) -> None:
    held = Narrowed(local, remote)
    message = SaSet(0, (SaKeys(256, True, bytes(32), bytes(4), 1, narrowed=held),))
    assert SaSet.decode(message.encode()) == message


def test_the_longest_message_is_taken_with_one_receive() -> None:
    """And a second one fits beside it: keyd writes the new state before it takes the old one out."""
    sides = [tuple((bytes([n, m] * 8), bytes([n, m] * 8)) for m in range(RANGES_MAX)) for n in range(NARROWED_MAX + 1)]
    different = [Narrowed(one, one) for one in sides]
    sas = [SaKeys(256 + n, True, bytes(32), bytes(4), n, narrowed=different[n % NARROWED_MAX]) for n in range(SLOTS)]
    message = SaSet(1, tuple(sas), SaKeys(999, True, bytes(32), bytes(4), narrowed=different[-1]))
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        near.setblocking(False)
        for _ in range(2):
            near.send(message.encode())
        for _ in range(2):
            assert SaSet.decode(far.recv(SET_BYTES_MAX)) == message


def test_selectors_that_cannot_be_are_refused() -> None:
    held = Narrowed(((bytes(4), bytes(4)),), ((bytes(16), bytes(16)),))
    data = SaSet(0, (SaKeys(256, True, bytes(32), bytes(4), 1, narrowed=held),)).encode()
    assert SaSet.decode(data).inbound[0].narrowed == held
    table = len(data) - len(held.encode())
    for at, value in ((table, 0), (table, RANGES_MAX), (table + 1, 2), (table + 2, 5), (19, 0), (19, 2)):
        wrong = bytearray(data)
        wrong[at] = value
        with pytest.raises(MessageError):
            SaSet.decode(bytes(wrong))
    with pytest.raises(MessageError):
        SaSet.decode(data + b"x")


@given(st.sampled_from(EventKind), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_an_event_comes_back_as_it_was(kind: EventKind, incarnation: int, spi: int) -> None:
    event = SaEvent(kind, incarnation, spi)
    assert SaEvent.decode(event.encode()) == event


@given(st.binary(max_size=200))
def test_any_octets_are_a_message_or_an_error(data: bytes) -> None:
    for kind in (SaSet, SaEvent):
        try:
            message = kind.decode(data)
        except MessageError:
            continue
        assert kind.decode(message.encode()) == message


@pytest.mark.parametrize("length", range(len(ONE)))
def test_a_set_cut_short_is_refused(length: int) -> None:
    with pytest.raises(MessageError):
        SaSet.decode(ONE[:length])


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 2), (0, 3), (9, SLOTS + 1), (9, 0), (10, 2), (10, 0), (28 + 2, 0), (28 + 5, SLOTS), (28 + 6, 31)],
    ids=[
        "stop and an SA to send on",
        "kind",
        "too many SAs",
        "too few",
        "two outbound",
        "none outbound",
        "reserved SPI",
        "slot",
        "key size",
    ],
)
def test_a_set_with_one_octet_wrong_is_refused(at: int, value: int) -> None:
    data = bytearray(ONE)
    data[at] = value
    with pytest.raises(MessageError):
        SaSet.decode(bytes(data))


@pytest.mark.parametrize("data", [b"", ONE, SaEvent(EventKind.HEARD, 1, 2).encode() + b"\0", b"\0" * 13, b"\x09" * 13])
def test_what_is_not_one_event_is_refused(data: bytes) -> None:
    with pytest.raises(MessageError):
        SaEvent.decode(data)


def test_octets_behind_a_set_are_refused() -> None:
    with pytest.raises(MessageError):
        SaSet.decode(ONE + b"\0")


def test_a_key_is_not_shown() -> None:
    shown = repr(SaSet(1, (SaKeys(256, True, b"K" * 32, b"SALT"),)))
    assert "KKK" not in shown
    assert "SALT" not in shown


@pytest.mark.parametrize(("esn", "last"), [(True, 2**64 - 1), (False, 2**32 - 1)])
def test_the_last_number_that_may_be_sent(esn: bool, last: int) -> None:
    assert SaKeys(256, esn, bytes(32), bytes(4)).sequence_max == last
