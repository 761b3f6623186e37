"""A configuration on trial: how long it may go on, and what is on disk of it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from fwd.supervise.trial import CONFIRM_S_MAX, Now, Store, Trial, as_data, trial_in

TRIAL = Trial("text", 60.0, Now(1000.0, 50_000.0))


@pytest.mark.parametrize(
    ("now", "left_s", "left_after_restart_s"),
    [
        (Now(1000.0, 50_000.0), 60.0, 60.0),
        (Now(1010.0, 50_010.0), 50.0, 50.0),
        (Now(1060.0, 50_060.0), 0.0, 0.0),
        (Now(9999.0, 50_010.0), 0.0, 0.0),
        (Now(1010.0, 99_999.0), 50.0, 0.0),  # somebody has set the clock: this boot's counts, until fwd begins anew
        (Now(1010.0, 49_999.0), 50.0, 0.0),
        (Now(12.0, 50_020.0), 0.0, 0.0),  # another boot
        (Now(1010.0, 50_055.0), 50.0, 5.0),  # another boot, as long by chance
    ],
)
def test_a_trial_has_the_time_that_it_was_given_and_no_more_whatever_happens(
    now: Now, left_s: float, left_after_restart_s: float
) -> None:
    assert (TRIAL.left_s(now), TRIAL.left_after_restart_s(now)) == (left_s, left_after_restart_s)


def test_a_trial_is_read_as_it_was_written() -> None:
    trial = Trial('name = "\x7f é"\r\n', 60.0, Now(1.5, 2.5))
    assert trial_in(as_data(trial)) == trial


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"7",
        as_data(TRIAL)[:-5], as_data(TRIAL).replace(b'"text": "text"', b'"text": 7'),
        as_data(TRIAL).replace(b"60.0", b"NaN"), as_data(TRIAL).replace(b"60.0", b"9" * 400),
        as_data(TRIAL).replace(b"60.0", b"[]"),
        as_data(Trial("text", CONFIRM_S_MAX + 1.0, Now(0.0, 0.0))),
    ],
)  # fmt: skip
def test_what_is_no_trial_is_none(data: bytes) -> None:
    assert trial_in(data) is None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "fwd.toml").write_text("old")
    (tmp_path / "fwd.toml").chmod(0o640)
    return Store(tmp_path / "fwd.toml")


def test_a_trial_on_disk_is_for_its_owner_alone_and_leaves_the_file_as_it_is(store: Store, tmp_path: Path) -> None:
    assert store.load() is None
    store.keep(TRIAL)
    assert (tmp_path / "fwd.toml.pending").stat().st_mode & 0o777 == 0o600
    assert Store(tmp_path / "fwd.toml").load() == TRIAL
    assert store.path.read_text() == "old"
    store.drop()
    store.drop()
    assert store.load() is None
    assert os.listdir(tmp_path) == ["fwd.toml"]


def test_a_trial_that_others_can_write_is_none(store: Store, tmp_path: Path) -> None:
    store.keep(TRIAL)
    (tmp_path / "fwd.toml.pending").chmod(0o622)
    assert store.load() is None


def test_a_fifo_in_its_place_holds_nobody_up(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fwd.toml.pending", 0o600)
    assert store.load() is None


def test_the_file_is_replaced_with_its_mode_and_the_former_is_kept(store: Store, tmp_path: Path) -> None:
    for number, text in enumerate(("new", "newer")):
        store.replace(text)
        before = tmp_path / "fwd.toml.before"
        assert (store.path.read_text(), before.read_text()) == (text, ("old", "new")[number])
        assert {path.stat().st_mode & 0o777 for path in (store.path, before)} == {0o640}
    assert sorted(os.listdir(tmp_path)) == ["fwd.toml", "fwd.toml.before"]


def test_a_link_stays_one_and_what_it_leads_to_is_replaced(store: Store, tmp_path: Path) -> None:
    link = tmp_path / "etc"
    link.symlink_to(store.path)
    Store(link).replace("new")
    assert link.is_symlink()
    assert store.path.read_text() == "new"


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A configuration file as a volume of Kubernetes has it: what the link leads to is another by a second link."""
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "fwd.toml").write_text(name)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "fwd.toml").symlink_to("..data/fwd.toml")
    return tmp_path


def turn(directory: Path, to: str) -> None:
    (directory / "new").symlink_to(to)
    (directory / "new").rename(directory / "..data")


def test_a_link_that_is_turned_while_fwd_runs_is_followed_to_where_it_leads_then(turned: Path) -> None:
    store = Store(turned / "fwd.toml")
    turn(turned, "v2")
    store.replace("applied")
    assert (turned / "fwd.toml").is_symlink()
    assert {one: (turned / one / "fwd.toml").read_text() for one in ("v1", "v2")} == {"v1": "v1", "v2": "applied"}
    assert (turned / "v2" / "fwd.toml.before").read_text() == "v2"


def test_a_file_that_becomes_a_link_stays_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "fwd.toml").rename(tmp_path / "managed")
    (tmp_path / "fwd.toml").symlink_to("managed")
    store.replace("applied")
    assert (tmp_path / "fwd.toml").is_symlink()
    assert (tmp_path / "managed").read_text() == "applied"


def test_of_a_trial_nothing_stays_on_disk_though_the_link_is_turned_meanwhile(turned: Path) -> None:
    store = Store(turned / "fwd.toml")
    store.keep(TRIAL)
    turn(turned, "v2")
    store.drop()
    assert sorted(os.listdir(turned / "v1")) == sorted(os.listdir(turned / "v2")) == ["fwd.toml"]


@pytest.mark.parametrize("leads", ["nowhere", "fwd.toml"])
def test_a_link_that_leads_nowhere_is_an_error_and_stays(turned: Path, leads: str) -> None:
    store = Store(turned / "fwd.toml")
    (turned / "fwd.toml").unlink()
    (turned / "fwd.toml").symlink_to(leads)
    for act in (lambda: store.replace("applied"), lambda: store.keep(TRIAL)):
        with pytest.raises(OSError):  # noqa: PT011
            act()
    assert os.readlink(turned / "fwd.toml") == leads


@pytest.mark.parametrize("fails", ["open", "fsync", "rename"])
def test_what_cannot_be_written_leaves_everything_as_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    store.replace("newer")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "no more")

    monkeypatch.setattr(*{"open": (os, "open"), "fsync": (os, "fsync"), "rename": (Path, "rename")}[fails], fail)
    for act in (lambda: store.replace("newest"), lambda: store.keep(TRIAL)):
        with pytest.raises(OSError, match="no more"):
            act()
    monkeypatch.undo()
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"fwd.toml": "newer", "fwd.toml.before": "old"}


def test_a_file_system_that_syncs_no_directory_is_told_of_and_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    synced = os.fsync

    def files_alone(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synced(fd)

    monkeypatch.setattr(os, "fsync", files_alone)
    store.keep(TRIAL)
    store.replace("new")
    assert store.load() == TRIAL
    assert store.path.read_text() == "new"
    assert {record.event for record in caplog.records} == {"config.not_synced"}  # type: ignore[attr-defined]
