"""What packages make of the command line: manual pages and completions, which know every command, option and key."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fwd.model.config import Peering
from fwd.model.gateway import Gateway
from fwd.model.keys import CertificateKeys, PskKeys

ROOT = Path(__file__).parents[2]
MACROS = {".TH", ".SH", ".SS", ".TP", ".B", ".BR", ".I", ".nf", ".fi", ".ad"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("made")
    for script in ("manpages.py", "completions.py"):
        subprocess.run([sys.executable, str(ROOT / "packaging" / script), str(directory)], check=True, timeout=60)
    return directory


def shown(page: Path) -> str:
    """A page's text without roff's escapes."""
    return re.sub(r"\\f[BIR]|\\&", "", page.read_text()).replace("\\-", "-")


@pytest.mark.parametrize("page", ["fwd.8", "fwd.toml.5"])
def test_pages_are_roff(made: Path, page: str) -> None:
    lines = (made / page).read_text().splitlines()
    assert {line.split()[0] for line in lines if line.startswith(".")} <= MACROS
    assert not [line for line in lines if line.startswith("'")]
    assert lines[0].startswith(f'.TH "{page.rpartition(".")[0].upper()}"'.replace("-", "\\-"))


@pytest.mark.parametrize(
    "words",
    ["fwd demux", "--config FILE", "--log-format", "fwd status", "--watch", "fwd config check", "fwd keygen psk",
     "fwd lab up", "fwd bench", "SIGHUP", "/etc/fwd/fwd.toml"],
)  # fmt: skip
def test_commands_and_options_are_in_the_manual(made: Path, words: str) -> None:
    assert words in shown(made / "fwd.8")


@pytest.mark.parametrize("model", [Gateway, Peering, PskKeys, CertificateKeys])
def test_every_key_is_in_the_manual(made: Path, model: type[Gateway]) -> None:
    page = shown(made / "fwd.toml.5").splitlines()
    for key in set(model.model_fields) - {"keys", "source"}:
        assert key in page, key


def test_bounds_and_defaults_are_in_the_manual(made: Path) -> None:
    page = shown(made / "fwd.toml.5")
    assert "worker processes, one ESP tunnel each; 1 to 64; default: 4" in page
    assert "this gateway's outer address; required" in page


ENVIRON = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [("fwd dem", {"demux"}), ("fwd config ", {"check", "example"}), ("fwd demux --log", {"--log-format"})],
)
def test_bash_completes(made: Path, line: str, expected: set[str]) -> None:
    words = line.split(" ")
    script = (
        f". {made}/fwd; COMP_WORDS=({' '.join(w or chr(39) * 2 for w in words)}); COMP_CWORD={len(words) - 1}; "
        '_fwd_completion fwd; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env=ENVIRON, capture_output=True, text=True, check=True, timeout=60
    )
    assert set(done.stdout.split()) == expected


@pytest.mark.parametrize(("shell", "name"), [("zsh", "_fwd"), ("fish", "fwd.fish")])
def test_zsh_and_fish_are_answered(made: Path, shell: str, name: str) -> None:
    """As their scripts ask: those shells need not be here."""
    script = (made / name).read_text()
    assert f"_FWD_COMPLETE=complete_{shell}" in script
    asked = {"_FWD_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": "fwd dem"}
    asked["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    done = subprocess.run(["fwd"], env=ENVIRON | asked, capture_output=True, text=True, check=False, timeout=60)
    assert "demux" in done.stdout
    assert "status" not in done.stdout
