"""`fwd apply` and `fwd confirm` of a gateway that runs: what cuts one off comes back by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from gwkit import MakePair, Pair, until

from fwd.control import apply
from fwd.proto.errors import UserError


@pytest.fixture(scope="module")
def pair(module_pairs: MakePair) -> Pair:
    return module_pairs(keys={"source": "psk"})


def given(pair: Pair, tmp_path: Path, **words: str) -> Path:
    """The first gateway's configuration, with other words, in a file of its own."""
    text = pair.config("gw1").read_text()
    for old, new in words.items():
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "new.toml"
    path.write_text(text)
    return path


def applied(pair: Pair, file: Path, *, dry_run: bool = False, confirm_s: int = 0) -> list[str]:
    return list(apply.apply(pair.control("gw1"), file, dry_run=dry_run, confirm_s=confirm_s))


def cutting(pair: Pair, tmp_path: Path) -> Path:
    """A configuration under which nothing passes any more: the far side's subnet is another."""
    return given(pair, tmp_path, **{"10.2.0.0/24": "10.99.0.0/24"})


def files(pair: Pair) -> set[str]:
    path = pair.config("gw1")
    return {name for name in os.listdir(path.parent) if name.startswith(path.name)}


def test_a_dry_run_and_a_bad_file_change_nothing(pair: Pair, tmp_path: Path) -> None:
    before, text = pair.pids("gw1"), pair.config("gw1").read_text()
    lines = applied(pair, cutting(pair, tmp_path), dry_run=True, confirm_s=5)
    assert any("10.99.0.0/24" in line for line in lines)
    (tmp_path / "bad.toml").write_text("[gateway")
    with pytest.raises(UserError, match="not TOML"):
        applied(pair, tmp_path / "bad.toml")
    assert (pair.pids("gw1"), pair.config("gw1").read_text(), files(pair)) == (before, text, {"gw1.toml"})
    assert pair.ping()


@pytest.mark.parametrize("dry_run", [True, False])
def test_another_gateways_file_is_refused_before_anything_goes_for_it(
    pair: Pair, tmp_path: Path, dry_run: bool
) -> None:
    """It says that the far hosts are where this one is."""
    before, text = pair.pids("gw1"), pair.config("gw1").read_text()
    others = {"10.1.0.0/24": "swapped", "10.2.0.0/24": "10.1.0.0/24", "swapped": "10.2.0.0/24"}
    with pytest.raises(UserError, match=r"this host itself is there.*is this the other gateway's file"):
        applied(pair, given(pair, tmp_path, **others), dry_run=dry_run)
    assert (pair.pids("gw1"), pair.config("gw1").read_text(), files(pair)) == (before, text, {"gw1.toml"})
    assert pair.ping()


def test_what_cuts_one_off_comes_back_by_itself(pair: Pair, tmp_path: Path) -> None:
    text = pair.config("gw1").read_text()
    lines = applied(pair, cutting(pair, tmp_path), confirm_s=20)
    assert "unless `fwd confirm` comes" in lines[-1]
    with pytest.raises(UserError, match="on trial"):
        applied(pair, cutting(pair, tmp_path))
    until(lambda: "configuration on trial is gone" in pair.log("gw1"), 60.0, "it goes back")
    until(pair.ping, 30.0, "traffic passes again")
    assert (pair.config("gw1").read_text(), files(pair)) == (text, {"gw1.toml"})


def test_what_cuts_one_off_comes_back_by_itself_if_the_supervisor_is_killed_meanwhile(
    pair: Pair, tmp_path: Path
) -> None:
    text = pair.config("gw1").read_text()
    applied(pair, cutting(pair, tmp_path), confirm_s=20)
    pair.stop("gw1", signal.SIGKILL)
    pair.launch("gw1")
    until(lambda: "configuration on trial is gone" in pair.log("gw1"), 60.0, "it goes back")
    until(pair.ping, 30.0, "traffic passes again")
    assert (pair.config("gw1").read_text(), files(pair)) == (text, {"gw1.toml"})


def test_what_is_confirmed_stays_and_is_in_the_file(pair: Pair, tmp_path: Path) -> None:
    path = given(pair, tmp_path, **{"[gateway]\n": '[gateway]\nlog_level = "debug"\n'})
    applied(pair, path, confirm_s=600)
    assert files(pair) == {"gw1.toml", "gw1.toml.pending"}
    until(lambda: pair.status("gw1")["gateway"]["trial_until"], what="the status says until when")
    assert "confirmed" in apply.confirm(pair.control("gw1"))
    assert pair.config("gw1").read_text() == path.read_text()
    assert files(pair) == {"gw1.toml", "gw1.toml.before"}
    with pytest.raises(UserError, match="nothing to confirm"):
        apply.confirm(pair.control("gw1"))
    until(lambda: pair.status("gw1")["gateway"]["trial_until"] is None, what="nothing is on trial")
    until(pair.ping, what="traffic passes")
