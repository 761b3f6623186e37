"""SAs and the messages about them: exactly one message is decoded, and no key is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.sa import DEADLINE_MAX_MS, SLOTS, EventKind, MessageError, SaEvent, SaKeys, SaSet

SAS = st.builds(
    SaKeys,
    spi=st.integers(256, 2**32 - 1),
    esn=st.booleans(),
    key=st.sampled_from([16, 32]).flatmap(lambda octets: st.binary(min_size=octets, max_size=octets)),
    salt=st.binary(min_size=4, max_size=4),
    slot=st.integers(0, SLOTS - 1),
    deadline_ms=st.integers(0, DEADLINE_MAX_MS),
)
_SOME = st.integers(0, 2**64 - 1), st.lists(SAS, max_size=SLOTS).map(tuple)
_UNTIL = st.integers(0, DEADLINE_MAX_MS)
SETS = st.builds(SaSet, *_SOME, st.none() | SAS, until_ms=_UNTIL) | st.builds(SaSet, *_SOME, st.none(), st.just(True))
ONE = SaSet(3, (SaKeys(256, True, bytes(32), bytes(4), 1),), SaKeys(257, False, bytes(32), bytes(4), 2)).encode()


@given(SETS)
def test_a_set_comes_back_as_it_was(message: SaSet) -> None:
    assert SaSet.decode(message.encode()) == message


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
    [(0, 2), (0, 3), (9, SLOTS + 1), (9, 0), (10, 2), (10, 0), (19 + 2, 0), (19 + 5, SLOTS), (19 + 6, 31)],
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
