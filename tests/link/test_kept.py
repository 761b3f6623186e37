"""What a host keeps of its controller's documents, and what it begins with when it starts anew."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fwd.link.document import Answer, Document, DocumentError, sign
from fwd.link.kept import Known, Shelf
from fwd.proto.errors import UserError

KEY, OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32))), Ed25519PrivateKey.from_private_bytes(bytes(32))


def content(*peerings: str) -> dict[str, Any]:
    return {"peering": [{"name": name, "remote_addrs": ["192.0.2.1"]} for name in peerings]}


FIRST = Document("c1", 7, 3, "a1", content("x", "y"))
SECOND = replace(FIRST, generation=4, content=content("x", "y", "z"))
SHRUNK = replace(FIRST, generation=5, content=content("x"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "controller"


class Kept:
    """A host's files, and what it knows by them: it takes what may be taken."""

    def __init__(self, directory: Path) -> None:
        self.shelf = Shelf(directory)

    @property
    def known(self) -> Known:
        return Known(self.shelf.read(), KEY.public_key(), "a1")

    @property
    def document(self) -> Document | None:
        return self.known.document

    @property
    def held(self) -> Document | None:
        return self.known.held

    def receive(self, data: bytes) -> Answer:
        answer, _, document = self.known.judge(data)
        if answer is Answer.TAKE:
            self.shelf.take(data, document.order)
        elif answer is Answer.HOLD:
            self.shelf.hold(data)
        return answer

    def accept(self) -> Document:
        document, data = self.known.accept()
        self.shelf.take(data, document.order)
        return document


def opened(directory: Path) -> Kept:
    return Kept(directory)


def receive(kept: Kept, *documents: Document) -> list[Answer]:
    return [kept.receive(sign(one, KEY)) for one in documents]


def test_a_host_that_never_heard_anything_has_nothing(directory: Path) -> None:
    kept = opened(directory)
    assert (kept.document, kept.held) == (None, None)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_what_was_taken_is_there_at_the_next_start_without_a_controller(directory: Path) -> None:
    assert receive(opened(directory), FIRST, SECOND) == [Answer.TAKE, Answer.TAKE]
    assert opened(directory).document == SECOND
    assert {stat.S_IMODE(one.stat().st_mode) for one in directory.iterdir()} == {0o600}


def test_older_ones_are_refused_after_a_start_as_before(directory: Path) -> None:
    kept = opened(directory)
    assert receive(kept, SECOND, FIRST, SECOND) == [Answer.TAKE, Answer.OLD, Answer.SAME]
    assert receive(opened(directory), FIRST, SECOND) == [Answer.OLD, Answer.SAME]


def test_one_that_shrinks_is_held_over_a_start_until_root_accepts_it(directory: Path) -> None:
    assert receive(opened(directory), FIRST, SHRUNK) == [Answer.TAKE, Answer.HOLD]
    kept = opened(directory)
    assert (kept.document, kept.held) == (FIRST, SHRUNK)

    assert kept.accept() == SHRUNK
    after = opened(directory)
    assert (after.document, after.held) == (SHRUNK, None)
    assert receive(after, FIRST) == [Answer.OLD]


def test_a_newer_one_that_is_taken_makes_an_end_of_what_is_held(directory: Path) -> None:
    newer = replace(SECOND, generation=6)
    assert receive(opened(directory), FIRST, SHRUNK, newer) == [Answer.TAKE, Answer.HOLD, Answer.TAKE]
    kept = opened(directory)
    assert (kept.document, kept.held) == (newer, None)
    with pytest.raises(UserError, match="nothing to accept"):
        kept.accept()


def test_another_epoch_is_taken_if_it_is_above_all_that_was_seen(directory: Path) -> None:
    recovered = Document("c2", 8, 1, "a1", FIRST.content)
    below = Document("c3", 7, 9, "a1", FIRST.content)
    assert receive(opened(directory), SECOND, recovered, below) == [Answer.TAKE, Answer.TAKE, Answer.OLD]


def test_what_others_have_signed_changes_nothing(directory: Path) -> None:
    kept = opened(directory)
    receive(kept, FIRST)
    before = {one.name: one.read_bytes() for one in directory.iterdir()}
    for data in (sign(SECOND, OTHER), sign(replace(SECOND, host="a2"), KEY), b"", b"x" * 100):
        with pytest.raises(DocumentError):
            kept.receive(data)
    assert {one.name: one.read_bytes() for one in directory.iterdir()} == before


@pytest.mark.parametrize("damage", [b"", b"\xff" * 50, sign(SECOND, OTHER)])
def test_a_damaged_document_counts_as_absent_and_older_ones_are_still_refused(directory: Path, damage: bytes) -> None:
    receive(opened(directory), SECOND)
    (directory / "document").write_bytes(damage)
    kept = opened(directory)
    assert kept.document is None
    assert receive(kept, FIRST, replace(SECOND, generation=5)) == [Answer.OLD, Answer.TAKE]


def test_a_damaged_file_of_what_was_seen_is_told_of(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    receive(opened(directory), SECOND)
    opened(directory).shelf.read()
    assert "seen is not used" not in caplog.text
    (directory / "seen").write_bytes(b"[1]")
    opened(directory).shelf.read()
    assert "seen is not used: it is no term and generation" in caplog.text


def test_without_the_file_of_what_was_seen_the_document_says_it(directory: Path) -> None:
    receive(opened(directory), SECOND)
    for damage in (b"", b"[1]", b'["7", 9]', b"[" * 100_000):
        (directory / "seen").write_bytes(damage)
        assert receive(opened(directory), FIRST) == [Answer.OLD]


def test_what_others_can_have_written_is_not_believed(directory: Path) -> None:
    receive(opened(directory), FIRST)
    (directory / "document").chmod(0o622)
    assert opened(directory).document is None
    directory.chmod(0o777)
    with pytest.raises(UserError, match="can be written by others"):
        opened(directory)


def test_a_link_is_not_followed(directory: Path, tmp_path: Path) -> None:
    receive(opened(directory), FIRST)
    (directory / "document").rename(tmp_path / "elsewhere")
    (directory / "document").symlink_to(tmp_path / "elsewhere")
    assert opened(directory).document is None


def test_a_disk_that_takes_nothing_leaves_what_was(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = opened(directory)
    receive(kept, FIRST)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        receive(kept, SECOND)
    assert kept.document == FIRST
    monkeypatch.undo()
    assert opened(directory).document == FIRST
    assert receive(kept, SECOND) == [Answer.TAKE]
