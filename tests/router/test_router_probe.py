"""The probes of a router: who may speak, and what answers and silence mean."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.proto.probe import (
    NONCE_BYTES,
    PEERINGS_MAX,
    REQUEST_BYTES,
    Answer,
    Said,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
    peering_id,
)
from fwd.router.reach import EVERY_S, HITS, MISSES, Reach

KEY, OTHER = bytes(range(32)), bytes(32)
NONCE = bytes(NONCE_BYTES)
SAID = Answer(NONCE, {peering_id("to-b"): Said(True, 0.125), peering_id("to-c"): Said(False)}, draining=True, load=0.25)


class Probing:
    """A gateway that is probed every EVERY_S."""

    def __init__(self) -> None:
        self.reach, self.now = Reach(), 100.0

    def turns(self, count: int, *, answered: bool) -> None:
        for _ in range(count):
            nonce = os.urandom(NONCE_BYTES)
            self.reach.ask(nonce, self.now)
            if answered:
                self.reach.hear(Answer(nonce), self.now + 0.001)
            self.now += EVERY_S


@pytest.fixture
def probing() -> Probing:
    return Probing()


@pytest.fixture
def up() -> Probing:
    made = Probing()
    made.turns(HITS, answered=True)
    return made


def test_a_request_comes_back_as_its_nonce() -> None:
    assert decode_request(encode_request(NONCE, KEY), KEY) == NONCE


def test_an_answer_comes_back_as_it_was() -> None:
    assert decode_answer(encode_answer(SAID, KEY), KEY) == SAID


@pytest.mark.parametrize("data", [encode_request(NONCE, OTHER), encode_answer(SAID, KEY), b"", bytes(REQUEST_BYTES)])
def test_no_request_but_a_routers_is_answered(data: bytes) -> None:
    assert decode_request(data, KEY) is None


@pytest.mark.parametrize("data", [encode_answer(SAID, OTHER), encode_request(NONCE, KEY), b""])
def test_no_answer_but_a_gateways_is_believed(data: bytes) -> None:
    assert decode_answer(data, KEY) is None


@given(st.integers(0, len(encode_answer(SAID, KEY)) - 1), st.integers(1, 255))
def test_an_answer_that_was_changed_anywhere_is_none(at: int, by: int) -> None:
    data = bytearray(encode_answer(SAID, KEY))
    data[at] ^= by

    assert decode_answer(bytes(data), KEY) is None


@given(st.binary(max_size=100))
def test_any_octets_are_read(data: bytes) -> None:
    assert decode_request(data, KEY) is None
    assert decode_answer(data, KEY) is None


def test_an_answer_has_room_for_so_many_peerings_and_no_more() -> None:
    peerings = {peering_id(str(number)): Said(True) for number in range(PEERINGS_MAX + 1)}
    with pytest.raises(ValueError, match="64 at most"):
        encode_answer(Answer(NONCE, peerings), KEY)


def test_a_gateway_is_down_until_ten_probes_are_answered(probing: Probing) -> None:
    probing.turns(HITS - 1, answered=True)
    assert not probing.reach.up
    probing.turns(1, answered=True)
    assert probing.reach.up


def test_one_that_is_up_is_down_when_three_in_a_row_are_missed(up: Probing) -> None:
    up.turns(MISSES, answered=False)
    assert up.reach.up, "the first may still be answered"
    up.turns(1, answered=False)
    assert not up.reach.up


def test_an_answer_between_begins_the_count_anew(up: Probing) -> None:
    for _ in range(20):
        up.turns(MISSES - 1, answered=False)
        up.turns(1, answered=True)
    assert up.reach.up
    assert 0.6 < up.reach.loss < 0.7


def test_what_was_missed_before_it_came_up_is_no_loss_of_its(probing: Probing) -> None:
    probing.turns(HITS, answered=False)
    probing.turns(MISSES + HITS, answered=True)
    assert probing.reach.up
    assert probing.reach.loss == 0.0
    probing.turns(1, answered=False)
    probing.turns(MISSES, answered=True)
    assert probing.reach.loss > 0.1, "what it misses now is"


def test_a_long_way_is_no_loss(up: Probing) -> None:
    for _ in range(20):
        nonces = [os.urandom(NONCE_BYTES) for _ in range(2)]
        for nonce in nonces:
            up.reach.ask(nonce, up.now)
            up.now += EVERY_S
        for nonce in nonces:
            up.reach.hear(Answer(nonce), up.now)

    assert up.reach.up
    assert up.reach.loss == 0.0


def test_a_router_that_was_late_has_no_say(up: Probing) -> None:
    for _ in range(10):
        up.turns(MISSES, answered=False)
        up.reach.void()
    assert up.reach.up


def test_what_the_kernel_knows_to_be_gone_is_down_at_once(up: Probing) -> None:
    up.reach.lose()
    assert not up.reach.up


def test_an_answer_to_nothing_that_was_asked_is_not_taken(up: Probing) -> None:
    assert not up.reach.hear(Answer(bytes(NONCE_BYTES)), up.now)


def test_an_answer_counts_once(up: Probing) -> None:
    nonce = os.urandom(NONCE_BYTES)
    up.reach.ask(nonce, up.now)
    assert up.reach.hear(Answer(nonce), up.now)
    assert not up.reach.hear(Answer(nonce), up.now)


def test_the_round_trip_is_that_of_the_probe_which_is_answered(up: Probing) -> None:
    first, second = os.urandom(NONCE_BYTES), os.urandom(NONCE_BYTES)
    up.reach.ask(first, 200.0)
    up.reach.ask(second, 200.0 + EVERY_S)
    up.reach.hear(Answer(first), 200.15)

    assert up.reach.rtt_s == pytest.approx(0.15)
