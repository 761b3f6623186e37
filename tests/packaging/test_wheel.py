"""The wheel and the sdist, and fwd as they install it: in an environment that knows nothing of this checkout."""

from __future__ import annotations

import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from fwd import __version__

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # pip may have to fetch the libraries
ROOT = Path(__file__).parents[2]
CORE = "fwd/proto/_core.abi3.so"
MODULES = {str(file.relative_to(ROOT)) for file in (ROOT / "fwd").rglob("*.py")}
PAGE = ROOT / "fwd/controller/page"
PAGES = {
    str(file.relative_to(ROOT))
    for what in ("templates/*", "static/*", "vendor.toml", "*.LICENSE")
    for file in PAGE.glob(what)
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel made of it: so what the sdist lacks, the wheel cannot have."""
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", str(directory), str(ROOT))
    return directory


@pytest.fixture(scope="module")
def bare(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and with what the lock has for run time, by hash."""
    directory = tmp_path_factory.mktemp("bare")
    python = str(directory / "venv/bin/python")
    lock = directory / "runtime.lock"
    lock.write_text(run(sys.executable, str(ROOT / "packaging/runtime_lock.py")))
    run(sys.executable, "-m", "venv", "--without-pip", str(directory / "venv"))
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", "--quiet"]
    run(*pip, "--no-compile", "--require-hashes", "--requirement", str(lock))  # what is imported alone is compiled
    run(*pip, "--no-deps", "--no-index", *map(str, built.glob("*.whl")))
    return directory


def run(*argv: str, cwd: Path | None = None, stdin: str | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, input=stdin, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def fwd(bare: Path, *arguments: str, stdin: str | None = None) -> str:
    """The installed command, away from the checkout."""
    return run(str(bare / "venv/bin/fwd"), *arguments, cwd=bare, stdin=stdin)


def test_the_sdist_has_what_a_build_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= MODULES | PAGES
    for name in (
        "LICENSE", "README.md", "CHANGELOG.md", "Makefile", "requirements.lock", "docs/ARCHITECTURE.md",
        "packaging/systemd/fwd.service", "packaging/debian/rules", "packaging/build-deb", "bench/targets.toml",
        "tests/gateway/gwkit.py", "scripts/setup", "setup.py", "packaging/core.py", "fwd/proto/core.c",
        "fwd/proto/core.h", "fwd/proto/gcm.c", "fwd/proto/gcm.h", "fwd/proto/stages.h", "fwd/proto/plan.h",
        "fwd/proto/octets.h", "fwd/proto/packets.c", "fwd/proto/records.c", "fwd/datapath/receive.c",
        "fwd/datapath/write.c", "fwd/proto/quick.h", "fwd/datapath/quick.c",
    ):  # fmt: skip
        assert name in names, name
    assert not [name for name in names if "__pycache__" in name or name.startswith((".git", "build", "dist"))]


def test_the_wheel_has_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"fwd-{__version__}-cp311-abi3-linux_{platform.machine()}.whl"
    names = content(wheel)
    about = f"fwd-{__version__}.dist-info"
    wanted = MODULES | PAGES | {CORE, "fwd/proto/_core.pyi"}
    assert {name for name in names if not name.startswith(f"{about}/")} == wanted
    assert f"{about}/licenses/LICENSE" in names


def content(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_without_a_compiler_it_is_built_and_runs_in_pure_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    (wheel,) = tmp_path.glob("*.whl")
    assert CORE not in content(wheel)
    assert content(wheel) >= MODULES | PAGES
    assert run(sys.executable, "-c", TELL_FORM, str(wheel), cwd=tmp_path) == "pure\n"


TELL_FORM = """
import sys
sys.path[:0] = sys.argv[1:]
sys.meta_path[:] = [one for one in sys.meta_path if "editable" not in repr(one)]
from fwd.proto import core
print(core.name())
"""


@pytest.mark.parametrize(("pure", "form"), [("", "compiled"), ("1", "pure")])
def test_with_a_compiler_the_core_is_used(bare: Path, monkeypatch: pytest.MonkeyPatch, pure: str, form: str) -> None:
    monkeypatch.setenv("FWD_PURE", pure)
    assert run(str(bare / "venv/bin/python"), "-c", TELL_FORM, cwd=bare) == f"{form}\n"


def test_it_runs_where_nothing_else_is(bare: Path) -> None:
    assert fwd(bare, "--version") == f"fwd {__version__}\n"
    example = fwd(bare, "config", "example")
    assert ": OK: " in fwd(bare, "config", "check", "/dev/stdin", stdin=example)


def test_every_module_can_be_imported(bare: Path) -> None:
    """What only the developers' tools bring is asked for where it is used, not on import."""
    names = [module.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for module in sorted(MODULES)]
    wanted = [name for name in names if not name.endswith("__main__")]
    script = "import sys, importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(sys.modules['fwd'])"
    where = run(str(bare / "venv/bin/python"), "-c", script, *wanted, cwd=bare)
    assert str(bare) in where
    assert str(ROOT) not in where


def test_the_debian_package_has_the_same_version() -> None:
    first = (ROOT / "packaging/debian/changelog").read_text().splitlines()[0]
    assert first.startswith(f"fwd ({__version__}-")
