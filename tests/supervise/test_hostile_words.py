"""Words that a process which was taken over may write: whoever reads them goes on, and believes what can be."""

from __future__ import annotations

import io
import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from rich.console import Console

from fwd.agent import ike, render
from fwd.agent.beacon import answer_of
from fwd.agent.metrics import StatusCollector
from fwd.agent.status import status_of
from fwd.agent.view import GatewayView, PeeringView
from fwd.datapath import ring
from fwd.datapath.board import Board
from fwd.datapath.memory import ACCESS, anonymous
from fwd.datapath.ring import RingWords
from fwd.datapath.shared import (
    REST_MAX_S,
    GatewayShared,
    PeeringShared,
    ProcessState,
    peering_sizes,
)
from fwd.datapath.tun import Offloads, offloads_in_common
from fwd.model import config
from fwd.model.example import EXAMPLE
from fwd.model.gateway import Gateway
from fwd.model.shown import as_json
from fwd.proto.ip import CSUM, TSO4, TSO6, USO4, USO6
from fwd.proto.probe import encode_answer
from fwd.supervise import policy
from fwd.supervise.material import KeyMaterial
from fwd.supervise.notify import summary

EVERYTHING = CSUM | TSO4 | TSO6 | USO4 | USO6
CHILDRENS = [
    name for name, row in ACCESS.items() if row.get("supervisor") != "write" and "agent" in row and name != "agent"
]


class Memories:
    """All memory of a gateway with one peering of two members, IKE included, and what the agent makes of it."""

    def __init__(self) -> None:
        self.peering = config.parse(EXAMPLE.replace("members = 4", "members = 2"), "example").peering[0]
        sizes = peering_sizes(2)
        for i in range(2):
            sizes[f"demux-{i}"] = ring.sizes(64, 4)[0]
        self.of_peering = anonymous(sizes)
        self.of_gateway = anonymous(GatewayShared.SIZES)
        self.shared = PeeringShared(2, self.of_peering)
        gateway = GatewayShared(self.of_gateway)
        rings = [RingWords(self.of_peering[f"demux-{i}"], m.ring) for i, m in enumerate(self.shared.members)]
        offloads = Offloads(EVERYTHING, gso=True, gro=True)
        view = PeeringView(self.peering, self.shared, rings, offloads, 1500)
        self.view = GatewayView(Gateway(), gateway, [view], 1, 0)
        for words in (
            gateway.keyd,
            gateway.agent,
            gateway.beacon,
            self.shared.demux,
            *(m.process for m in self.shared.members),
        ):
            words.put(ProcessState.RUNNING, 2, 0, 0, 1)

    def fill(self, name: str, octets: bytes) -> None:
        """Write over all of a child's memory; `-I`: of both members."""
        memories = self.of_peering if name.startswith("NAME/") else self.of_gateway
        for memory in {name.removeprefix("NAME/").replace("-I", f"-{i}") for i in range(2)}:
            view = memories[memory]
            view[:] = (octets * (len(view) // len(octets) + 1))[: len(view)]


@pytest.fixture
def memories() -> Memories:
    return Memories()


FILLINGS = {
    "ones": b"\xff",
    "small": (1).to_bytes(8, "little"),
    "half": (2**63).to_bytes(8, "little"),
    "random": random.Random(1).randbytes(8191),
    "more": random.Random(2).randbytes(8191),
}


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("memory", CHILDRENS)
def test_the_agent_answers_whatever_a_child_wrote(memories: Memories, memory: str, filling: str) -> None:
    memories.fill(memory, FILLINGS[filling])
    status = status_of(memories.view, time.monotonic_ns())
    registry = CollectorRegistry()
    registry.register(StatusCollector(lambda: status))
    assert generate_latest(registry)
    Console(file=io.StringIO()).print(render.render(json.loads(json.dumps(as_json(status)))))


@pytest.mark.parametrize("filling", FILLINGS)
def test_the_beacon_answers_whatever_children_wrote(memories: Memories, filling: str) -> None:
    for memory in CHILDRENS:
        memories.fill(memory, FILLINGS[filling])
    answer = answer_of(memories.view, frozenset(), time.monotonic())
    assert 0 <= answer.load <= 1
    assert all(0 <= one.loss <= 1 for one in answer.peerings.values())
    assert encode_answer(answer, bytes(32))


@pytest.mark.parametrize("filling", FILLINGS)
def test_what_the_supervisor_reads_is_what_can_be(memories: Memories, filling: str) -> None:
    for memory in CHILDRENS:
        memories.fill(memory, FILLINGS[filling])
    memories.fill("NAME/keyd-I", FILLINGS[filling])
    now_s = time.monotonic()
    for member in memories.shared.members:
        assert member.path_mtu == 0 or 552 <= member.path_mtu <= 65535
        assert 0 <= member.process.beat_at(0.0) <= time.monotonic() + REST_MAX_S
        assert member.has_begun in (True, False)
        assert member.can_send in (True, False)
        assert member.path_down in (True, False)
    assert offloads_in_common(EVERYTHING, memories.shared.far_offloads or 0) & ~EVERYTHING == 0
    assert summary({"vpc2": memories.shared})
    lives = [policy.Life(ProcessState.RUNNING, started_at=now_s, active_at=now_s) for _ in range(2)]
    assert policy.live_mask(lives, [True] * 2, [m.can_send for m in memories.shared.members], 0.0, now_s) in (1, 2, 3)


@pytest.mark.parametrize("filling", FILLINGS)
def test_what_is_remembered_of_a_member_can_be_given_to_the_next(memories: Memories, filling: str) -> None:
    for memory in ("NAME/member-I", "NAME/keyd-I"):
        memories.fill(memory, FILLINGS[filling])
    material = KeyMaterial({})
    material.remember(memories.peering, memories.shared.members)
    following = PeeringShared(2).members[0]
    material.recall(memories.peering, 0, following)
    assert following.next_epoch[0] <= 2**22
    assert following.slots.words.tolist() == memories.shared.members[0].slots.words.tolist()


def test_a_heartbeat_beyond_any_rest_or_of_a_predecessor_is_none(memories: Memories) -> None:
    words = memories.shared.demux
    since = time.monotonic() - 60
    for beat_at, believed in ((since + 1, since + 1), (since - 1, 0.0), (since + 1000, 0.0)):
        words.heartbeat[0] = int(beat_at * 1e9)
        assert words.beat_at(since) == pytest.approx(believed)


@pytest.mark.parametrize(
    ("far", "common"),
    [
        (EVERYTHING, EVERYTHING),
        (2**64 - 1, EVERYTHING),
        (0, 0),
        (TSO4 | TSO6, 0),  # the kernel refuses what is split without checksums
        (CSUM | USO4, CSUM),  # and USO of one family
        (CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6),
        (~EVERYTHING & (2**64 - 2), 0),
    ],
)
def test_offloads_in_common_are_a_set_that_the_kernel_takes(far: int, common: int) -> None:
    assert offloads_in_common(EVERYTHING, far) == common


# -- keyd's board -------------------------------------------------------------------------------------------------


def test_a_length_beyond_the_board_gives_no_more_than_the_board() -> None:
    view = anonymous({"": Board.BYTES})[""]
    words = view[:4096].cast("Q")
    words[1] = words[2] = 2**64 - 1
    view[4096:] = b"x" * (len(view) - 4096)
    assert Board(view).get() == b"x" * Board.SIZE


def test_what_a_predecessor_left_on_the_board_stops_no_writer() -> None:
    view = anonymous({"": Board.BYTES})[""]
    view[:] = b"\xff" * len(view)
    for text in (b"one", b"two"):
        Board(view).put(text)
        assert Board(view).get() == text


class Restless:
    """Words whose commit changes at every look."""

    def __init__(self, words: memoryview) -> None:
        self._words = words

    def __getitem__(self, at: int) -> int:
        if at == 0:
            self._words[0] += 1
        return self._words[at]


def test_a_board_that_never_rests_does_not_hold_its_reader() -> None:
    board = Board()
    board._words = Restless(board._words)  # type: ignore[assignment]
    assert board.get() == b""


SA = {
    "state": "established", "spi_i": "00", "spi_r": "01", "initiator": True, "behind_nat": False, "children": [],
    "remote": "192.0.2.1:500", "remote_id": "gw2", "established_s": 3,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe", b"{", b"[]", b"null", b"3", b"[" * 100_000, b'{"p": []}', b'{"p": {"sas": {}}}',
        b'{"p": {"sas": [3]}}', b'{"p": {"sas": [{"state": 1}]}}', b'{"p": {"half_open": "many"}}',
        b'{"p": {"refused": {"0": []}}}', b'{"p": {"half_open": 1e999}}', b'{"p": {"half_open": NaN}}',
        b'{"p": {"error": 1}}', b'{"p": {"certificates": {"local_days": "many"}}}', b'{"p": {"certificates": 3}}',
        json.dumps({"p": {"sas": [{**SA, "children": [{"member": "0"}]}]}}).encode(),
        json.dumps({"p": {"sas": [{**SA, "established_s": "long"}]}}).encode(),
    ],
)  # fmt: skip
def test_a_report_of_another_shape_is_told_as_unreadable(text: bytes) -> None:
    assert ike.read(text, ["p"]) == {"p": ike.Told(error=ike.UNREADABLE)}


def test_a_report_is_read_as_it_was_told() -> None:
    told = {"sas": [SA], "half_open": 2, "error": "", "refused": {"1": "why"}}
    assert ike.read(json.dumps({"p": told}).encode(), ["p"])["p"].model_dump(exclude_unset=True) == told


def test_a_peering_that_keyd_does_not_know_says_so() -> None:
    assert ike.read(b"", ["p"])["p"].error == ike.NOTHING
    assert ike.read(b'{"other": {}}', ["p"])["p"].error == ike.NOTHING


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,0123456789.eE-psas ', max_size=200).map(str.encode))
def test_any_octets_on_the_board_give_an_answer(text: bytes) -> None:
    assert ike.read(text, ["p"]).keys() == {"p"}
