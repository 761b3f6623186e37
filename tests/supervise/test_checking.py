"""What a process without rights finds out of a controller's words, and that nothing else comes of them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from servekit import Site

from fwd.controller import ca
from fwd.link.directory import Directory
from fwd.link.document import Document, DocumentError, sign
from fwd.link.kept import Octets
from fwd.model.config import Config, parse
from fwd.model.example import EXAMPLE
from fwd.model.linked import Validity
from fwd.proto.errors import UserError
from fwd.supervise import asked
from fwd.supervise.checking import Case, Checking, Found, examined, found_in
from fwd.supervise.link import Controlled

LOCAL = Config.model_validate({"controller": {"subnets": ["10.0.0.0/8"]}})
TABLE: dict[str, Any] = {
    "name": "a-b", "local_addrs": "192.0.2.1", "remote_addrs": ["192.0.2.2"], "local_ts": ["10.1.0.0/16"],
    "remote_ts": ["10.2.0.0/16"], "members": 2, "port": 5012, "tun": "fwd1", "local_id": "a1.x", "remote_id": ["b1.x"],
}  # fmt: skip
CONTENT = {"peering": [TABLE], "draining": True}
root = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root, and has to have it")


class Host:
    """What a host has that has joined."""

    def __init__(self, tmp_path: Path) -> None:
        self.site = Site(tmp_path)
        self.keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("link", "ike")}
        self.case = Case(
            LOCAL, Directory(tmp_path), "a1", self.site.key.public_key(), Octets(),
            {"ca.pem": self.site.read("ca.pem"), **self.certificates(time.time())},
        )  # fmt: skip

    def certificates(
        self, now: float, site: Site | None = None, names: str = "a1", keys: Any = None
    ) -> dict[str, bytes]:
        of, keys = (site or self.site).ca, keys or self.keys
        link = ca.link_certificate(of, keys["link"].public_key(), ("c1", "gateway", names), now, 1000)
        ike = ca.ike_certificate(of, keys["ike"].public_key(), f"{names}.x", now, 1000)
        return {"link.pem": ca.pem(link), "ike.pem": ca.pem(ike)}

    def document(self, content: Any, generation: int = 3, **other: Any) -> bytes:
        return sign(Document("c1", 1, generation, "a1", content, **other), self.site.key)

    def examined(self, content: Any, generation: int = 3, kept: Octets | None = None) -> Found:
        return examined(replace(self.case, kept=kept or Octets()), "document", self.document(content, generation))

    def renewed(self, files: dict[str, bytes]) -> Found:
        words = {f"{name}_certificate": files[f"{name}.pem"].decode() for name in ("link", "ike")}
        return examined(self.case, "certificates", json.dumps(words).encode())

    def crl(self, of: Site | None = None) -> str:
        return ca.revocation_list((of or self.site).ca, [(1, time.time())], 1, time.time()).decode()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> Site:
    (tmp_path / "other").mkdir()
    return Site(tmp_path / "other")


def test_a_document_that_may_be_taken_is_its_peerings_and_files(host: Host) -> None:
    found = host.examined({**CONTENT, "crl": host.crl()})
    assert (found.answer, found.order, found.draining) == ("take", (1, 3), True)
    (peering,) = found.peerings
    keys = peering.ike
    assert keys is not None
    assert [str(one) for one in keys.crls] == [str(host.site.directory / "crl.pem")]  # type: ignore[attr-defined]
    assert keys.cert_grace == 7 * 86400  # type: ignore[attr-defined]
    assert found.files == {"crl.pem": host.crl().encode()} or "crl.pem" in found.files
    assert found.document == host.document({**CONTENT, "crl": found.files["crl.pem"].decode()})


def test_at_a_start_what_is_kept_is_taken_and_nothing_of_it_written_again(host: Host) -> None:
    kept = Octets(host.document(CONTENT), b"", (1, 3))
    found = examined(replace(host.case, kept=kept), "start", b"")
    assert (found.answer, found.order, len(found.peerings), found.document) == ("take", (1, 3), 1, b"")
    assert examined(host.case, "start", b"").answer == "none"


def test_one_that_shrinks_is_held_whole_and_accepted_whole(host: Host) -> None:
    before = host.document(CONTENT)
    shrunk = host.document({"peering": []}, 4)
    found = host.examined({"peering": []}, 4, Octets(before, b"", (1, 3)))
    assert (found.answer, found.document, found.peerings) == ("hold", shrunk, ())
    case = replace(host.case, kept=Octets(before, shrunk, (1, 3)))
    assert examined(case, "start", b"").held == (1, 4)
    found = examined(case, "accept", b"")
    assert (found.answer, found.order, found.document) == ("take", (1, 4), shrunk)
    assert examined(host.case, "accept", b"").why == "no document is held: there is nothing to accept"


def test_how_long_certificates_are_good_is_told_with_every_answer(host: Host) -> None:
    life = host.examined(CONTENT).lives["link"]
    assert isinstance(life, Validity)
    assert 1200 <= life.ends - life.begins <= 1301


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({**CONTENT, "hooks": {}}, "sets 'hooks'"),
        ({"peering": [{**TABLE, "remote_ts": ["172.16.0.0/16"]}]}, "in none of controller.subnets"),
        ({"peering": [{**TABLE, "user": "root"}]}, "sets 'user'"),
        ({**CONTENT, "crl": "/etc/shadow"}, "crl"),
        ({**CONTENT, "crl": ["x"]}, "no text in PEM"),
        ({**CONTENT, "crl": "x" * (1 << 19)}, "no text in PEM"),
        ({**CONTENT, "ca_bundle": ""}, "no certificate in PEM"),
        ({**CONTENT, "draining": 1}, "draining"),
        *(({**CONTENT, "rekeys": {"a-b": odd}}, "rekeys") for odd in (True, -1, 2**31, 1.5, "1", None)),
        ({**CONTENT, "rekeys": []}, "rekeys"),
        ({**CONTENT, "rekeys": {"../x": 1}}, "rekeys"),
    ],
)
def test_what_a_document_may_not_say_is_refused_whole(host: Host, content: Any, why: str) -> None:
    found = host.examined(content)
    assert (found.answer, found.peerings, found.files, found.document) == ("refused", (), {}, b"")
    assert why in found.why


def test_a_list_of_another_ca_is_refused(host: Host, other: Site) -> None:
    assert "no CA of the bundle has signed" in host.examined({**CONTENT, "crl": host.crl(other)}).why


def test_a_bundle_has_cas_alone(host: Host) -> None:
    text = host.case.files["ike.pem"].decode()
    assert "no CA's" in host.examined({**CONTENT, "ca_bundle": text}).why


def test_renewed_certificates_are_for_the_keys_and_names_of_before(host: Host) -> None:
    files = host.certificates(time.time() + 100)
    found = host.renewed(files)
    assert (found.answer, found.files) == ("take", files)
    assert found.lives["ike"].ends > host.examined(CONTENT).lives["ike"].ends


def test_certificates_that_are_not_ours_are_refused(host: Host, other: Site) -> None:
    """A link that is taken over brings in no key, no name and no CA of its own, and no certificate of before."""
    later = time.time() + 100
    foreign = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("link", "ike")}
    for files, why in (
        (host.certificates(later, keys=foreign), "another key"),
        (host.certificates(later, names="b1"), "other names"),
        (host.certificates(later, site=other), "no CA that is known"),
        (host.certificates(later - 5000), "is older"),
        (host.certificates(later + 600), "whose clock is wrong?"),
        ({"link.pem": b"x", "ike.pem": b"x"}, "no certificate"),
    ):
        found = host.renewed(files)
        assert (found.answer, found.files) == ("refused", {})
        assert why in found.why


@pytest.mark.parametrize("data", [b"", b"[]", b"[" * 100_000, b'{"link_certificate": 7, "ike_certificate": null}'])
def test_nonsense_for_certificates_is_refused(host: Host, data: bytes) -> None:
    assert examined(host.case, "certificates", data).answer == "refused"


# -- the child, and what is read of it ------------------------------------------------------------------------------


def heard(checking: Checking) -> Found:
    try:
        while (found := checking.found(time.monotonic())) is None:
            checking.wait(1.0)
        return found
    finally:
        checking.end()
        while not checking.is_gone():
            time.sleep(0.001)


@root
def test_a_child_without_rights_says_the_same(host: Host) -> None:
    data = host.document({**CONTENT, "crl": host.crl()})
    said = heard(Checking(host.case, "document", lambda: data, (65534, 65534), time.monotonic()))
    assert said == examined(host.case, "document", data)


@root
def test_a_child_that_says_nothing_is_a_refusal(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies() -> bytes:
        os._exit(1)

    with pytest.raises(UserError, match="without a word"):
        heard(Checking(host.case, "document", dies, (65534, 65534), time.monotonic()))
    monkeypatch.setattr(asked, "DEADLINE_S", 0.0)
    with pytest.raises(UserError, match="within"):
        heard(Checking(host.case, "document", lambda: time.sleep(60) or b"", (65534, 65534), time.monotonic()))


WHOLE: dict[str, Any] = {
    "answer": "take", "order": [1, 2], "why": "", "peerings": [], "draining": False, "rekeys": {}, "files": {},
    "lives": {}, "damaged": {}, "held": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [b"", b"{}", b"[]", b"[" * 100_000, b"x" * (5 << 20),
     *(json.dumps({**WHOLE, name: value}).encode() for name, value in {
         "order": [1], "rekeys": {"a-b": -1}, "peerings": [{}], "files": [], "lives": {"x": 1}, "damaged": 7,
         "held": [1],
     }.items()),
     *(json.dumps({**WHOLE, "files": {name: "x"}}).encode() for name in (
         "/../../../etc/cron.d/x", "document.key", "controller.json", "ike.key", "link.key", "seen", "../ca.pem", ""
     )),
     *(json.dumps({**WHOLE, name: value}).encode() for name in ("order", "held") for value in (
         [2**63, 0], [0, 2**63], [-1, 0], [1.5, 0], ["1", "2"], [True, 0], [1, 2, 3]
     )),
     json.dumps({**WHOLE, "damaged": {f"{n}": "why" for n in range(1000)}}).encode()],
)  # fmt: skip
def test_whatever_a_child_says_is_an_answer_or_none(said: bytes) -> None:
    with pytest.raises(UserError, match="without a word"):
        found_in(said)


def test_a_child_that_was_taken_over_sets_nothing_that_is_not_given_away(host: Host) -> None:
    """Root looks once more at each peering, its files too."""
    found = found_in(json.dumps({**WHOLE, "peerings": []}).encode())
    (good,) = host.examined(CONTENT).peerings
    root: Any = SimpleNamespace(_local=lambda: LOCAL, directory=host.case.directory)
    Controlled._check(root, replace(found, peerings=(good,)))
    lab = parse(EXAMPLE, "").peering[0].keys.model_copy(update={"source": "lab"})
    others = {
        "foreign subnet": good.model_copy(update={"remote_ts": [ip_network("192.168.0.0/24")]}),
        "another's key": good.model_copy(update={"keys": good.keys.model_copy(update={"key": Path("/etc/shadow")})}),
        "a revocation list": good.model_copy(update={"keys": good.keys.model_copy(update={"crls": [Path("/x")]})}),
        "of another kind": good.model_copy(update={"keys": lab}),
        "device": good.model_copy(update={"tun": "eth0"}),
    }
    for peering in others.values():
        with pytest.raises(DocumentError):
            Controlled._check(root, replace(found, peerings=(peering,)))


def test_a_text_of_a_child_is_bounded_and_printable() -> None:
    found = found_in(json.dumps({**WHOLE, "why": "a\nb\x1b" + "x" * 9999}).encode() + b"\n\xff\x00document")
    assert found.why.isprintable()
    assert len(found.why) == 1000
    assert found.document == b"\xff\x00document"
