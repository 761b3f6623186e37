"""Child SAs of which the peer allows less than is configured: what the data path must hold records to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ikekit import NAME, Net, ask, connection, for_member

from fwd.proto.ike import child as child_module
from fwd.proto.ike import payloads as p
from fwd.proto.ike.events import ChildRefused
from fwd.proto.ike.numbers import Exchange, Notify, Payload, ProtocolError
from fwd.proto.ike.selectors import SELECTORS_MAX, Selector, beyond, covers, merged, narrow, narrowed, words
from fwd.proto.sa import RANGES_MAX, Narrowed


def of(*words: str) -> tuple[Selector, ...]:
    return tuple(Selector.of(ip_network(word)) for word in words)


def ranges(*pairs: tuple[str, str]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((ip_address(first).packed, ip_address(last).packed) for first, last in pairs)


CONFIGURED = of("10.1.0.0/16", "fd01::/64"), of("10.2.0.0/16")


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        (of("10.1.0.0/17", "10.1.128.0/17"), ranges(("10.1.0.0", "10.1.255.255"))),
        (of("10.1.0.0/16", "10.1.7.0/24"), ranges(("10.1.0.0", "10.1.255.255"))),
        (of("10.1.3.0/24", "10.1.1.0/24"), ranges(("10.1.1.0", "10.1.1.255"), ("10.1.3.0", "10.1.3.255"))),
        (of("255.255.255.255/32", "::/128"), ranges(("255.255.255.255",) * 2, ("::",) * 2)),
    ],
)
def test_ranges_that_touch_are_one(selectors: Sequence[Selector], expected: object) -> None:
    assert merged(selectors) == merged(reversed(selectors)) == expected


def test_what_is_as_configured_costs_nothing_in_whatever_parts_it_is_said() -> None:
    assert narrowed(CONFIGURED, CONFIGURED) is None
    parts = of("fd01::/65", "10.1.128.0/17", "10.1.0.0/17", "fd01:0:0:0:8000::/65")
    assert narrowed(CONFIGURED, (parts, CONFIGURED[1])) is None


def test_what_is_less_is_held_on_both_sides() -> None:
    held = narrowed(CONFIGURED, (CONFIGURED[0], of("10.2.1.0/24")))
    assert held == Narrowed(merged(CONFIGURED[0]), ranges(("10.2.1.0", "10.2.1.255")))


def test_more_ranges_than_can_be_held_are_refused() -> None:
    many = tuple(Selector(IPv4Address(n), IPv4Address(n)) for n in range(0, 2 * RANGES_MAX + 2, 2))
    with pytest.raises(ProtocolError) as refused:
        narrowed(CONFIGURED, (many, CONFIGURED[1]))
    assert refused.value.notify is Notify.TS_UNACCEPTABLE
    assert narrowed(CONFIGURED, (many[:-1], CONFIGURED[1])) is not None


def test_the_pairs_of_subnets_that_do_not_wholly_pass() -> None:
    local, remote = (
        [ip_network(one) for one in side]
        for side in (["10.1.0.0/16", "10.3.0.0/16", "fd01::/64"], ["10.2.0.0/16", "fd02::/64"])
    )
    held = narrowed(
        (of(*map(str, local)), of(*map(str, remote))), (of("10.1.0.0/16", "fd01::/64"), of("10.2.0.0/16", "fd02::/65"))
    )
    assert held is not None
    pairs = [(str(one), str(other)) for one, other in beyond(held, local, remote)]
    assert pairs == [("10.3.0.0/16", "10.2.0.0/16"), ("fd01::/64", "fd02::/64")]
    assert words(held.local) == ["10.1.0.0/16", "fd01::/64"]


@pytest.mark.parametrize("begins", ["a", "b"])
def test_both_sides_hold_a_child_sa_to_what_was_agreed(begins: str) -> None:
    """The first one, a further one, and their successors; each side has its own view of it."""
    net = Net(1, b=connection("b", local_ts=(ip_network("10.2.1.0/24"),)))
    getattr(net, begins).endpoint.initiate(NAME, net.now)
    net.run(0.5)
    for side in (net.a, net.b):
        side.endpoint.create_child(NAME, 1, for_member(1), net.now)
        net.run(1)
        for spi in list(side.children()):
            side.endpoint.rekey_child(NAME, spi, net.now)
        net.run(3)
    net.check_agreement()
    whole, part = merged(of("10.1.0.0/16")), merged(of("10.2.1.0/24"))
    for up in net.a.children().values():
        assert up.child.inbound.narrowed == up.child.outbound.narrowed == Narrowed(whole, part)
    for up in net.b.children().values():
        assert up.child.inbound.narrowed is up.child.outbound.narrowed is None, "that is all it has configured"


PORT_80 = Selector(IPv4Address("10.2.0.0"), IPv4Address("10.2.255.255"), 6, 80, 80)


@pytest.mark.parametrize("first", [True, False])
def test_an_answer_that_is_for_one_port_is_refused(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """fwd does not look at ports: it could not hold to it."""
    net = Net()
    real = child_module.answer

    def answer(*args: Any, **more: Any) -> Any:
        keys, reply, nonce = real(*args, **more)
        ts = p.TrafficSelectors(Payload.TSR, (PORT_80,))
        return keys, [ts if getattr(one, "type", None) == Payload.TSR else one for one in reply], nonce

    if first:
        monkeypatch.setattr("fwd.proto.ike.initial.answer", answer)
        net.a.endpoint.initiate(NAME, net.now)
        net.run(0.5)
        assert net.a.children() == {}
        assert [event.notify for event in net.a.of(ChildRefused)] == [Notify.TS_UNACCEPTABLE]
        return
    net.connect()
    monkeypatch.setattr("fwd.proto.ike.exchanges.answer", answer)
    net.a.endpoint.create_child(NAME, 1, for_member(1), net.now)
    net.run(1)
    assert not net.a.children(), "what the peer has installed goes with the IKE SA"
    assert not net.b.children()


@pytest.mark.parametrize("also", [(), of("10.2.0.0/16")])
def test_an_offer_for_one_port_is_refused_unless_there_is_one_for_all(also: tuple[Selector, ...]) -> None:
    net = Net().connect()
    (up,) = net.a.children().values()
    offer: list[p.AnyPayload] = [
        p.SecurityAssociation(_offered()),
        p.Nonce(bytes(32)),
        p.KeyExchange(31, bytes([9] * 32)),
        p.TrafficSelectors(Payload.TSI, up.child.local_ts),
        p.TrafficSelectors(Payload.TSR, (PORT_80, *also)),
    ]
    reply = ask(net, net.b, Exchange.CREATE_CHILD_SA, offer)
    if also:
        assert p.selectors_of(reply, Payload.TSR) == also
    else:
        assert [one.kind for one in reply if isinstance(one, p.Notification)] == [Notify.TS_UNACCEPTABLE]


def _offered() -> tuple[Any, ...]:
    (proposal,) = connection("a").esp_proposals
    return (type(proposal)(proposal.protocol, proposal.transforms, 1, b"spi4"),)


# -- the same as by comparing each with each, and quicker ------------------------------------------------------------

SMALL = st.builds(
    lambda version, first, length, protocol: Selector(
        (IPv4Address, IPv6Address)[version](first), (IPv4Address, IPv6Address)[version](first + length), protocol
    ),
    st.integers(0, 1), st.integers(0, 40), st.integers(0, 12), st.sampled_from([0, 0, 0, 6]),
)  # fmt: skip
SUBNETS = st.lists(
    st.sampled_from([ip_network(f"0.0.0.{n}/{length}") for length in (28, 30, 32) for n in range(0, 48, 16)]),
    max_size=6,
)


@given(st.lists(SMALL, max_size=12), SUBNETS)
def test_a_responder_narrows_to_what_each_offer_has_of_each_subnet(offered: list[Selector], allowed: Any) -> None:
    plain: dict[Selector, None] = {}
    for subnet in map(Selector.of, allowed):
        for one in dict.fromkeys(offered):
            if one.takes_all and (common := one.within(subnet)):
                plain[common] = None
    assert narrow(offered, allowed) == tuple(plain)


@given(st.lists(SMALL, max_size=8), st.lists(SMALL, max_size=4))
def test_an_answer_is_covered_if_each_of_it_lies_in_one_of_the_offer(offer: list[Selector], answer: Any) -> None:
    assert covers(offer, answer) == all(any(one.within(other) == one for other in offer) for one in answer)


def test_a_child_sa_of_as_many_subnets_as_there_may_be_is_a_matter_of_milliseconds() -> None:
    """64 members negotiate one each. Compared each with each it takes more than a second. CPU time."""
    subnets = [ip_network(f"10.{n}.{n}.0/24") for n in range(SELECTORS_MAX)]
    ours = tuple(map(Selector.of, subnets))
    started_s = time.process_time()
    for _ in range(10):
        agreed = narrow(ours, subnets)
        assert covers(ours, agreed)
        held = narrowed((ours, ours), (agreed[:-1], agreed))
    assert (time.process_time() - started_s) / 10 < 0.25
    assert held is not None
    assert len(beyond(held, subnets, subnets)) == SELECTORS_MAX
