"""Any octets, from anybody: an endpoint never raises, and stays within its limits (harnesses.py has what must hold)."""

from __future__ import annotations

import harnesses
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ikekit import NAME, A, B, Net, for_member
from propkit import examples

from fwd.proto.ike.crypto import Sealer
from fwd.proto.ike.message import Header, seal_message
from fwd.proto.ike.numbers import Exchange, Flag, Protocol
from fwd.proto.ike.payloads import Delete

EXAMPLES = {"codec": 1000, "strangers": 150, "peer": 150, "insider": 300, "named": 1000}


@pytest.mark.parametrize("name", harnesses.HARNESSES)
def test_any_octets(name: str) -> None:
    @settings(max_examples=examples(EXAMPLES[name]))
    @given(st.binary(max_size=400))
    def run(data: bytes) -> None:
        harnesses.HARNESSES[name](data)

    run()


@pytest.mark.parametrize("name", harnesses.HARNESSES)
def test_what_the_fuzzer_starts_from(name: str) -> None:
    for seed in harnesses.seeds(name):
        harnesses.HARNESSES[name](seed)


def test_a_delete_of_thousands_costs_no_more_for_each_however_many_child_sas_there_are() -> None:
    net = Net().connect()
    for number in range(100):
        net.a.endpoint.create_child(NAME, number % 8, for_member(number % 8), net.now)
    net.run(5)
    (ours,), (theirs,) = net.a.live(), net.b.live()
    assert len(theirs.children) == 101
    unknown = [Delete(Protocol.ESP, tuple(range(first, first + 256))) for first in range(256, 60 * 256, 256)]
    header = Header(ours.spi_i, ours.spi_r, Exchange.INFORMATIONAL, Flag.INITIATOR, theirs._window.expected_id)
    (data,) = seal_message(header, unknown, Sealer(ours.keys.ei), 1 << 40)
    with harnesses.counted(len(data)):
        net.b.endpoint.receive(data, B, A, net.now)
    assert len(net.b.endpoint.datagrams_to_send()) == 1, "it was read and answered"
