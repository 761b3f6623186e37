"""Strangers, who can write a known peer's address, cannot make an endpoint work as much as they like."""

from __future__ import annotations

from ikekit import NAME, A, B, Net
from test_exchanges import half_open

from fwd.proto.ike.endpoint import ANSWERS_PER_S, HALF_OPEN_COOKIES, INIT_PER_S
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


def test_of_many_attempts_only_so_many_a_second_get_as_much_as_a_cookie() -> None:
    net = Net()
    half_open(net, 2 * INIT_PER_S)
    assert len(net.b.endpoint.datagrams_to_send()) == INIT_PER_S
    assert len(net.b.endpoint.sas(NAME)) == HALF_OPEN_COOKIES


def test_who_brings_a_cookie_gets_through_while_others_are_passed_over() -> None:
    net = Net()
    net.judge = lambda datagram: [0.0]
    half_open(net, INIT_PER_S - 1)
    net.b.endpoint.datagrams_to_send()
    net.a.endpoint.initiate(NAME, net.now)
    net.flush()
    assert net.step(net.now + 0.1)  # a cookie is asked for, and nothing is left for others
    half = len(net.b.endpoint.sas(NAME))
    stranger = Net(2)
    stranger.a.endpoint.initiate(NAME, net.now)
    (request,) = stranger.a.endpoint.datagrams_to_send()
    net.b.endpoint.receive(request.data, B, (A[0], 9), net.now)
    assert net.b.endpoint.datagrams_to_send() == []
    net.run(0.4)
    assert len(net.b.endpoint.sas(NAME)) == half + 1
    assert net.a.live()


def test_key_exchanges_for_those_with_cookies_are_limited_too() -> None:
    """Who can read what is sent to an address has its cookies, and may come with as many as it likes."""
    net = Net()
    half_open(net, HALF_OPEN_COOKIES)
    net.b.endpoint.datagrams_to_send()
    for n in range(2 * ANSWERS_PER_S):
        one = Net(100 + n)
        one.a.endpoint.initiate(NAME, net.now)
        for _ in range(2):
            (request,) = one.a.endpoint.datagrams_to_send()
            net.b.endpoint.receive(request.data, B, A, net.now)
            for answer in net.b.endpoint.datagrams_to_send():
                one.a.endpoint.receive(answer.data, A, B, net.now)
    assert len(net.b.endpoint.sas(NAME)) == ANSWERS_PER_S
