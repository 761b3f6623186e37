"""The record of SAs: each that is made, rekeyed, over or deleted, and by whom; never a key, and never too much."""

from __future__ import annotations

import ast
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from test_pairs import World

from fwd.keyd import record as record_module
from fwd.keyd.accepted import NoSlotError
from fwd.keyd.narrower import Narrower
from fwd.keyd.record import RECORDS_PER_S, Record
from fwd.model.config import Peering
from fwd.model.keys import PskKeys
from fwd.proto.ike.causes import By
from fwd.proto.ike.events import ChildDown, ChildUp, ExchangeRefused
from fwd.proto.ike.selectors import Selector, merged
from fwd.proto.sa import EventKind, Narrowed, SaEvent

NEW = b"another secret, of both sides"
CERTIFICATE = {"certificate", "serial", "not_after"}
Told = Callable[[str], list[dict[str, Any]]]


def psk(**changes: Any) -> PskKeys:
    return PskKeys(source="psk", secret=Path("unused"), **changes)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Told:
    """The fields of all records of an event."""
    caplog.set_level(logging.INFO, "fwd")

    def of(event: str) -> list[dict[str, Any]]:
        return [vars(one)["fields"] for one in caplog.records if vars(one).get("event") == event]

    return of


def by(records: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["by"] for one in records)


def test_a_connection_is_recorded_by_both_sides(undo: contextlib.ExitStack, told: Told) -> None:
    World(undo, members=1).run(2.0)
    mine, theirs = told("audit.ike_made")
    assert {one["by"] for one in (mine, theirs)} == {"start", "peer"}
    assert mine["spi_i"] == theirs["spi_i"]
    assert mine["spi_r"] == theirs["spi_r"]
    assert mine["proposal"].startswith("aes")
    assert {"peering", "peer", "address", "port", "initiator"} <= set(mine)
    assert not CERTIFICATE & set(mine)
    made = told("audit.child_made")
    ways = {(one["spi_in"], one["spi_out"]) for one in made}
    assert ways == {way[::-1] for way in ways}, "both halves, from both sides"
    assert all(one["member"] == 0 and one["proposal"] and one["peer"] for one in made)


@pytest.mark.parametrize(
    ("event", "who"),
    [("audit.ike_rekeyed", "user"), ("audit.child_rekeyed", "user"), ("audit.ike_deleted", "replaced")],
)
def test_a_user_has_all_rekeyed(undo: contextlib.ExitStack, told: Told, event: str, who: str) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    assert world.sides[0].keyd is not None
    world.sides[0].keyd.rekey(world.now)
    world.run(2.0)
    assert {who, "peer"} == set(by(told(event)))
    assert all(one.get("replaces_spi_in") or one.get("replaces_spi_i") or "deleted" in event for one in told(event))


def test_a_user_ends_it(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    assert world.sides[0].keyd is not None
    world.sides[0].keyd.terminate(world.now)
    world.run(0.5)
    assert by(told("audit.ike_deleted")) == {"user": 1, "peer": 1}
    assert set(by(told("audit.child_deleted"))) == {"user", "peer"}


def test_what_is_rekeyed_by_time_and_what_is_over(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1, rekey_time=20, life_time=30)
    world.run(25.0)
    assert set(by(told("audit.child_rekeyed"))) == {"timer", "peer"}
    assert not told("audit.child_expired")
    world.sides[1].keyd = None
    world.run(40.0)
    assert set(by(told("audit.child_expired"))) == {"timer"}
    assert all(one["spi_out"] != "0x00000000" for one in told("audit.child_expired"))


def test_an_ike_sa_that_is_over(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1, keys=psk(ike_rekey_time=20))
    world.run(2.0)
    world.sides[1].keyd = None
    world.run(25.0)
    (over,) = told("audit.ike_expired")
    assert (over["by"], over["reason"]) == ("timer", "it could not be rekeyed in time")


def test_a_count_and_a_members_death(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    side = world.sides[0]
    member, keyd = side.members[0], side.keyd
    assert keyd is not None
    assert member.outbound is not None
    member.control.send(SaEvent(EventKind.SOFT_LIMIT, member.incarnation, member.outbound.spi).encode())
    keyd.hear(0, world.now)
    world.run(2.0)
    assert set(by(told("audit.child_rekeyed"))) == {"count", "peer"}
    member.alive = False
    world.run(8.0)
    assert "member_death" in by(told("audit.child_made"))
    assert "member_death" in by(told("audit.child_deleted"))


def test_what_a_keyd_makes_that_has_begun_anew_is_by_reload(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    world.sides[0].keyd = world.sides[1].keyd = None
    for side in world.sides:
        side.start_keyd(world.now, NEW)
    before = len(told("audit.ike_made"))
    world.run(3.0)
    assert set(by(told("audit.ike_made")[before:])) <= {"reload", "peer"}
    assert "reload" in by(told("audit.ike_made")[before:])


def test_the_end_of_fwd_is_recorded_though_no_answer_is_waited_for(undo: contextlib.ExitStack, told: Told) -> None:
    world = World(undo, members=1)
    world.run(2.0)
    keyd = world.sides[0].keyd
    assert keyd is not None
    keyd.stopping(world.now)
    assert by(told("audit.ike_deleted")) == {"stop": 1}
    assert set(by(told("audit.child_deleted"))) == {"stop"}


def test_no_key_is_in_any_record(undo: contextlib.ExitStack, told: Told, caplog: pytest.LogCaptureFixture) -> None:
    secrets: list[bytes] = [b"both sides have this secret"]

    def learn(what: Any) -> None:
        if isinstance(what, ChildUp):
            for one in (what.child.inbound, what.child.outbound):
                secrets.extend([one.key, one.salt])
        else:
            secrets.extend(bytes(key) for key in vars(what.keys).values() if isinstance(key, bytes) and len(key) > 3)

    caplog.set_level(logging.DEBUG)
    World(undo, members=2, rekey_time=2, reveal=learn, keys=psk(ike_rekey_time=20)).run(25.0)
    assert told("audit.child_rekeyed")
    assert len(secrets) > 20
    text = "\n".join(f"{one.getMessage()} {vars(one).get('fields')}" for one in caplog.records)
    for secret in secrets:
        assert secret.hex() not in text
        assert repr(secret)[2:-1] not in text


def test_with_audit_off_nothing_of_it_is_recorded(undo: contextlib.ExitStack, told: Told) -> None:
    World(undo, members=1, audit=False).run(2.0)
    assert told("ike.established")
    assert not told("audit.ike_made") + told("audit.child_made")


def test_who_fills_the_log_is_bounded_and_what_is_left_out_is_counted(undo: contextlib.ExitStack, told: Told) -> None:
    peering: Peering = World(undo, members=1).sides[0].peering
    record, now, total = Record(peering, "gw2", peering.fars[0]), 100.0, 10_000
    for _ in range(total):
        record.child_down(ChildDown(peering.name, 0, 0x100, By.PEER), now)
        now += 0.001
    logged = len(told("audit.child_deleted"))
    assert logged < 100 + 10 * RECORDS_PER_S
    record.tick(now + 5.0)
    left_out = sum(one.get("suppressed", 0) for one in told("audit.child_deleted") + told("audit.suppressed"))
    assert logged + left_out == total


@pytest.mark.parametrize("audit", [True, False])
def test_whatever_a_peer_has_refused_or_narrowed_again_and_again_shares_that_bound(
    undo: contextlib.ExitStack, caplog: pytest.LogCaptureFixture, audit: bool
) -> None:
    """keyd has one share of the log for all peerings, of 50 lines a second."""
    caplog.set_level(logging.INFO, "fwd")
    peering: Peering = World(undo, members=1, audit=audit).sides[0].peering
    record, now = Record(peering, "gw2", peering.fars[0]), 100.0
    narrower = Narrower(peering, record)
    everything = merged([Selector.of(subnet) for subnet in peering.remote_ts])
    caplog.clear()
    for turn in range(1000):
        first = IPv4Address(f"10.1.0.{turn % 200}")
        narrower.note(turn % 4, Narrowed(merged([Selector(first, first)]), everything), now)
        record.no_room(turn % 64, NoSlotError("no room"), now)
        refused = ExchangeRefused(peering.name, by_peer=bool(turn % 2), reason=str(turn), member=turn % 64)
        record.note(refused, now)
        record.reauthenticates("again", now)
        now += 0.01
    assert len(caplog.records) < 100 + 10 * (RECORDS_PER_S + 1)
    record.tick(now + 5.0)
    assert vars(caplog.records[-1])["fields"]["suppressed"] > 1000, "told, with or without audit"


# What no peer can make come again: a user's commands, and what the configuration says.
BY_USERS = {"service.py obey", "service.py _negotiate", "record.py inherited_end"}


def test_every_line_of_keyds_log_has_a_rate() -> None:
    """A function that logs looks at a rate or a time first; a line that it logs at debug is for who asks for it."""
    without: set[str] = set()
    functions = 0
    for file in Path(record_module.__file__).parent.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            text = ast.get_source_segment(source, node) if isinstance(node, ast.FunctionDef) else None
            if text is None or not re.search(r"\blog\.(info|warning|error|exception|log)\(", text):
                continue
            assert isinstance(node, ast.FunctionDef)
            functions += 1
            if not re.search(r"_is_due\(|_may_tell\(|_rate\.allows\(|_EVERY_S\b", text):
                without.add(f"{file.name} {node.name}")
    assert functions > 15, "they have been found"
    assert without == BY_USERS
