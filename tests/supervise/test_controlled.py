"""What becomes of a controller's documents and certificates on a host, whatever goes wrong with one of them once."""

from __future__ import annotations

import base64
import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from servekit import Site, put

from fwd.controller import ca
from fwd.datapath.memory import Memory
from fwd.datapath.shared import GatewayShared
from fwd.link.document import Document, sign
from fwd.link.kept import Shelf
from fwd.model.config import Config, Peering
from fwd.model.reasons import Code
from fwd.supervise import joined, names
from fwd.supervise.checking import Found
from fwd.supervise.link import Controlled

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="what examines gives up root, and has to have it")
NOBODY = (65534, 65534)
TABLE: dict[str, Any] = {
    "name": "a-b", "local_addrs": "192.0.2.1", "remote_addrs": ["192.0.2.2"], "local_ts": ["10.1.0.0/16"],
    "remote_ts": ["10.2.0.0/16"], "members": 2, "port": 5012, "tun": "fwd1", "local_id": "a1.x", "remote_id": ["b1.x"],
}  # fmt: skip
LOCAL_TABLE = {
    **{key: TABLE[key] for key in ("local_addrs", "local_ts", "members")}, "name": "local", "remote_addrs": "192.0.2.3",
    "remote_ts": ["10.3.0.0/16"], "port": 6000, "tun": "tun0", "keys": {"source": "lab", "secret": "/run/x"},
}  # fmt: skip


def local(*tables: dict[str, Any], subnets: str = "10.0.0.0/8") -> Config:
    return Config.model_validate({"controller": {"subnets": [subnets]}, "peering": list(tables)})


class Host:
    """A host that has joined, and its controller's words. `now` goes faster than the clock."""

    def __init__(self, tmp_path: Path) -> None:
        (tmp_path / "site").mkdir()
        self.site = Site(tmp_path / "site")
        self.directory = tmp_path / "kept"
        self.directory.mkdir(0o700)
        about = {"url": "https://127.0.0.1:8443", "cluster_id": "c1", "name": "a1", "identity": "a1.x"}
        put(self.directory / "controller.json", json.dumps(about).encode())
        put(self.directory / "document.key", base64.b64encode(self.site.key.public_key().public_bytes_raw()))
        put(self.directory / "ca.pem", self.site.read("ca.pem"))
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("link", "ike")}
        for name, data in self.certificates(time.time()).items():
            put(self.directory / name, data)
        self.file = local()
        self.followed: list[bool] = []
        self._skipped_s = 0.0
        self.begin()

    def begin(self) -> None:
        """Start, with whatever is kept."""
        self.memory = Memory(GatewayShared.SIZES)
        self.link = GatewayShared(self.memory.map("link"))
        self.controlled = Controlled(
            self.directory, lambda: self.file, self.followed.append, self.memory, NOBODY, NOBODY
        )  # fmt: skip
        self.controlled.begin()

    def end(self) -> None:
        self.controlled.close()
        self.memory.close()

    def begin_again(self) -> None:
        self.end()
        self.begin()

    def certificates(self, now: float) -> dict[str, bytes]:
        link = ca.link_certificate(self.site.ca, self.keys["link"].public_key(), ("c1", "gateway", "a1"), now, 1000)
        ike = ca.ike_certificate(self.site.ca, self.keys["ike"].public_key(), "a1.x", now, 1000)
        return {"link.pem": ca.pem(link), "ike.pem": ca.pem(ike)}

    def send(self, generation: int, *tables: dict[str, Any], **content: Any) -> None:
        self.link.documents.put(self.site.publish({"peering": list(tables or [TABLE]), **content}, (1, generation)))

    def renew(self, files: dict[str, bytes]) -> None:
        words = {f"{name}_certificate": files[f"{name}.pem"].decode() for name in ("link", "ike")}
        self.link.certificates.put(json.dumps(words).encode())

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, self.controlled.news
            self.controlled.turn(time.monotonic() + self._skipped_s)
            time.sleep(0.001)
            if self.controlled._asked is None:  # nothing but the next question's time is waited for
                self.skip(0.02)

    def skip(self, seconds: float) -> None:
        self._skipped_s += seconds

    @property
    def applied(self) -> int:
        return self.controlled.news.applied[1]

    @property
    def refused(self) -> str:
        return self.controlled.news.refused

    def take(self, generation: int) -> None:
        """Have the peering in force."""
        self.send(generation)
        self.until(lambda: self.applied == generation)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end()


def subnets(peerings: list[Peering]) -> dict[str, list[str]]:
    return {one.name: [str(subnet) for subnet in one.remote_ts] for one in peerings}


# -- a start at which what is kept cannot be in force ------------------------------------------------------------------


def test_what_is_kept_and_cannot_be_in_force_is_guarded_and_told(host: Host) -> None:
    host.take(3)
    host.file = local(subnets="10.1.0.0/16")
    host.begin_again()
    assert not host.controlled.has_begun
    assert subnets(host.controlled.closed) == {"a-b": ["10.2.0.0/16"]}
    (reason,) = host.controlled.reasons()
    assert (reason.code, "10.2.0.0/16 is in none of controller.subnets" in reason.line) == (Code.NOT_IN_FORCE, True)
    assert "kept here" in host.refused


def test_it_is_in_force_as_soon_as_the_local_file_lets_it(host: Host) -> None:
    host.take(3)
    host.file = local(subnets="10.1.0.0/16")
    host.begin_again()
    host.followed.clear()
    host.file = local()
    host.controlled.look_again()
    host.until(lambda: host.applied == 3)
    assert (host.controlled.has_begun, host.controlled.closed, host.refused) == (True, [], "")
    assert host.controlled.reasons() == []
    assert host.followed == [False]


def test_a_start_with_no_process_left_is_tried_again_by_itself(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.take(3)

    def none_left() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as crowded:
        crowded.setattr(os, "fork", none_left)
        host.begin_again()
    assert (host.controlled.has_begun, host.applied) == (False, 0)
    assert "cannot be examined" in host.refused
    host.skip(10)
    host.until(lambda: host.applied == 3)
    assert host.refused == ""


def test_the_document_that_is_kept_and_not_in_force_is_taken_when_it_is_sent_again(host: Host) -> None:
    host.take(3)
    host.file = local(subnets="10.1.0.0/16")
    host.begin_again()
    host.send(3)
    host.until(lambda: "document: " in host.refused)
    host.file = local()
    host.send(3)
    host.until(lambda: host.applied == 3)


def test_a_newer_document_that_may_be_is_in_force_beside_one_that_may_not(host: Host) -> None:
    host.take(3)
    host.file = local(subnets="10.1.0.0/16")
    host.begin_again()
    host.send(4, {**TABLE, "local_ts": ["10.1.0.0/24"], "remote_ts": ["10.1.2.0/24"]})
    host.until(lambda: host.applied == 4)
    assert (host.controlled.has_begun, host.controlled.closed) == (True, [])


def test_one_that_is_damaged_on_the_disk_leaves_guards_and_is_taken_when_it_is_sent_again(host: Host) -> None:
    host.take(3)
    (host.directory / "document").write_bytes(b"x")
    host.begin_again()
    assert not host.controlled.has_begun
    assert "damaged" in host.refused
    host.send(3)
    host.until(lambda: host.applied == 3)
    assert host.controlled.has_begun


def test_a_host_that_has_never_had_a_document_has_begun(host: Host) -> None:
    assert (host.controlled.has_begun, host.controlled.reasons(), host.refused) == (True, [], "")


@pytest.mark.parametrize(
    ("table", "guarded"),
    [
        ({}, {"a-b": ["10.2.0.0/16"]}),
        ({"name": "a-b"}, {"a-b-kept": ["10.2.0.0/16"]}),
        ({"port": 5012}, {"a-b": ["10.2.0.0/16"]}),
        ({"tun": "fwd1"}, {"a-b": ["10.2.0.0/16"]}),
        ({"remote_ts": ["10.2.0.0/24"]}, {}),
    ],
)
def test_beside_the_local_files_own_peerings_what_is_kept_is_guarded(
    host: Host, table: dict[str, Any], guarded: dict[str, list[str]]
) -> None:
    host.take(3)
    host.file = local({**LOCAL_TABLE, **table}, subnets="10.1.0.0/16")
    host.begin_again()
    assert subnets(host.controlled.closed) == guarded


# -- what was refused, or could not be kept ----------------------------------------------------------------------------


def test_a_refused_document_is_examined_again_when_the_local_file_is_another(host: Host) -> None:
    host.file = local(subnets="10.1.0.0/16")
    host.send(3)
    host.until(lambda: "in none of" in host.refused)
    host.file = local()
    host.controlled.look_again()
    host.until(lambda: host.applied == 3)
    assert host.refused == ""


def full(host: Host, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Have the disk full once, when this file is written."""
    write, left = host.controlled.directory.put, [1]

    def put(which: str, data: bytes) -> None:
        if which == name and left.pop():
            monkeypatch.undo()
            raise OSError(errno.ENOSPC, "No space left on device")
        write(which, data)

    monkeypatch.setattr(host.controlled.directory, "put", put)


def test_certificates_that_could_not_be_kept_once_are_told_as_soon_as_they_are(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = host.controlled.news.ike
    full(host, monkeypatch, "ike.pem")
    host.renew(host.certificates(time.time() + 100))
    host.until(lambda: "No space left" in host.refused)
    assert host.controlled.news.ike == before
    host.skip(10)
    host.until(lambda: not host.refused)
    assert host.controlled.news.ike != before
    assert host.followed == [True]


def test_a_document_that_is_taken_leaves_the_refusal_of_certificates(host: Host) -> None:
    host.link.certificates.put(b"{}")
    host.until(lambda: host.refused.startswith("certificates: "))
    host.take(3)
    assert host.refused.startswith("certificates: ")


def test_a_disk_that_was_full_keeps_no_new_ca_from_link(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second attempt finds it written, by the first one."""
    second = ca.new_authority("second", time.time())
    lists = [ca.revocation_list(one, [], 1, time.time()).decode() for one in (host.site.ca, second)]
    full(host, monkeypatch, "crl.pem")
    bundle = (host.site.read("ca.pem") + ca.pem(second.certificate)).decode()
    host.send(3, ca_bundle=bundle, crl="".join(lists))
    host.until(lambda: "No space left" in host.refused)
    assert (host.followed, host.applied) == ([], 0)
    host.skip(10)
    host.until(lambda: host.applied == 3)
    assert host.followed == [True]


def test_a_certificate_of_a_shorter_life_renews_one_of_a_longer(host: Host) -> None:
    """An operator may lower `certificate_lifetime`."""
    now = time.time()
    link = ca.link_certificate(host.site.ca, host.keys["link"].public_key(), ("c1", "gateway", "a1"), now + 1, 100)
    ike = ca.ike_certificate(host.site.ca, host.keys["ike"].public_key(), "a1.x", now + 1, 100)
    host.renew({"link.pem": ca.pem(link), "ike.pem": ca.pem(ike)})
    host.until(lambda: host.followed == [True])
    assert host.refused == ""


# -- what is held ------------------------------------------------------------------------------------------------------


def held(host: Host) -> None:
    """Have the controller take everything away, and nobody has wished it."""
    host.take(3)
    host.link.documents.put(host.site.publish({"peering": []}, (1, 4)))
    host.until(lambda: host.controlled.news.held == (1, 4))


def test_what_could_not_be_held_for_want_of_room_is_held_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    hold, left = Shelf.hold, [1]

    def full(shelf: Shelf, data: bytes) -> None:
        if left.pop():
            monkeypatch.undo()
            raise OSError(errno.ENOSPC, "No space left on device")
        hold(shelf, data)

    host.take(3)
    monkeypatch.setattr(Shelf, "hold", full)
    host.link.documents.put(host.site.publish({"peering": []}, (1, 4)))
    host.until(lambda: "No space left on device; it is tried again" in host.refused)
    host.skip(10)
    host.until(lambda: host.controlled.news.held == (1, 4))
    assert host.refused == ""


def test_what_could_not_be_examined_once_is_so_later(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        monkeypatch.undo()
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(joined, "Checking", none)
    host.send(3)
    host.until(lambda: "Too many open files; it is tried again" in host.refused)
    host.skip(10)
    host.until(lambda: host.applied == 3)
    assert host.refused == ""


def test_what_is_held_is_written_once_however_often_it_comes(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    held(host)
    before = (host.directory / "held").stat().st_mtime_ns
    host.link.documents.put(host.site.publish({"peering": []}, (1, 4)) + b"\n")
    host.link.certificates.put(b"{}")  # which are looked at after documents
    host.until(lambda: host.refused.startswith("certificates: "))
    assert (host.directory / "held").stat().st_mtime_ns == before
    assert caplog.text.count("is held") == 1


def test_what_a_person_took_away_once_is_no_wish_of_later(host: Host) -> None:
    host.take(3)
    host.link.documents.put(host.site.publish({"peering": []}, (1, 4), removed=("a-b",)))
    host.until(lambda: host.applied == 4)
    host.take(5)
    empty = Document("c1", 1, 6, "a1", {"peering": []}, (("a-b", 4),))
    host.link.documents.put(sign(empty, host.site.key))
    host.until(lambda: host.controlled.news.held == (1, 6))


def test_root_may_accept_while_something_else_is_examined(host: Host) -> None:
    held(host)
    host.link.certificates.put(b"{}")
    host.controlled.turn(time.monotonic() + 100)
    answers = host.controlled.accept()
    assert next(answers) is None
    host.until(lambda: host.applied == 4)
    assert next(answers) == {"accepted": [1, 4]}


def test_a_name_that_could_not_be_looked_up_is_soon_looked_up_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a boot, before there is a network."""
    about = {"url": "https://controller.invalid:8443", "cluster_id": "c1", "name": "a1", "identity": "a1.x"}
    put(host.directory / "controller.json", json.dumps(about).encode())
    asked: list[float] = []
    monkeypatch.setattr(names, "begin", lambda *ask: asked.append(ask[-1]) or "a look-up")
    monkeypatch.setattr(names, "heard", lambda lookup, now: b"")
    monkeypatch.setattr(names, "answer_in", lambda said, port: ([], "no answer"))
    monkeypatch.setattr(names, "end", lambda lookup: None)
    host.begin_again()
    for second in range(30):
        host.controlled.turn(float(second))
    assert len(asked) >= 4


# -- new keys ---------------------------------------------------------------------------------------------------------


def test_another_number_means_new_keys_once(host: Host) -> None:
    host.send(3, rekeys={"a-b": 7})
    host.until(lambda: host.applied == 3)
    assert host.controlled.to_rekey(100.0) == (), "those of the first document are new"
    first = host.link.documents.get()

    host.send(4, rekeys={"a-b": 8})
    host.until(lambda: host.applied == 4)
    assert [host.controlled.to_rekey(100.0) for _ in range(2)] == [{"a-b"}, ()]
    for again in (host.link.documents.get(), first):
        host.link.documents.put(again)
        seen = host.link.documents.version
        host.until(lambda seen=seen: host.controlled._seen["document"] == seen and host.controlled._asked is None)  # type: ignore[misc]
    assert (host.applied, host.controlled.to_rekey(1000.0)) == (4, ()), "neither the same one nor an older one"
    host.begin_again()
    assert (host.applied, host.controlled.to_rekey(1000.0)) == (4, ()), "after a start all are new"


def test_no_controller_has_keys_made_more_often_than_once_a_minute(host: Host) -> None:
    host.take(3)
    made = []
    for second in range(300):
        if second < 200:
            host.controlled._want(Found("take", rekeys={"a-b": second}, peerings=host.controlled.peerings))
        made += [second] * len(host.controlled.to_rekey(float(second)))
    assert made == [1, 61, 121, 181, 241]
