"""The link's process against a real controller, in this process: what it hands over, and what it keeps in mind."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from servekit import Site, serving

from fwd.control.join import Wish, join
from fwd.datapath.shared import GatewayShared
from fwd.lab.waiting import until
from fwd.link import service
from fwd.link.directory import Directory
from fwd.link.document import BYTES_MAX
from fwd.link.service import BEAT_S, FIRST_S, LONGEST_S, STALLED_S, Link, Patience, again_s, parts_of, renewal_at
from fwd.model.linked import News, Told, Validity, news_in, told_in
from fwd.proto.errors import UserError

LIFE = Validity(0, 30 * 86400)
AHEAD_S = 1000.0


class Host:
    """A host that has joined, and its link; `turns` until something is so."""

    def __init__(self, tmp_path: Path, site: Site, url: str) -> None:
        token = tmp_path / "token"
        token.touch(0o600)
        token.write_text(site.token)
        join(url, token, Wish("a1"), tmp_path / "joined")
        self.shared = GatewayShared()
        self.news = News(url=url, name="a1", addresses=("127.0.0.1",))
        self.tell()
        self.link = Link(parts_of(Directory(tmp_path / "joined"), self.shared, "1.0"))

    def tell(self, **changes: object) -> None:
        """What the supervisor says."""
        self.news = replace(self.news, **changes)  # type: ignore[arg-type]
        self.shared.troubles.put(json.dumps({"controller": self.news.as_json()}).encode())

    @property
    def told(self) -> Told:
        return told_in(self.shared.link_told.get())

    def turns(self, condition: Callable[[], object], what: str = "") -> None:
        def turned() -> object:
            self.link.turn()
            return condition()

        until(turned, what, 60.0)

    def close(self) -> None:
        self.link._asks.close()
        self.link._stream.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "controller").mkdir()
    return Site(tmp_path / "controller")


@pytest.fixture
def host(tmp_path: Path, site: Site) -> Iterator[Host]:
    with serving(site) as url:
        host = Host(tmp_path, site, url)
        yield host
        host.close()


def test_documents_come_as_they_were_signed_one_after_the_other(host: Host, site: Site) -> None:
    for generation in (1, 2):
        data = site.publish({"peering": []}, (1, generation))
        host.turns(lambda data=data: host.shared.documents.get() == data.strip())  # type: ignore[misc]


def test_heartbeats_tell_what_became_of_them_and_how_the_gateway_is(host: Host, site: Site) -> None:
    host.shared.summary.put(json.dumps({"ready": True, "peerings": []}).encode())
    host.tell(applied=(1, 4), seen=(1, 5), held=(1, 5), held_why="too little", refused="nonsense")
    host.turns(lambda: site.beat().get("applied") == [1, 4])
    beat = site.beat()
    assert beat["held"] == {"order": [1, 5], "why": "too little"}
    assert (beat["refused"], beat["seen"], beat["status"]["ready"], beat["version"]) == (
        "nonsense",
        [1, 5],
        True,
        "1.0",
    )
    host.turns(lambda: host.told.connected_at is not None)
    assert (host.told.error, host.shared.link_connected[0]) == ("", 1)


def test_what_others_go_by_is_told_before_the_next_heartbeat_is_due_and_once_a_second_at_most(
    host: Host, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A router that missed a gateway told its controller up to 1.5 s later."""
    beats: list[tuple[bool, bool]] = []

    def beat(link: Link, tell: Callable[[Link], dict[str, Any]] = Link._beat) -> dict[str, Any]:
        told = tell(link)
        beats.append((told["changed"], told["status"]["gateways"][0]["up"]))
        return told

    def sum_up(*, up: bool, rtt_ms: float) -> None:
        gateway = {"name": "g", "up": up, "use": "up", "rtt_ms": rtt_ms}
        host.shared.summary.put(json.dumps({"ready": True, "gateways": [gateway]}).encode())

    sum_up(up=True, rtt_ms=1.0)
    monkeypatch.setattr(Link, "_beat", beat)
    host.turns(lambda: host.told.heard_at is not None)
    monkeypatch.setattr(host.link, "_beat_at", float("inf"))
    sum_up(up=True, rtt_ms=2.0)
    for _ in range(3):
        host.link.turn()
    assert beats == [(True, True)], "a time is no such thing"

    began_at = time.monotonic()
    sum_up(up=False, rtt_ms=2.0)
    host.turns(lambda: len(beats) == 2)
    assert beats[-1] == (True, False)
    host.turns(lambda: not host.link._asks.is_busy)
    monkeypatch.setattr(host.link, "_beat_at", float("inf"))
    sum_up(up=True, rtt_ms=2.0)
    host.turns(lambda: len(beats) == 3)
    assert time.monotonic() >= began_at + BEAT_S


def test_the_last_words_of_a_process_that_does_not_go_on_are_passed_on_no_more(host: Host, site: Site) -> None:
    host.shared.summary.put(json.dumps({"ready": True, "gateways": []}).encode())
    host.shared.beat()
    host.turns(lambda: site.beat().get("status", {}).get("ready") is True)
    host.shared.turned[0] = time.monotonic_ns() - int((STALLED_S + 1) * 1e9)
    host.turns(lambda: site.beat()["status"].get("stalled") is True)
    assert site.beat()["status"].keys() == {"ready", "stalled", "waiting"}
    host.shared.beat()
    host.turns(lambda: site.beat()["status"] == {"ready": True, "gateways": []})


def test_a_refusal_is_told_as_the_controller_says_it(host: Host, site: Site) -> None:
    host.turns(lambda: host.told.connected_at is not None)
    (site.directory / "refuse").write_text("403 certificate not yet valid: your clock is 600 s behind")
    host.turns(lambda: "403: certificate not yet valid: your clock is 600 s behind" in host.told.error)
    assert host.told.connected_at is None
    (site.directory / "refuse").unlink()
    host.turns(lambda: host.told.connected_at is not None and not host.told.error)


def test_a_certificate_is_renewed_at_half_of_its_life_with_the_same_keys(host: Host, site: Site) -> None:
    now = int(time.time())
    host.tell(link=Validity(now - 100, now + 200), ike=Validity(now - 10, now + 290))
    host.turns(lambda: host.told.connected_at is not None)
    assert not (site.directory / "renewals").exists()
    host.tell(link=Validity(now - 200, now + 100))
    host.turns(lambda: host.shared.certificates.get())
    words = json.loads(host.shared.certificates.get())
    assert {"link_certificate", "ike_certificate"} == words.keys()


def test_by_a_clock_that_is_far_ahead_nothing_is_renewed_before_its_time(
    host: Host, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = {"time": lambda: time.time() + AHEAD_S, "monotonic": time.monotonic, "monotonic_ns": time.monotonic_ns}
    monkeypatch.setattr(service, "time", SimpleNamespace(**clocks))
    now = int(time.time())
    host.tell(link=Validity(now - 10, now + 290), ike=Validity(now - 10, now + 290))
    host.turns(lambda: host.told.clock_s < -AHEAD_S / 2)
    end = time.monotonic() + 2 * BEAT_S
    host.turns(lambda: time.monotonic() > end)
    assert not (site.directory / "renewals").exists()


@pytest.mark.parametrize("length", [BYTES_MAX + 2, 3 * BYTES_MAX])
def test_a_line_longer_than_any_document_ends_the_connection(host: Host, site: Site, length: int) -> None:
    (site.directory / "desired-a1").write_bytes(b"x" * length + b"\n")
    host.turns(lambda: "more octets than any document" in host.told.error)
    assert host.shared.documents.get() == b""
    assert len(host.link._line) <= 2 * BYTES_MAX


def test_a_stream_that_falls_silent_is_begun_anew(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.turns(lambda: host.told.connected_at is not None)
    monkeypatch.setattr(service, "SILENCE_S", -1.0)
    host.turns(lambda: "nothing has come" in host.told.error)


def test_another_controllers_certificate_is_not_believed(tmp_path: Path, site: Site) -> None:
    (tmp_path / "other").mkdir()
    with serving(site) as url:
        host = Host(tmp_path, site, url)
    port = int(url.rpartition(":")[2])
    with serving(Site(tmp_path / "other"), port=port):
        host.turns(lambda: "its certificate is not believed" in host.told.error)
    host.close()


def test_a_clock_that_is_wrong_is_named(tmp_path: Path) -> None:
    """The controller's certificate has ended, by this host's clock."""
    (tmp_path / "controller").mkdir()
    site = Site(tmp_path / "controller", server_s=1)
    with serving(site) as url:
        until(lambda: time.time() > site_ends(site), "its end", 30.0)
        with pytest.raises(UserError, match=r"has expired.*clock right\? It says 20"):
            Host(tmp_path, site, url)


def site_ends(site: Site) -> float:
    return x509.load_pem_x509_certificate(site.read("server.pem")).not_valid_after_utc.timestamp()


def test_nobody_there_is_told_and_costs_nothing_that_grows(tmp_path: Path, site: Site) -> None:
    with serving(site) as url:
        host = Host(tmp_path, site, url)
    with socket.socket() as blocked:  # the port stays taken, and refuses
        blocked.bind(("127.0.0.1", 0))
        host.turns(lambda: "refused" in host.told.error)
        for _ in range(20):
            host.link._patience.due_at = host.link._stream_patience.due_at = 0.0
            host.link.turn()
    assert not host.link._line
    assert host.link._asks.waits_for is None
    host.close()


def test_without_an_address_it_waits(tmp_path: Path, site: Site) -> None:
    with serving(site) as url:
        host = Host(tmp_path, site, url)
        host.tell(addresses=())
        for _ in range(3):
            host.link.turn()
        assert host.link._asks.waits_for is None
        host.tell(addresses=("127.0.0.1",))
        host.turns(lambda: host.told.connected_at is not None)
        host.close()


def test_attempts_grow_apart_and_come_with_full_jitter() -> None:
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    patience, waits = Patience(draw), []
    for _ in range(9):
        patience.failed(100.0)
        waits.append(patience.due_at - 100.0)
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0]
    assert {low for low, _ in drawn} == {0.0}
    patience.succeeded()
    patience.failed(100.0)
    assert patience.due_at == 100.0 + FIRST_S
    assert Patience(lambda low, high: low).due_at == 0.0
    assert LONGEST_S == 4.0


@pytest.mark.parametrize(
    ("life", "at", "again"),
    [(LIFE, 15 * 86400 + 150, 600), (Validity(0, 360), 330, 1.2), (Validity(0, 60), 30, 1.2)],
)
def test_when_a_certificate_is_renewed(life: Validity, at: float, again: float) -> None:
    assert (renewal_at(life), again_s(life)) == (at, again)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"1", b"[" * 100_000, b'{"connected_at": "x"}', b'{"newest": [1]}', b'{"newest": [true, 1]}',
     b'{"clock_s": 1e999}', b'{"error": 7}', b'{"error": null}', b"\xff"],
)  # fmt: skip
def test_whatever_a_link_has_written_is_read(data: bytes) -> None:
    assert isinstance(told_in(data), Told)


def test_what_link_tells_is_bounded_and_printable() -> None:
    told = told_in(Told(1.5, 2.5, (3, 4), -600.0, "a\nb\x1b" + "x" * 9999).encode())
    assert (told.connected_at, told.heard_at, told.newest, told.clock_s) == (1.5, 2.5, (3, 4), -600.0)
    assert told.error.isprintable()
    assert len(told.error) == 400


def test_what_the_supervisor_tells_comes_back_as_it_was() -> None:
    news = News("https://c", "a1", ("192.0.2.1",), (1, 2), (1, 3), (1, 3), "why", "no", LIFE, None)
    assert news_in(json.loads(json.dumps(news.as_json()))) == news
    assert news_in(None) is None
    assert news_in({"url": 1}) is None
