"""What changes while keyd runs: no SA ends that the change does not name, and what it does name ends when it is to."""

from __future__ import annotations

import ast
import contextlib
import random
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certkit import Ca, credentials
from ikekit import WALL
from propkit import examples
from test_pair_ends import certified, empty, fill, lossless, nobody_sends, psk, spis
from test_pairs import STEP_S, Side, World

from fwd.datapath import tuning
from fwd.keyd import ike
from fwd.keyd.pair import Pair
from fwd.keyd.pairs import SPARES
from fwd.model.config import Peering
from fwd.model.keys import CertificateKeys, PskKeys
from fwd.model.words import Strict, change_of
from fwd.proto.ike import exchanges, rekey
from fwd.proto.ike.auth import Credentials, Psk
from fwd.proto.ike.numbers import Notify
from fwd.proto.ike.payloads import notified
from fwd.proto.ike.sa import IkeSa
from fwd.proto.ike.selectors import Selector
from fwd.proto.ike.trust import Crl, Rules

OLD, NEW = b"both sides have this secret", b"another secret than before"
BY_SUPERVISOR = {"members", "mss_clamp", "drain_deadline"}  # steps, guards, and when a member has to be gone
KEYD = Path(ike.__file__).parent


def change(world: World, side: Side, known: Credentials | None = None, **changes: Any) -> None:
    """As keyd does when the supervisor tells it; a changed secret comes to stay."""
    keys = changes.pop("keys", side.peering.keys)
    side.peering = side.peering.model_copy(update={**changes, "keys": keys})
    assert side.keyd is not None
    side.certificates = known or side.certificates
    side.keyd.change(side.peering, side.certificates or Psk(OLD), world.now)


def ike_sa(side: Side) -> IkeSa:
    assert side.keyd is not None
    sa = side.keyd.endpoint.established("p")
    assert sa is not None
    return sa


def live(model: type[Strict]) -> set[str]:
    return {key for key in model.model_fields if key != "keys" and change_of(model, key) == "live"}


def test_every_live_key_of_a_peering_is_read_by_who_follows_it(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By demux and members from their board, by keyd when it is told of a change, or by the supervisor itself."""
    world = World(undo)
    world.run(1.0)
    read: set[str] = set()

    def noted(peering: Peering, name: str) -> Any:
        read.add(name)
        return object.__getattribute__(peering, name)

    side = world.sides[0]
    assert side.keyd is not None
    with monkeypatch.context() as patch:
        patch.setattr(Peering, "__getattribute__", noted)
        side.keyd.change(side.peering, Psk(OLD), world.now)
    assert live(Peering) - read - tuning.KEYS - BY_SUPERVISOR == set()


@pytest.mark.parametrize("model", [PskKeys, CertificateKeys])
def test_every_live_key_of_a_key_source_is_read_by_keyd(model: type[Strict]) -> None:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in KEYD.glob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert live(model) - read == {"source"}, "which class it is says that"


def test_what_does_not_concern_sas_leaves_them_as_they_are(undo: contextlib.ExitStack) -> None:
    world = World(undo)
    world.run(10.0)
    before, sa = spis(world), ike_sa(world.sides[0])
    words = {"dpd_delay": 3, "reauth_time": 3000, "grace": 5, "mobility": "none", "start_action": "none"}
    change(world, world.sides[0], keys=psk(**words), audit=False, rekey_time=7200, life_time=8000)
    lossless(world, 5)
    assert spis(world) == before
    assert ike_sa(world.sides[0]) is sa
    assert sa.connection.liveness_s == 3


@pytest.mark.parametrize(("before", "after"), [(1000, 10), (10, 1000)], ids=["shorter", "longer"])
def test_another_rekey_time_replaces_every_sa_in_time(undo: contextlib.ExitStack, before: int, after: int) -> None:
    """Shorter, it is over for those that there are; longer, they would end before it is."""
    world = World(undo, rekey_time=before)
    world.run(5.0)
    old = spis(world)
    for side in world.sides:
        change(world, side, rekey_time=after)
    for _ in range(round(20 / STEP_S)):
        world.run(STEP_S)
        assert all(member.outbound for side in world.sides for member in side.members)
    assert world.refused == 0
    assert not spis(world) & old


def test_other_subnets_replace_every_child_sa_and_no_ike_sa(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spares, too; and what is negotiated then has them, as soon as both sides do."""
    world = World(undo)
    world.run(5.0)
    old, sa = spis(world), ike_sa(world.sides[0])
    subnet = ip_network("10.77.0.0/16")
    mine, theirs = world.sides
    change(world, theirs, local_ts=[*theirs.peering.local_ts, subnet])
    change(world, mine, remote_ts=[*mine.peering.remote_ts, subnet])
    asked: list[bool] = []
    real = exchanges.respond_child

    def respond(sa: IkeSa, request: Any, now: float) -> Any:
        asked.append(notified(request, Notify.REKEY_SA) is not None)
        return real(sa, request, now)

    monkeypatch.setattr(rekey, "respond_child", respond)
    lossless(world, 20)
    assert world.refused == 0
    assert not spis(world) & old
    assert asked
    assert not any(asked), "what is rekeyed keeps its selectors (RFC 7296 §2.9.2): others are made beside it"
    assert all(1 <= len(member.inbound) <= 2 + SPARES for side in world.sides for member in side.members)
    assert ike_sa(mine) is sa
    assert subnet in sa.connection.remote_ts
    assert all(side.keyd is not None and not side.keyd.told(world.now).get("narrower") for side in world.sides)


@pytest.mark.parametrize(("before", "after"), [(1000, 10), (20, 1000), (0, 10)], ids=["shorter", "longer", "at all"])
def test_another_rekey_time_of_the_ike_sa_ends_it_by_a_successor(
    undo: contextlib.ExitStack, before: int, after: int
) -> None:
    world = World(undo, keys=psk(ike_rekey_time=before))
    world.run(15.0)
    sa = ike_sa(world.sides[0])
    old = spis(world)
    for side in world.sides:
        change(world, side, keys=psk(ike_rekey_time=after))
    lossless(world, 10)
    assert ike_sa(world.sides[0]) is not sa
    assert spis(world) == old, "Child SAs go along"


def test_other_proposals_are_those_of_what_comes_next(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=1)
    world.run(10.0)
    before = spis(world)
    for side in world.sides:
        change(world, side, keys=psk(esp_proposals=["aes128gcm16-x25519-esn"]))
    lossless(world, 2)
    assert spis(world) == before
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd.rekey(world.now)
    world.run(8.0)
    assert not spis(world) & before
    outbound = world.sides[0].members[0].outbound
    assert outbound is not None
    assert len(outbound.key) == 16


def test_who_is_to_begin_begins_at_once(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(start_action="none"))
    world.run(3.0)
    assert nobody_sends(world)
    change(world, world.sides[0], keys=psk(start_action="start"))
    world.run(1.0)
    lossless(world, 1)


def test_a_user_s_terminate_outlives_a_change_of_something_else(undo: contextlib.ExitStack) -> None:
    world = World(undo, theirs={"keys": psk(start_action="none")})
    world.run(2.0)
    assert world.sides[0].keyd is not None
    world.sides[0].keyd.terminate(world.now)
    world.run(1.0)
    change(world, world.sides[0], rekey_time=77)
    world.run(10.0)
    assert nobody_sends(world)


# -- secrets and identities ----------------------------------------------------------------------------------------


def test_a_secret_of_one_side_ends_what_the_old_one_authenticated_after_grace(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(grace=20))
    world.run(2.0)
    change(world, world.sides[0], Psk(NEW))
    lossless(world, 18)
    assert world.refused == 0
    assert world.sides[0].keyd is not None
    assert "have changed" in world.sides[0].keyd.told(world.now)["concern"]
    world.run(3.0)
    for member in world.sides[0].members:
        assert member.outbound is None
        assert not member.inbound
    change(world, world.sides[1], Psk(NEW))
    world.run(12.0)
    lossless(world, 2)


@pytest.mark.parametrize("apart_s", [0.0, 0.05, 0.3, 5.0])
def test_a_secret_that_both_sides_change_within_grace_loses_nothing(undo: contextlib.ExitStack, apart_s: float) -> None:
    world = World(undo, keys=psk(grace=60))
    world.run(2.0)
    before = spis(world)
    change(world, world.sides[0], Psk(NEW))
    world.run(apart_s)
    change(world, world.sides[1], Psk(NEW))
    lossless(world, 70)
    assert world.refused == 0
    assert not spis(world) & before
    for side in world.sides:
        assert side.keyd is not None
        assert not side.keyd.told(world.now)["concern"]
    world.check_spares()


def test_an_identity_is_changed_as_a_secret_is(undo: contextlib.ExitStack) -> None:
    names: list[dict[str, Any]] = [{"local_id": "one", "remote_id": "two"}, {"local_id": "two", "remote_id": "one"}]
    world = World(undo, keys=psk(grace=30))
    world.run(2.0)
    sa = ike_sa(world.sides[0])
    for side, of in zip(world.sides, names, strict=True):
        change(world, side, keys=psk(grace=30, **of))
        world.run(0.5)
    lossless(world, 40)
    assert ike_sa(world.sides[0]) is not sa
    assert world.refused == 0


def test_a_member_that_dies_meanwhile_gets_no_longer_life(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=1, keys=psk(grace=20))
    world.run(2.0)
    side = world.sides[0]
    change(world, side, Psk(NEW))
    side.members[0].alive = False
    world.run(10.0)
    assert side.members[0].outbound is not None
    side.members[0].alive = False
    world.run(11.0)
    assert side.members[0].outbound is None


def test_a_record_that_was_taken_just_before_ends_in_time_too(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """keyd has not seen yet that it was taken, and the member has no room to be told."""
    world = World(undo, members=1, keys=psk(grace=20))
    world.run(2.0)
    side = world.sides[0]
    member = side.members[0]
    with monkeypatch.context() as patch:
        patch.setattr(member, "read", lambda: None)
        fill(member)
        member.start()
        change(world, side, Psk(NEW))
        world.run(1.0)
        empty(member)
    lossless(world, 17)
    world.run(3.0)
    assert side.members[0].outbound is None


def test_keyd_s_death_in_the_grace_time_prolongs_nothing(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(grace=20))
    world.run(2.0)
    side = world.sides[0]
    change(world, side, Psk(NEW))
    world.run(5.0)
    side.start_keyd(world.now, NEW)
    lossless(world, 12)
    world.run(4.0)
    assert not any(member.outbound for member in side.members)


def test_a_crl_ends_at_once_what_it_names(undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike, "time", SimpleNamespace(time=lambda: WALL))
    ca = Ca()
    mine, theirs = credentials(ca, "gw1.example"), credentials(ca, "gw2.example")
    world = World(undo, keys=certified(1), certificates=mine, theirs={"keys": certified(2), "certificates": theirs})
    world.run(5.0)
    side = world.sides[0]
    change(world, side, replace(mine, rules=Rules((Crl.of(ca.crl()),))))
    lossless(world, 2)
    change(world, side, replace(mine, rules=Rules((Crl.of(ca.crl(theirs.chain[0])),))))
    world.run(0.5)
    assert not any(member.outbound or member.inbound for member in side.members)


def test_random_changes_of_either_side_lose_nothing(undo: contextlib.ExitStack) -> None:
    world, dice = World(undo, rekey_time=60, keys=psk(grace=60)), random.Random(11)
    world.run(2.0)
    for number in range(examples(200)):
        side = dice.choice(world.sides)
        assert isinstance(side.peering.keys, PskKeys)
        word, values = dice.choice(
            [
                ("dpd_delay", (2, 10, 0)),
                ("ike_rekey_time", (20, 100, 0)),
                ("reauth_time", (15, 300, 0)),
                ("mobility", ("port", "address", "none")),
                ("rekey_time", (15, 60, 600, 0)),
                ("secret", ()),
            ]
        )
        if word == "secret":
            for one in world.sides:
                change(world, one, Psk(b"the secret of number %d" % number))
        elif word == "rekey_time":
            change(world, side, rekey_time=dice.choice(values))
        else:
            change(world, side, keys=side.peering.keys.model_copy(update={word: dice.choice(values)}))
        lossless(world, dice.choice([1, 3, 8]))
    assert world.refused == 0


def test_what_the_peer_agrees_to_later_is_sent_on_at_once(undo: contextlib.ExitStack) -> None:
    """It makes Child SAs for all of it when it changes; those that carry less are left, on both sides."""
    world = World(undo)
    world.run(5.0)
    subnet = ip_network("10.77.0.0/16")
    mine, theirs = world.sides
    change(world, mine, remote_ts=[*mine.peering.remote_ts, subnet])
    world.run(10.0)
    assert all(member.outbound is not None and member.outbound.narrowed for member in mine.members)
    change(world, theirs, local_ts=[*theirs.peering.local_ts, subnet])
    lossless(world, 2)
    for side in world.sides:
        assert all(member.outbound is not None and not member.outbound.narrowed for member in side.members)


@pytest.mark.parametrize("removes", [False, True], ids=["more", "fewer"])
@pytest.mark.parametrize("starts", [False, True], ids=["more-child-sas", "ike-sa"])
def test_what_is_under_way_while_subnets_change_is_superseded(
    undo: contextlib.ExitStack, starts: bool, removes: bool
) -> None:
    """It has the subnets of before, since those were offered for it."""
    subnet = ip_network("10.77.0.0/16")
    world = World(undo)
    mine, theirs = world.sides
    if removes:
        change(world, mine, remote_ts=[*mine.peering.remote_ts, subnet])
        change(world, theirs, local_ts=[*theirs.peering.local_ts, subnet])
    if not starts:
        world.run(5.0)
        mine.members[0].alive = False
        mine.members[0].start()
    answered = answers_of(world)

    change(world, theirs, local_ts=theirs.peering.local_ts[:-1] if removes else [*theirs.peering.local_ts, subnet])
    change(world, mine, remote_ts=mine.peering.remote_ts[:-1] if removes else [*mine.peering.remote_ts, subnet])
    assert mine.keyd is not None
    for datagram in answered:
        mine.keyd.receive(datagram.data, datagram.remote, datagram.local, world.now)
    late = [pair for pair in pairs_of(mine) if pair.keys.remote_ts != selectors(mine)[1]]
    assert late
    assert not any(pair.is_fresh(0) for pair in late), "whatever the peer makes of it"

    world.run(15.0)
    for side in world.sides:
        assert all((pair.keys.local_ts, pair.keys.remote_ts) == selectors(side) for pair in pairs_of(side))
        assert all(member.outbound is not None and not member.outbound.narrowed for member in side.members)


def selectors(side: Side) -> tuple[tuple[Selector, ...], tuple[Selector, ...]]:
    local, remote = (tuple(map(Selector.of, ts)) for ts in (side.peering.local_ts, side.peering.remote_ts))
    return local, remote


def pairs_of(side: Side) -> list[Pair]:
    assert side.keyd is not None
    return [pair for member in side.keyd.members for pair in member._pairs.values()]


def answers_of(world: World) -> list[Any]:
    """Let the first side ask, and the other answer; what that has sent then, with a Child SA in it, is under way."""
    mine, theirs = world.sides
    assert mine.keyd is not None
    assert theirs.keyd is not None
    before = len(pairs_of(theirs))
    for _ in range(1000):
        world.now += STEP_S
        for side in (mine, theirs):
            assert side.keyd is not None
            side.keyd.tick(world.now)
        for datagram in mine.keyd.datagrams():
            theirs.keyd.receive(datagram.data, datagram.remote, datagram.local, world.now)
        answers = list(theirs.keyd.datagrams())
        if len(pairs_of(theirs)) > before:
            return answers
        for datagram in answers:
            mine.keyd.receive(datagram.data, datagram.remote, datagram.local, world.now)
    raise AssertionError("no Child SA was asked for")
