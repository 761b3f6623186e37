"""Keys end, whatever becomes of either keyd; and traffic goes on wherever the peer lets it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from certkit import Ca, credentials
from ikekit import WALL
from test_pairs import STEP_S, PlayedMember, World

from fwd.keyd import ike
from fwd.keyd.pair import Times
from fwd.model.keys import CertificateKeys, PskKeys
from fwd.proto.ike import rekey
from fwd.proto.ike.endpoint import Endpoint
from fwd.proto.ike.numbers import Notify, ProtocolError
from fwd.proto.ike.states import State
from fwd.proto.ike.trust import Crl, Rules

NEW = b"another secret, of one side"


def psk(**changes: Any) -> PskKeys:
    return PskKeys(source="psk", secret=Path("unused"), **changes)


def lossless(world: World, seconds: float) -> None:
    """Every member of both sides sends all the time, and is heard."""
    for _ in range(round(seconds)):
        world.check_sends()


def nobody_sends(world: World) -> bool:
    return all(member.outbound is None for side in world.sides for member in side.members)


def spis(world: World) -> set[int]:
    return {member.outbound.spi for side in world.sides for member in side.members if member.outbound}


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From then on each side refuses each CREATE_CHILD_SA about Child SAs, by a notify."""

    def refuse(notify: int) -> None:
        def respond(*_: Any) -> Any:
            raise ProtocolError(Notify(notify), "not with us")

        monkeypatch.setattr(rekey, "respond_child", respond)

    return refuse


def test_both_keyds_are_gone_and_the_members_stop_at_life_time(undo: contextlib.ExitStack) -> None:
    world = World(undo, rekey_time=20, life_time=30)
    world.run(2.0)
    for side in world.sides:
        side.keyd = None
    world.run(27.0)
    assert world.refused == 0
    assert not nobody_sends(world)
    world.run(2.0)
    assert nobody_sends(world)


def test_a_member_that_dies_near_the_end_gets_no_longer_life(undo: contextlib.ExitStack) -> None:
    world = World(undo, rekey_time=20, life_time=30)
    world.run(2.0)
    for side in world.sides:
        side.keyd = None
    world.run(25.0)
    for side in world.sides:
        for member in side.members:
            member.alive = False
    world.run(2.0)
    assert not nobody_sends(world)
    world.run(3.0)
    assert nobody_sends(world)


def test_the_far_keyd_never_answers_again(undo: contextlib.ExitStack) -> None:
    """Its members go on sending, and are no reason to keep anything."""
    world = World(undo, rekey_time=10, keys=psk(ike_rekey_time=20))
    world.run(2.0)
    before = spis(world)
    world.sides[1].keyd = None
    world.run(21.0)
    assert nobody_sends(world)
    keyd = world.sides[0].keyd
    assert keyd is not None
    assert not any(sa.established_at for sa in keyd._endpoint.sas("p"))
    world.sides[1].start_keyd(world.now)
    world.run(12.0)
    lossless(world, 2)
    assert not spis(world) & before


def test_an_ike_sa_ends_though_a_request_is_unanswered_and_esp_is_heard(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(ike_rekey_time=20))
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    sa = keyd._endpoint.established("p")
    assert sa is not None
    world.sides[1].keyd = None
    world.run(18.0)
    assert sa.state is not State.DEAD
    world.run(2.5)
    assert sa.state is State.DEAD


@pytest.mark.parametrize("notify", [Notify.NO_ADDITIONAL_SAS, Notify.NO_PROPOSAL_CHOSEN, Notify.INVALID_KE_PAYLOAD])
def test_a_peer_that_refuses_every_rekeying_is_joined_anew_without_a_gap(
    undo: contextlib.ExitStack,
    refusing: Callable[[int], None],
    notify: int,
) -> None:
    """One member: what IKE_AUTH gives is all that it gets."""
    world = World(undo, members=1, rekey_time=20, life_time=30)
    world.run(2.0)
    refusing(notify)
    before = spis(world)
    for _ in range(10):
        lossless(world, 10)
        for side in world.sides:
            assert side.keyd is not None
            assert len(side.keyd._endpoint.sas("p")) <= 3
    assert world.refused == 0
    assert not spis(world) & before


def test_the_status_tells_when_sas_end_that_the_peer_does_not_replace(
    undo: contextlib.ExitStack, refusing: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by rekeying, nor by a new IKE SA."""
    world = World(undo, members=1, rekey_time=20, life_time=40)
    world.run(2.0)
    refusing(Notify.NO_ADDITIONAL_SAS)
    keyd = world.sides[0].keyd
    assert keyd is not None
    monkeypatch.setattr(Endpoint, "reauthenticate", lambda *_: None)
    world.run(23.0)
    assert keyd.told(world.now)["concern"] == "the peer refuses every rekeying (NO_ADDITIONAL_SAS): SAs end in 15 s"
    (child, *_) = keyd.told(world.now)["sas"][0]["children"]
    assert (child["age_s"], child["ends_s"]) == (25, 15)


def test_a_peer_that_does_not_answer_is_told_of_before_sas_end_and_after(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """Its members go on sending, so the IKE SA is not given up."""
    world = World(undo, members=1, rekey_time=20, life_time=40)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    world.sides[1].keyd = None
    for _ in range(35):
        world.run(1.0)
        keyd._endpoint.heard("p", world.now)
    concern = keyd.told(world.now)["concern"]
    assert re.fullmatch(r"the peer does not answer, for \d+ s now: SAs end in \d s", concern)
    assert [r.getMessage() for r in caplog.records if getattr(r, "event", "") == "ike.unanswered"] == [
        "p: the peer does not answer, for 5 s now"
    ]
    for _ in range(8):
        world.run(1.0)
        keyd._endpoint.heard("p", world.now)
    assert nobody_sends(world)
    concern = keyd.told(world.now)["concern"]
    assert re.fullmatch(r"the peer does not answer, for \d+ s now: there is nothing to send on", concern)


def test_without_further_child_sas_a_member_that_dies_is_back_soon(
    undo: contextlib.ExitStack,
    refusing: Callable[[int], None],
) -> None:
    refusing(Notify.NO_PROPOSAL_CHOSEN)
    world = World(undo, members=1)
    world.run(2.0)
    lossless(world, 1)
    for _ in range(3):
        world.sides[0].members[0].alive = False
        world.run(12.0)
        lossless(world, 1)


def test_a_peer_without_pfs_is_kept(undo: contextlib.ExitStack) -> None:
    theirs = {"keys": psk(esp_proposals=["aes256gcm16-noesn"])}
    world = World(undo, members=1, rekey_time=20, life_time=30, theirs=theirs)
    world.run(2.0)
    lossless(world, 100)
    assert world.refused == 0


def test_reauthentication_loses_nothing(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(reauth_time=10))
    world.run(2.0)
    numbers = set()
    for _ in range(60):
        lossless(world, 1)
        keyd = world.sides[0].keyd
        assert keyd is not None
        sa = keyd._endpoint.established("p")
        assert sa is not None
        numbers.add(sa.standing.authentication)
        assert len(keyd._endpoint.sas("p")) <= 3
    assert world.refused == 0
    assert len(numbers) >= 6
    world.check_spares()


def test_a_changed_secret_ends_what_the_old_one_authenticated(undo: contextlib.ExitStack) -> None:
    """After `grace`, on both sides, though the far side has the old one and its own SAs live on."""
    world = World(undo, keys=psk(grace=20))
    world.run(2.0)
    world.sides[0].start_keyd(world.now, NEW)
    world.run(18.0)
    assert world.refused == 0
    assert all(member.outbound for member in world.sides[0].members)
    world.run(3.0)
    for member in world.sides[0].members:
        assert member.outbound is None
        assert not member.inbound
    world.sides[1].start_keyd(world.now, NEW)
    world.run(12.0)
    lossless(world, 2)


def test_a_secret_that_both_sides_change_within_grace_loses_nothing(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(grace=60))
    world.run(2.0)
    before = spis(world)
    world.sides[0].start_keyd(world.now, NEW)
    world.run(5.0)
    world.sides[1].start_keyd(world.now, NEW)
    world.run(70.0)
    assert world.refused == 0
    lossless(world, 1)
    assert not spis(world) & before


def test_the_end_by_a_changed_secret_outlives_keyd_and_member(undo: contextlib.ExitStack) -> None:
    world = World(undo, members=1, keys=psk(grace=20))
    world.run(2.0)
    side = world.sides[0]
    side.start_keyd(world.now, NEW)
    side.keyd = None
    world.run(5.0)
    side.members[0].alive = False
    world.run(1.0)
    assert side.members[0].outbound is not None
    side.start_keyd(world.now, NEW)
    world.run(10.0)
    side.members[0].alive = False
    world.run(6.0)
    assert side.members[0].outbound is None
    assert not side.members[0].inbound


def test_a_keyd_that_finds_the_secret_of_before_ends_nothing(undo: contextlib.ExitStack) -> None:
    world = World(undo, keys=psk(grace=0))
    world.run(2.0)
    for side in world.sides:
        side.start_keyd(world.now)
        lossless(world, 5)
    assert world.refused == 0


def test_what_keyd_remembers_tells_no_secret(undo: contextlib.ExitStack) -> None:
    """Nor a digest of one that could be compared with another's."""
    world = World(undo, members=2)
    world.run(1.0)
    notes = set()
    for side in world.sides:
        for member in side.members:
            memory = member.parts.memory
            assert memory is not None
            data = memory[1].recv(1 << 17)
            assert b"both sides have" not in data
            notes.add(data[2:66])
    assert len(notes) == 2, "one for each keyd"


@pytest.mark.parametrize(
    ("times", "again_s", "replace_s"),
    [(Times(3600, 3960), 10, 3600), (Times(10, 11), 0.5, 10), (Times(0, 0), 10, 0), (Times(0, 100), 2.5, 90)],
)
def test_when_a_pair_is_replaced_and_how_often_that_is_tried(times: Times, again_s: float, replace_s: float) -> None:
    assert (times.again_s, times.replace_s) == (pytest.approx(again_s), pytest.approx(replace_s))


def test_a_side_that_has_answered_authenticates_anew_when_its_own_time_has_come(undo: contextlib.ExitStack) -> None:
    """First the one side alone is to do so, then the other alone."""
    world = World(undo, keys=psk(reauth_time=8), theirs={"keys": psk(reauth_time=40)})
    world.run(20.0)
    ours, theirs = (side.keyd for side in world.sides)
    assert ours is not None
    assert theirs is not None
    sa = theirs._endpoint.established("p")
    assert sa is not None
    assert not sa.standing.initiated
    ours._renewal._reauth_s = 0.0
    world.run(45.0)
    sa = theirs._endpoint.established("p")
    assert sa is not None
    assert sa.standing.initiated
    assert world.refused == 0


# -- what a member has been told, and what it has taken ------------------------------------------------------------


def fill(member: PlayedMember) -> None:
    """Nothing more gets through to the member until it reads."""
    with contextlib.suppress(BlockingIOError):
        while True:
            member.parts.control.send(b"x" * 2000)


def empty(member: PlayedMember) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            member.control.recv(65536)


def test_a_member_that_has_no_room_for_another_sa_is_told_of_it_later(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets no CPU and does not read, while what it sends on is replaced."""
    world = World(undo, members=1, rekey_time=10, life_time=1000)
    world.run(2.0)
    member, keyd = world.sides[0].members[0], world.sides[0].keyd
    assert keyd is not None
    with monkeypatch.context() as patch:
        patch.setattr(member, "read", lambda: None)
        fill(member)
        world.run(12.0)
        empty(member)
    world.run(1.0)
    lossless(world, 9)


def test_a_member_that_has_no_room_to_be_told_to_stop_is_told_later(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    member = world.sides[0].members[0]
    with monkeypatch.context() as patch:
        patch.setattr(member, "read", lambda: None)
        fill(member)
        for side in world.sides:
            assert side.keyd is not None
            side.keyd.terminate(world.now)
        world.run(10.0)
        empty(member)
    world.run(1.0)
    assert member.outbound is None


def test_an_sa_of_the_new_secret_does_not_end_with_those_of_the_old_one(undo: contextlib.ExitStack) -> None:
    """The member has died, and its successor is slow to come: it takes a boot record of the new secret's."""
    world = World(undo, members=1, keys=psk(grace=20))
    world.run(2.0)
    side = world.sides[0]
    side.start_keyd(world.now, NEW)
    world.run(1.0)
    member = side.members[0]
    member.alive = False
    member.forked()
    world.sides[1].start_keyd(world.now, NEW)
    for _ in range(60):
        world.now += STEP_S
        for one in world.sides:
            assert one.keyd is not None
            one.keyd.tick(world.now)
        world._exchange()
    assert member.take_record()
    lossless(world, 25)
    assert side.keyd is not None
    assert not side.keyd.told(world.now)["concern"]


def test_a_member_that_takes_what_a_dead_keyd_had_left_does_not_stay_with_it(
    undo: contextlib.ExitStack, refusing: Callable[[int], None]
) -> None:
    """The far side has forgotten those SAs, and gives no spares any more that would have taken their place."""
    world = World(undo, members=1)
    world.run(2.0)
    refusing(Notify.NO_ADDITIONAL_SAS)
    side = world.sides[0]
    side.start_keyd(world.now)
    world.run(120.0)
    assert world.refused == 0
    side.members[0].alive = False
    world.run(12.0)
    lossless(world, 20)


# -- certificates --------------------------------------------------------------------------------------------------


def certified(number: int) -> CertificateKeys:
    names: dict[str, Any] = {"local_id": f"gw{number}.example", "remote_id": f"gw{3 - number}.example"}
    return CertificateKeys(
        source="cert", certificate=Path("unused"), key=Path("unused"), authorities=Path("unused"), **names
    )


def test_a_crl_ends_what_two_keyds_before_it_have_left(
    undo: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standard peer sends all to the first member; the second keyd had nothing of its own when the CRL came."""
    monkeypatch.setattr(ike, "time", SimpleNamespace(time=lambda: WALL))
    ca = Ca()
    mine, theirs = credentials(ca, "gw1.example"), credentials(ca, "gw2.example")
    far = {"keys": certified(2), "certificates": theirs, "standard": True}
    world = World(undo, payload="esp", keys=certified(1), certificates=mine, theirs=far)
    world.run(5.0)
    side = world.sides[0]
    assert all(member.outbound for member in side.members)
    world.sides[1].keyd = None
    side.start_keyd(world.now)
    world.run(1.0)
    assert all(member.outbound for member in side.members)
    side.certificates = replace(mine, rules=Rules((Crl.of(ca.crl(theirs.chain[0])),)))
    side.start_keyd(world.now)
    world.run(1.0)
    assert not any(member.outbound or member.inbound for member in side.members)
