"""`fwd gather` where there is nothing to gather, and what its options may say."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from fwd.cli import _exit_status
from fwd.tools import bundle

NOWHERE = ["--control", "/nonexistent/fwd", "--router-control", "/nonexistent/router"]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--output", "/nonexistent/bundle"], "cannot be written"),
        (["--config", "/nonexistent/fwd.toml"], "is not there"),
        (["--output"], "requires an argument"),
        (["bundle.tar.gz"], "unexpected extra argument"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_status(["gather", *options]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert why in said.err


def test_a_file_that_is_no_toml_is_not_in_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FWD_CLIENT", "/nonexistent")
    monkeypatch.setattr(bundle, "_COMMANDS", {"a/tool.txt": ("/nonexistent/tool",), "b/fails.txt": ("false",)})
    config = tmp_path / "fwd.toml"
    config.write_text("a plain text that is a secret")
    config.chmod(0o600)
    output = tmp_path / "bundle.tar.gz"
    assert _exit_status(["gather", "--output", str(output), "--config", str(config), *NOWHERE]) == 0
    with tarfile.open(output) as archive:
        texts = {one.name.partition("/")[2]: archive.extractfile(one).read() for one in archive}  # type: ignore[union-attr]
    assert sorted(texts) == ["b/fails.txt", "missing.txt", "versions.json"]
    assert b"a plain text" not in b"".join(texts.values())
    assert b"config/fwd.toml.json: not TOML" in texts["missing.txt"]
    assert b"a/tool.txt" in texts["missing.txt"]
    assert b"exit status 1" in texts["b/fails.txt"]
