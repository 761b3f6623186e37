"""The status tells all that is counted, in the shape that is published, and is read back as it was told."""

from __future__ import annotations

import ast
import json
import runpy
from collections.abc import Iterator
from dataclasses import MISSING, fields, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from codekit import nodes
from pydantic import TypeAdapter, ValidationError
from statuskit import NOW_NS, ready_view

from fwd.agent.controller import identities_of, rekeys_of, summary
from fwd.agent.metrics import StatusCollector
from fwd.agent.status import collect, status_of
from fwd.agent.view import GatewayView, PeeringView
from fwd.controller.members import drops_in, members_in
from fwd.controller.place import Pair, identity_of
from fwd.controller.watch import Beat, Watch
from fwd.datapath.counters import DemuxCounter, MemberCounter
from fwd.datapath.ring import RECORDS, Ring
from fwd.datapath.shared import LinkWord, ProcessState
from fwd.model.config import Peering
from fwd.model.fleet import Fleet
from fwd.model.linked import News, Told, Validity
from fwd.model.reasons import Code, Reason
from fwd.model.shown import classes, read, shown
from fwd.model.status import ChildSa, FarGateway, IkeSa, Order, Status
from fwd.proto.drops import DropReason

DOCS = Path(__file__).parents[1] / "docs"
FWD = DOCS.parent / "fwd"


@pytest.fixture
def view() -> Iterator[GatewayView]:
    with ready_view() as made:
        yield made


def peering_told(view: GatewayView) -> dict[str, Any]:
    told: dict[str, Any] = collect(view, NOW_NS)["peerings"][0]
    return told


def under_way(view: GatewayView) -> PeeringView:
    """A peering in whose first member's ring segments of a record each wait, so that it matters where its ends are."""
    peering = view.peerings[0]
    ring = peering.rings[0]
    assert isinstance(ring, Ring)
    for number in range(4):
        ring.segment(number).fields[RECORDS] = 1
    ring.head = 4
    demux = peering.shared.demux_counters
    demux.values[DemuxCounter.HEADS] = 3
    demux.publish()
    return peering


@pytest.mark.parametrize("counter", [*DemuxCounter, *MemberCounter, *LinkWord], ids=lambda one: one.name)
def test_a_counter_that_grows_is_seen(view: GatewayView, counter: IntEnum) -> None:
    shared = under_way(view).shared
    before = peering_told(view)
    if isinstance(counter, LinkWord):
        shared.members[0].link[counter] += 700
    else:
        block = shared.demux_counters if isinstance(counter, DemuxCounter) else shared.members[0].counters
        block.values[counter] += 1
        block.publish()
    assert peering_told(view) != before


@pytest.mark.parametrize("reason", list(DropReason), ids=lambda one: one.label)
def test_a_drop_is_seen_by_its_name(view: GatewayView, reason: DropReason) -> None:
    block = view.peerings[0].shared.members[0].counters
    block.values[reason] += 1
    block.publish()
    assert peering_told(view)["drops"][reason.label] == 1


def test_every_drop_reason_has_a_unit_a_stage_and_a_sentence() -> None:
    for reason in DropReason:
        assert reason.unit in ("record", "esp", "event")
        assert reason.stage in ("demux", "outbound", "inbound")
        assert reason.sentence.endswith(".")
    assert [reason.value for reason in DropReason] == list(range(len(DropReason)))


def test_a_drop_reason_without_them_cannot_be_made() -> None:
    make = DropReason.__dict__["__new_member__"]
    assert make(DropReason, 99, "record", "demux", "A sentence.") == 99
    with pytest.raises(TypeError, match="unit"):
        make(DropReason, 99)


@pytest.mark.parametrize("cls", list(classes(Status)), ids=lambda cls: cls.__name__)
def test_every_key_has_a_type_and_a_sentence(cls: type) -> None:
    assert cls.__doc__
    for one in shown(cls):
        assert one.sentence.endswith("."), one.key
        assert one.sentence[0] in "`" or not one.sentence[0].islower() or one.sentence.startswith("keyd"), one.key


@pytest.mark.parametrize("cls", list(classes(Status)), ids=lambda cls: cls.__name__)
def test_a_key_with_a_default_is_filled_all_the_same(cls: type) -> None:
    """One without cannot be forgotten: the class is not made then."""
    makers = [file for kind in ("agent", "keyd") for file in (FWD / kind).glob("*.py")]
    said = [node for file in makers for node in nodes(file)]
    filled = {one.arg for one in said if isinstance(one, ast.keyword)}
    filled |= {one.value for one in said if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    defaults = {one.name for one in fields(cls) if (one.default, one.default_factory) != (MISSING, MISSING)}
    assert defaults - {"schema"} <= filled


def joined(view: GatewayView) -> None:
    """Let the gateway have a controller, which answers."""
    now_s = NOW_NS / 1e9
    news = News("https://c:8443", "a1", ("192.0.2.9",), (1, 2), (1, 3), (1, 3), "why", "no", Validity(1, 2), None)
    view.shared.troubles.put(json.dumps({"controller": news.as_json()}).encode())
    view.shared.link.put(ProcessState.RUNNING, 9, 0, NOW_NS, 1)
    view.shared.link_told.put(Told(now_s - 9, now_s - 1, (1, 4), 600.0, "").encode())


def test_how_a_gateway_stands_with_its_controller(view: GatewayView) -> None:
    assert status_of(view, NOW_NS).controller is None
    joined(view)
    told = status_of(view, NOW_NS).controller
    assert told is not None
    assert (told.connected, told.connected_s, told.heard_s, told.clock_s) == (True, 9.0, 1.0, 600.0)
    assert told.applied == Order(term=1, generation=2)
    assert (told.newest, told.held) == (Order(term=1, generation=4), Order(term=1, generation=3))
    assert (told.link_until, told.ike_until, told.held_why, told.refused) == (2, None, "why", "no")

    # What a link that is dead has said last is not what is.
    view.shared.link.put(ProcessState.BACKOFF, 0, 1, NOW_NS, 1)
    told = status_of(view, NOW_NS).controller
    assert told is not None
    assert (told.connected, told.error) == (False, "link does not run")


def test_what_the_controller_is_told_of_a_status_is_bounded(view: GatewayView) -> None:
    joined(view)
    told = json.loads(summary(status_of(view, NOW_NS), {}))
    assert told.keys() == {"ready", "draining", "waiting", "peerings", "uptime_s", "rekeys"}
    assert told["peerings"][0]["name"] == "vpc2"
    many = [Reason.of(Code.KERNEL, f"p{i}", why="x" * 9000) for i in range(400)]
    whole = replace(status_of(view, NOW_NS), reasons=many)
    assert len(summary(whole, {})) < 20_000


def test_the_controller_is_told_of_each_member_and_of_drops_as_far_as_there_is_room(view: GatewayView) -> None:
    """What the agent says, and what the controller reads: both in the same words."""
    whole = status_of(view, NOW_NS)
    child = ChildSa(member=1, state="", spi_in="0x1", spi_out="0x7", proposal="", age_s=60, ends_s=300)
    sa = IkeSa(
        state="", spi_i="", spi_r="", initiator=True, behind_nat=False, remote="", remote_id="", established_s=1,
        children=[replace(child, spi_out="0x6", age_s=9), child],
    )  # fmt: skip
    far = FarGateway(address="192.0.2.1", members=[1], state="up", established=True, error="")
    first = whole.peerings[0].members[0]
    sends = replace(first, index=1, spi_out="0x7", path_mtu=1400)
    peering = replace(
        whole.peerings[0], members=[first, sends], far=[far], ike_sas=[sa], drops={"replayed": 3, "hole": 0}
    )

    said = json.loads(summary(replace(whole, peerings=[peering]), {"vpc2": ["b1"]}, rekeys_s={"vpc2": 100.0}))
    other, one = members_in(said)
    assert (other.far, other.age_s, other.rekey_s) == ("", None, None)
    assert (one.far, one.spi_out, one.mtu) == ("b1", "0x7", 1400)
    assert (one.age_s, one.rekey_s, one.ends_s) == (60, 40, 300)
    assert [(drop.reason, drop.count) for drop in drops_in(said)] == [("replayed", 3)]

    assert [one["keys_s"] for one in said["peerings"]] == [60], "the other one's far gateway has gone"
    both = replace(peering, far=[replace(far, members=[first.index, 1])])
    (told_of,) = json.loads(summary(replace(whole, peerings=[both]), {}))["peerings"]
    assert told_of["keys_s"] is None, "a member sends on no SA"

    every = {reason.label: 2**62 for reason in DropReason}
    many = replace(peering, members=[replace(sends, index=n) for n in range(64)], drops=every)
    told = summary(replace(whole, peerings=[many] * 64), {"vpc2": ["b1"]})
    assert sum(len(one["each"]) for one in json.loads(told)["peerings"]) == 64
    assert len(told) < 64_000


def test_the_controller_tells_the_pairs_of_a_peering_with_several_far_gateways_apart(view: GatewayView) -> None:
    """What the agent says, and what the controller reads: both in the same words."""
    whole = status_of(view, NOW_NS)
    (peering,) = whole.peerings
    far = [
        FarGateway(address=f"192.0.2.{n}", members=[n], state="up" if n else "down", established=True, error="")
        for n in range(2)
    ]
    members = [replace(one, path="up", spi_out="0x1", rtt_ms=5.0 + one.index) for one in peering.members]
    whole = replace(whole, peerings=[replace(peering, far=far, members=members)], reasons=[Reason.of(Code.DRAINING)])
    said = json.loads(summary(whole, {peering.name: [identity_of("b1"), identity_of("b2")]}))
    assert said["draining"]

    pairs = [Pair(peering.name, "a1", other) for other in ("b1", "b2")]
    watch = Watch(0.0)
    watch.hear("a1", Beat(1.0, (1, 1), (1, 1), status=said), (1, 1), 0.0)
    watch.turn(Fleet(), pairs, 1.0, 0.0)
    found = [[(one.up, one.rtt_ms) for one in watch.sights_of(pair, 1.0)] for pair in pairs]
    assert found == [[(False, 5.0)], [(True, 6.0)]]


def test_far_gateways_are_told_by_what_ike_calls_them(view: GatewayView) -> None:
    keys = {"source": "psk", "secret": "/x", "local_id": "a1", "remote_id": ["b1", "b2"]}
    table = {**view.peerings[0].config.model_dump(), "keys": keys, "remote_addrs": ["192.0.2.8", "192.0.2.9"]}
    peering = replace(view.peerings[0], config=Peering.model_validate(table))
    assert identities_of(replace(view, peerings=[peering])) == {peering.config.name: ["b1", "b2"]}
    assert rekeys_of(replace(view, peerings=[peering])) == {peering.config.name: 3600.0}


def test_metrics_have_names_of_their_own_and_the_sentence_of_their_key(view: GatewayView) -> None:
    joined(view)
    families = list(StatusCollector(lambda: status_of(view, NOW_NS)).collect())
    assert len({family.name for family in families}) == len(families)
    told = {family.name: family.documentation for family in families}
    for cls in classes(Status):
        for one in shown(cls):
            if one.metric:
                assert told[one.metric.name] == one.sentence


def test_a_status_is_valid_and_read_back_as_it_was_told(view: GatewayView) -> None:
    under_way(view)
    sa = {"state": "established", "children": [{"member": 1, "ends_s": 3}], "established_s": 3}
    narrower = {"0": {"local": ["10.1.0.0/16"], "remote": ["10.2.1.0/24"], "not_wholly": ["a - b"]}}
    view.shared.ike.put(json.dumps({"vpc2": {"sas": [sa], "narrower": narrower}}).encode())
    view.peerings[0].shared.members[0].ledger.begin(1, 0x1000)
    status = status_of(view, NOW_NS)
    text = json.dumps(collect(view, NOW_NS))
    assert TypeAdapter(Status).validate_json(text) == status
    assert read(Status, json.loads(text)) == status


def test_a_key_too_many_or_of_another_type_is_not_valid(view: GatewayView) -> None:
    told = collect(view, NOW_NS)
    adapter = TypeAdapter(Status)
    for odd in ({**told, "more": 1}, {**told, "ready": 1}, {**told, "gateway": {**told["gateway"], "pid": "1"}}):
        with pytest.raises(ValidationError):
            adapter.validate_json(json.dumps(odd))


@pytest.mark.parametrize(
    "odd",
    [{"ready": 1}, {"gateway": None}, {"peerings": {}}, {"peerings": [3]}, {"version": None}, {"processes": [{}]}],
)
def test_what_is_no_status_is_not_read(view: GatewayView, odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read(Status, {**collect(view, NOW_NS), **odd})


def test_keys_of_a_newer_gateway_are_passed_over_and_those_of_an_older_one_not_missed(view: GatewayView) -> None:
    told = collect(view, NOW_NS)
    del told["reasons"]
    assert read(Status, {**told, "more": 1}) == status_of(view, NOW_NS)


def test_the_page_and_the_schema_say_what_the_code_says() -> None:
    """If they do not: `python docs/status.py`."""
    made = runpy.run_path(str(DOCS / "status.py"))
    page = (DOCS / "status.md").read_text(encoding="utf-8")
    assert made["with_tables"](page) == page
    assert (DOCS / "status.schema.json").read_text(encoding="utf-8") == made["schema_text"]()
