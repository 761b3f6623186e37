"""Child SAs of which the peer allows less than is configured: what the data path must hold records to."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import islice
from typing import Any

import pytest
from callkit import calls_of
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
    count, pairs = beyond(held, local, remote)
    told = [(str(one), str(other)) for one, other in pairs]
    assert told == [("10.3.0.0/16", "10.2.0.0/16"), ("fd01::/64", "fd02::/64")]
    assert count == 2


@pytest.mark.parametrize(
    ("first", "last", "word"),
    [
        ("10.1.0.0", "10.1.255.255", "10.1.0.0/16"),
        ("10.1.0.1", "10.1.0.1", "10.1.0.1/32"),
        ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),
        ("10.1.0.1", "10.1.0.2", "10.1.0.1-10.1.0.2"),
        ("10.1.1.0", "10.1.2.255", "10.1.1.0-10.1.2.255"),
        ("fd01::", "fd01::ffff", "fd01::/112"),
        ("fd01::1", "fd01::ffff", "fd01::1-fd01::ffff"),
    ],
)
def test_a_range_is_told_as_a_subnet_or_by_its_ends(first: str, last: str, word: str) -> None:
    assert list(words(ranges((first, last)))) == [word]


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
    found = narrow(offered, allowed)
    assert merged(found) == merged(plain)
    assert set(found) <= set(plain), "each lies in one selector of the offer, as the peer demands"
    assert len(set(found)) == len(found)


@given(st.lists(SMALL, max_size=12), SUBNETS, SUBNETS)
def test_the_pairs_beyond_an_sa_are_those_of_which_a_side_is_not_wholly_in_it(
    held: list[Selector], local: Any, remote: Any
) -> None:
    def lies_in(subnet: Any) -> bool:
        return covers(
            [Selector(ip_address(low), ip_address(high)) for low, high in merged(held)], [Selector.of(subnet)]
        )

    count, pairs = beyond(Narrowed(merged(held), merged(held)), local, remote)
    told = list(pairs)
    plain = [(one, other) for one in local for other in remote if not (lies_in(one) and lies_in(other))]
    assert told == plain
    assert count == len(plain)


@given(st.lists(SMALL, max_size=8), st.lists(SMALL, max_size=4))
def test_an_answer_is_covered_if_each_of_it_lies_in_one_of_the_offer(offer: list[Selector], answer: Any) -> None:
    assert covers(offer, answer) == all(any(one.within(other) == one for other in offer) for one in answer)


LOWS = [(0xFD << 120) + (n << 80) for n in range(0, 2 * SELECTORS_MAX, 2)]
NETS = [ip_network(f"{IPv6Address(low)}/48") for low in LOWS]
OFFERS = {
    "the same": [Selector.of(net) for net in NETS],
    "odd parts": [Selector(net[1], net[-2]) for net in NETS],
    "all of it each": [Selector(IPv6Address(LOWS[0] - n), IPv6Address(LOWS[-1] + (1 << 80) + n)) for n in range(255)],
    "all but the ends": [Selector(IPv6Address(LOWS[0] + n), IPv6Address(LOWS[-1] + 300 + n)) for n in range(255)],
    "one in another": [Selector(IPv6Address(LOWS[0] + n), IPv6Address(LOWS[-1] - n)) for n in range(255)],
    "odd parts of one": [Selector(IPv6Address(LOWS[0] + n), IPv6Address(LOWS[0] + n)) for n in range(1, 510, 2)],
}


@pytest.mark.parametrize("offered", OFFERS.values(), ids=OFFERS.keys())
@pytest.mark.parametrize("allowed", [NETS, NETS[:1], [ip_network(f"fd00::/{bits}") for bits in range(16, 64)]])
def test_what_a_child_sa_costs_grows_with_the_selectors_and_not_with_their_pairs(
    offered: list[Selector], allowed: Any
) -> None:
    """Function calls, those of C as well: some of each selector, whatever a peer chooses. Each with each is 65,025."""
    ours = tuple(map(Selector.of, allowed))

    def negotiate() -> None:
        agreed = narrow(offered, allowed)
        assert covers(offered, agreed)
        held = narrowed((ours, ours), (agreed, agreed))
        if held is not None:
            _, pairs = beyond(held, allowed, allowed)
            told = [*map(str, islice(pairs, 4)), *islice(words(held.local), 4)]
            assert len(told) >= 2

    assert calls_of(negotiate) < 200 * SELECTORS_MAX
