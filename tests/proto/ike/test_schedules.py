"""Any schedule of losses, doubles, delays and commands on both sides ends in agreement, or with the peer reported dead.

After a while of trouble the network carries everything again. Then there is one IKE SA with the same Child SAs on both
sides, or each side has told that it is closed; never two halves that disagree.
"""

from __future__ import annotations

import random

import pytest
from ikekit import NAME, Net, for_member
from propkit import examples

from fwd.proto.ike.events import Closed

SCHEDULES = examples(300)
MEMBERS = 3
REST_S = 400.0  # longer than any retransmission, retry or REKEYED state


def trouble(net: Net, dice: random.Random) -> None:
    """From now on datagrams are lost, doubled and delayed; how much, the schedule says."""
    loss, double, delay = dice.choice([0.0, 0.1, 0.3, 0.6]), dice.choice([0.0, 0.2]), dice.choice([0.01, 0.3, 2.0])

    def judge(datagram: object) -> list[float]:
        if dice.random() < loss:
            return []
        copies = 1 + (dice.random() < double)
        return [dice.random() * delay for _ in range(copies)]

    net.judge = judge


def command(net: Net, dice: random.Random) -> None:
    """One thing that one side wants, or both at once."""
    what = dice.choice(["create", "create", "rekey", "rekey", "rekey", "rekey", "delete", "ike", "ike", "ike", "end"])
    sides = dice.choice([[net.a], [net.b], [net.a, net.b]])
    number = dice.randrange(10)
    pairs = sorted((up.child.inbound.spi, up.child.outbound.spi) for up in net.a.children().values())
    for side in sides:
        endpoint = side.endpoint
        if what == "create":
            member = dice.randrange(MEMBERS)
            endpoint.create_child(NAME, member, for_member(member), net.now)
        elif what == "ike":
            endpoint.rekey_ike(NAME, net.now)
        elif what == "end":
            endpoint.terminate(NAME, net.now)
        elif pairs:
            spi = pairs[number % len(pairs)][0 if side is net.a else 1]
            (endpoint.rekey_child if what == "rekey" else endpoint.delete_child)(NAME, spi, net.now)


def run(seed: int) -> Net:
    dice = random.Random(seed)
    net = Net(seed)
    if dice.random() < 0.5:
        net.connect()
        trouble(net, dice)
    else:
        trouble(net, dice)
        for side in dice.choice([[net.a], [net.a, net.b], [net.b, net.a]]):
            side.endpoint.initiate(NAME, net.now)
            net.run(dice.choice([0.0, 0.02, 0.5]))
    for _ in range(dice.randint(1, 12)):
        command(net, dice)
        net.run(dice.choice([0.0, 0.01, 0.02, 0.5, 3.0]))
    net.run(dice.choice([0.0, 5.0, 60.0]))
    net.judge = lambda datagram: [0.01]
    net.run(REST_S)
    return net


@pytest.mark.parametrize("part", range(10))
def test_every_schedule_ends_in_agreement(part: int) -> None:
    for seed in range(part, SCHEDULES, 10):
        net = run(seed)
        try:
            net.check_agreement()
            for side in (net.a, net.b):
                assert len(side.endpoint.sas(NAME)) <= 1, "an IKE SA is left over"
                assert side.live() or side.of(Closed) or not side.events, "nobody was told"
        except AssertionError as error:
            raise AssertionError(f"schedule {seed}: {error}") from error
