"""Strangers, who can write a known peer's address, cannot make an endpoint work, or hold, as much as they like."""

from __future__ import annotations

from dataclasses import replace

import pytest
from certkit import Ca, credentials
from hostile import chained, raw_chain
from ikekit import NAME, A, B, Net, Side, connection
from test_exchanges import half_open

from fwd.proto.ike import endpoint, strangers, table
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.limits import (
    COOKIES_BYTES_PER_S,
    COPIES_PER_S,
    HALF_OPEN_BYTES,
    HALF_OPEN_COOKIES,
    HALF_OPEN_S,
    INIT_BYTES_MAX,
    INIT_PAYLOADS_MAX,
    PROVEN_PER_S,
    PROVEN_PORT_PER_S,
    UNPROVEN_PER_S,
)
from fwd.proto.ike.message import HEADER_BYTES, Header, decode_clear, encode_clear
from fwd.proto.ike.numbers import Exchange, Flag, Notify, Payload
from fwd.proto.ike.payloads import Nonce, Notification
from fwd.proto.ike.rate import Rate


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    rate = Rate(per_s=10, burst=3)
    assert [rate.allows(100.0) for _ in range(5)] == [True] * 3 + [False] * 2
    assert [rate.allows(100.25) for _ in range(3)] == [True, True, False]
    assert sum(rate.allows(101 + n / 1000) for n in range(10_000)) in (102, 103)


def test_after_a_pause_there_is_no_more_than_a_burst() -> None:
    rate = Rate(per_s=10, burst=3)
    rate.allows(0.0)
    assert sum(rate.allows(1e6) for _ in range(99)) == 3


def first_message(seed: int = 2, now: float = 1000.0) -> bytes:
    """IKE_SA_INIT of a stranger."""
    other = Net(seed)
    other.a.endpoint.initiate(NAME, now)
    (request,) = other.a.endpoint.datagrams_to_send()
    return request.data


def prove(net: Net, one: Net, port: int) -> None:
    """Somebody who receives at `port` begins, and gives back the cookie that is asked for."""
    one.a.endpoint.initiate(NAME, net.now)
    for _ in range(2):
        sent = one.a.endpoint.datagrams_to_send()
        for request in [one for one in sent if Header.decode(one.data).exchange == Exchange.IKE_SA_INIT]:
            net.b.endpoint.receive(request.data, B, (A[0], port), net.now)
            for answer in net.b.endpoint.datagrams_to_send():
                one.a.endpoint.receive(answer.data, A, B, net.now)


def under_pressure() -> Net:
    """As many half-open IKE SAs as make cookies necessary."""
    net = Net()
    half_open(net, HALF_OPEN_COOKIES)
    net.b.endpoint.datagrams_to_send()
    return net


def test_of_those_without_a_cookie_only_so_many_a_second_are_answered_by_a_key_exchange() -> None:
    net = Net()
    half_open(net, 2 * UNPROVEN_PER_S)
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES
    answers = net.b.endpoint.datagrams_to_send()
    assert len(answers) == 2 * UNPROVEN_PER_S, "the others get a cookie"


def test_refusals_without_a_cookie_are_limited_too() -> None:
    """They leave nothing half open, which would put an end to them."""
    net = Net(a=connection("a", ike=("aes128gcm16-prfsha256-ecp256",)))
    half_open(net, 3 * UNPROVEN_PER_S)
    assert not net.b.endpoint.sas(NAME)
    answers = [decode_clear(Header.decode(one.data), one.data) for one in net.b.endpoint.datagrams_to_send()]
    kinds = [one.kind for (one,) in answers if isinstance(one, Notification)]
    assert kinds == [Notify.NO_PROPOSAL_CHOSEN] * UNPROVEN_PER_S + [Notify.COOKIE] * 2 * UNPROVEN_PER_S


def test_cookies_are_limited_by_bandwidth() -> None:
    net = under_pressure()
    data = first_message()
    for port in range(1, 20_000):
        net.b.endpoint.receive(data, B, (A[0], port), net.now)
    asked = net.b.endpoint.datagrams_to_send()
    assert 5_000 < len(asked) < 10_000
    assert sum(len(one.data) for one in asked) <= COOKIES_BYTES_PER_S
    assert all(len(one.data) < len(data) for one in asked)


def test_junk_that_is_no_first_message_takes_nothing_from_those_that_are() -> None:
    """20,000 datagrams of 28 octets a second, while an honest peer begins."""
    net = Net()
    junk = Header(b"junkjunk", bytes(8), Exchange.IKE_SA_INIT, Flag.INITIATOR, 0, 0, 28).encode()
    net.a.endpoint.initiate(NAME, net.now)
    while not net.a.live() and net.now < 1001:
        for _ in range(200):
            net.b.endpoint.receive(junk, B, (A[0], 7), net.now)
        net.run(0.01)
    assert net.a.live()
    assert net.now < 1000.2


def test_an_honest_peer_connects_while_forged_first_messages_come() -> None:
    """5,000 a second, with everything that a first message has; none of them can show a cookie."""
    net = Net()
    data = first_message()
    net.a.endpoint.initiate(NAME, net.now)
    number = 0
    while not net.a.live() and net.now < 1003:
        for _ in range(50):
            number += 1
            forged = data[:4] + number.to_bytes(4, "big") + data[8:]
            net.b.endpoint.receive(forged, B, (A[0], 1024 + number % 60_000), net.now)
        net.run(0.01)
    assert net.a.live()


def test_a_cookie_counts_only_as_the_first_payload() -> None:
    net = under_pressure()
    held = len(net.b.endpoint.sas(NAME))
    net.a.endpoint.initiate(NAME, net.now)
    (request,) = net.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(request.data, B, A, net.now)
    (asked,) = net.b.endpoint.datagrams_to_send()
    net.a.endpoint.receive(asked.data, A, B, net.now)
    (again,) = net.a.endpoint.datagrams_to_send()
    header = Header.decode(again.data)
    cookie, *others = decode_clear(header, again.data)
    net.b.endpoint.receive(encode_clear(header, [*others, cookie]), B, A, net.now)
    assert len(net.b.endpoint.sas(NAME)) == held
    net.b.endpoint.receive(again.data, B, A, net.now)
    assert len(net.b.endpoint.sas(NAME)) == held + 1


@pytest.mark.parametrize("what", ["made up", "another port", "another SPI", "another nonce"])
def test_a_cookie_is_good_for_what_it_was_given_for_alone(what: str) -> None:
    net = under_pressure()
    held = len(net.b.endpoint.sas(NAME))
    net.a.endpoint.initiate(NAME, net.now)
    net.b.endpoint.receive(net.a.endpoint.datagrams_to_send()[0].data, B, A, net.now)
    net.a.endpoint.receive(net.b.endpoint.datagrams_to_send()[0].data, A, B, net.now)
    (again,) = net.a.endpoint.datagrams_to_send()
    header = Header.decode(again.data)
    cookie, *others = decode_clear(header, again.data)
    assert isinstance(cookie, Notification)

    remote = A
    match what:
        case "made up":
            cookie = replace(cookie, data=bytes(len(cookie.data)))
        case "another port":
            remote = A[0], A[1] + 1
        case "another SPI":
            header = replace(header, spi_i=b"somebody")
        case "another nonce":
            others = [replace(one, data=bytes(32)) if isinstance(one, Nonce) else one for one in others]
    net.b.endpoint.receive(encode_clear(header, [cookie, *others]), B, remote, net.now)
    assert len(net.b.endpoint.sas(NAME)) == held
    net.b.endpoint.receive(again.data, B, A, net.now)
    assert len(net.b.endpoint.sas(NAME)) == held + 1


def test_those_with_cookies_are_limited_by_where_they_come_from() -> None:
    """Who can read what is sent to an address has its cookies, and may come with as many as it likes."""
    net = under_pressure()
    for n in range(100):
        prove(net, Net(100 + n), 4711)
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES + 2 * PROVEN_PORT_PER_S
    prove(net, Net(99), 4712)
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES + 2 * PROVEN_PORT_PER_S + 1


def test_all_ports_together_are_limited_and_the_peers_own_has_a_share_of_its_own() -> None:
    net = under_pressure()
    for n in range(2 * PROVEN_PER_S):
        prove(net, Net(100 + n), 10_000 + n)
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES + PROVEN_PER_S
    prove(net, Net(99), A[1])
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES + PROVEN_PER_S + 1


def test_the_oldest_half_open_ike_sa_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HALF_OPEN_COOKIES", 3)
    monkeypatch.setattr(strangers, "HALF_OPEN_MAX", 5)
    net = Net()
    for n in range(8):
        prove(net, Net(100 + n), 10_000 + n)
        net.b.collect()
        oldest = [sa.remote[1] for sa in net.b.endpoint.sas(NAME)]
        assert oldest == [10_000 + k for k in range(max(0, n - 4), n + 1)]
    net.b.collect()
    assert not net.b.events, "and nothing is told of that"


def test_half_open_ike_sas_of_all_endpoints_take_no_more_than_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "HALF_OPEN_COOKIES", 2)
    monkeypatch.setattr(table, "HALF_OPEN_BYTES_ALL", 3 * HALF_OPEN_BYTES + 1000)
    commons, net = table.Commons(), Net()
    ends = [Endpoint([connection("b")], net.dice.randbytes, lambda: 0.0, commons=commons) for _ in range(3)]
    for number, end in enumerate(ends):
        net.b = Side(end)
        for n in range(8):
            prove(net, Net(100 * number + n), 10_000 + n)
        net.b.collect()
    assert [len(end.sas(NAME)) for end in ends] == [5, 2, 2]
    net.run(HALF_OPEN_S + 1)
    for end in ends:
        end.handle_timeout(net.now)
    assert commons.half_open.left == 3 * HALF_OPEN_BYTES + 1000
    assert not commons.homes


def test_copies_of_a_first_message_are_answered_a_few_times_a_second() -> None:
    """Each answer goes to whoever's address it was, and may be longer than what it answers."""
    ca = Ca()
    many = tuple(Ca(f"ca{n}").certificate for n in range(20))
    mine = replace(credentials(ca, "b.example"), authorities=(ca.certificate, *many))
    net = Net(b=connection("b", credentials=mine))
    data = first_message()
    for _ in range(3000):
        net.b.endpoint.receive(data, B, A, net.now)
    answers = net.b.endpoint.datagrams_to_send()
    assert len(answers) == 1 + 2 * COPIES_PER_S
    assert max(len(one.data) for one in answers) < 2.5 * len(data)
    net.now += 1
    net.b.endpoint.receive(data, B, A, net.now)
    assert len(net.b.endpoint.datagrams_to_send()) == 1


# -- what a first message may be ------------------------------------------------------------------------------------


def chain_of(data: bytes) -> list[tuple[int, int, bytes]]:
    return raw_chain(Header.decode(data).first_payload, data[HEADER_BYTES:])


def answered(chain: list[tuple[int, int, bytes]]) -> bool:
    """Whether it is answered at all, or takes anything of those that would be."""
    net, header = Net(), Header.decode(first_message())
    tokens = net.b.endpoint._strangers._unproven._tokens
    net.b.endpoint.receive(chained(header, chain), B, A, net.now)
    sent = net.b.endpoint.datagrams_to_send()
    assert bool(sent) == (net.b.endpoint._strangers._unproven._tokens != tokens)
    return bool(sent)


NOT_YET = [kind for kind in Payload if kind not in (0, *map(int, (Payload.SA, Payload.KE, Payload.NONCE, 41, 43)))]


@pytest.mark.parametrize("kind", NOT_YET, ids=lambda kind: kind.name)
def test_what_is_for_later_messages_is_not_looked_at_in_a_first_one(kind: Payload) -> None:
    chain = chain_of(first_message())
    assert answered(chain)
    assert not answered([*chain, (kind, 0, bytes(40))])


@pytest.mark.parametrize("kind", [Payload.SA, Payload.KE, Payload.NONCE], ids=lambda kind: kind.name)
def test_a_first_message_has_one_sa_ke_and_nonce_each(kind: Payload) -> None:
    chain = chain_of(first_message())
    (one,) = [payload for payload in chain if payload[0] == kind]
    assert not answered([*chain, one])
    assert not answered([payload for payload in chain if payload is not one])


def test_a_first_message_is_bounded_in_length_and_payloads() -> None:
    chain = chain_of(first_message())
    room = INIT_BYTES_MAX - len(first_message())
    assert answered([*chain, (Payload.VENDOR, 0, bytes(room - 4))])
    assert not answered([*chain, (Payload.VENDOR, 0, bytes(room - 3))])
    assert answered([*chain, *[(Payload.VENDOR, 0, b"")] * (INIT_PAYLOADS_MAX - len(chain))])
    assert not answered([*chain, *[(Payload.VENDOR, 0, b"")] * (INIT_PAYLOADS_MAX - len(chain) + 1)])


@pytest.mark.parametrize("octets", [1_452, 8_000, 65_000])
@pytest.mark.parametrize("cookie_first", [True, False])
def test_selectors_in_a_first_message_are_not_decoded(
    octets: int, cookie_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """26 ms each for 65,000 octets, if they were."""
    net, decoded = Net(), []
    monkeypatch.setattr(endpoint, "decode_clear", lambda *args: decoded.append(args))
    selector = bytes.fromhex("07000010 0000ffff 0a000001 0a000002")
    cookie = [(Payload.NOTIFY, 0, b"\0\0" + Notify.COOKIE.to_bytes(2, "big"))] if cookie_first else []
    chain = [*cookie, *[(Payload.TSI, 0, bytes([80, 0, 0, 0]) + selector * 80)] * (octets // 1300 or 1)]
    for _ in range(100):
        net.b.endpoint.receive(chained(Header.decode(first_message()), chain), B, A, net.now)
    assert not decoded
    assert not net.b.endpoint.datagrams_to_send()


def test_what_is_due_for_half_open_ike_sas_is_found_without_looking_at_all_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = Net()
    for number in range(100):
        net.now += 0.02
        prove(net, Net(1000 + number), 10_000 + number)
    assert len(net.b.endpoint.sas(NAME)) == 100
    walks: list[str] = []
    walk = table.IkeSas.of
    monkeypatch.setattr(table.IkeSas, "of", lambda sas, name: walks.append(name) or walk(sas, name))
    net.b.endpoint.next_timeout()
    net.b.endpoint.handle_timeout(net.now)
    assert len(walks) < 10
