"""The layering of the design, read from the imports: cli → bench → lab, control, diagnose → supervise → keyd, agent →
datapath → model → files → proto, one way. And the size of files."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "fwd"
FILES = sorted(ROOT.rglob("*.py"))
LINES_MAX = 500

LAYERS = {
    "proto": 0,
    "files": 1,
    "model": 2,
    "datapath": 3,
    "keyd": 4,
    "agent": 4,
    "supervise": 5,
    "diagnose": 6,
    "lab": 6,
    "control": 6,
    "bench": 7,
    "cli": 8,
    "__main__": 9,
}
# fwd.proto is pure: what it may use of the standard library, and of others.
PURE = {
    "__future__", "bisect", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "ipaddress",
    "itertools", "math", "hashlib", "hmac", "heapq", "operator", "re", "string", "struct", "types", "typing",
    "unicodedata",
}  # fmt: skip
PURE_PACKAGES = {"cryptography", "numpy", "xxhash"}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it, as a dotted name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "fwd" else {module}
    return found


def layer(module: str) -> str:
    """Layer of a module of fwd: `fwd.proto.esp` → `proto`."""
    return module.split(".")[1]


def layer_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


LAYERED = [file for file in FILES if file != ROOT / "__init__.py"]


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", LAYERED, ids=name)
def test_imports_go_one_way(file: Path) -> None:
    mine = layer_of(file)
    assert mine in LAYERS, f"fwd/{mine} has no place in the layering"
    for module in imports(file):
        if module.startswith("fwd."):
            theirs = layer(module)
            if theirs in ("__version__", mine):
                continue
            assert LAYERS[theirs] < LAYERS[mine], f"{name(file)} imports {module}"


@pytest.mark.parametrize("file", sorted((ROOT / "proto").rglob("*.py")), ids=name)
def test_proto_is_pure(file: Path) -> None:
    for module in imports(file):
        top = module.split(".")[0]
        if top == "fwd":
            continue
        allowed = PURE if top in sys.stdlib_module_names else PURE_PACKAGES
        assert top in allowed, f"{name(file)} imports {module}: no sockets, clock, processes or files in fwd.proto"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_are_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < LINES_MAX


@pytest.mark.parametrize("file", [f for f in FILES if f.read_text(encoding="utf-8").strip()], ids=name)
def test_every_file_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


# What unpickles, or would let another process unpickle what it is sent. The supervisor's own log queue is a library's.
PICKLES = {"pickle", "marshal", "shelve", "multiprocessing.connection", "multiprocessing.managers"}
PICKLED = {"Queue", "SimpleQueue", "JoinableQueue", "Pipe", "Manager", "Pool", "recv_bytes", "send_bytes"}


@pytest.mark.parametrize("file", [f for f in FILES if layer_of(f) not in ("lab", "bench")], ids=name)
def test_nothing_is_pickled_between_a_gateways_processes(file: Path) -> None:
    """They have different rights."""
    assert not imports(file) & PICKLES
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert not {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & PICKLED
