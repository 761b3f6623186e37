"""The layering (docs/ARCHITECTURE.md), read from the imports, which go one way; and what keeps a page readable: small
files and functions, paragraphs, and no word of a document that a reader does not have.
"""

from __future__ import annotations

import ast
import re
import sys
from functools import cache
from itertools import chain, groupby
from pathlib import Path

from codekit import nodes, tree

ROOT = Path(__file__).parents[1] / "fwd"
FILES = sorted(ROOT.rglob("*.py"))
REPOSITORY = ROOT.parent
ARCHITECTURE = REPOSITORY / "docs" / "ARCHITECTURE.md"
LINES_MAX = 450
FUNCTION_MAX = 50
PARAGRAPHS_FROM = 20  # lines of a body that is read in steps
WALLS_MAX = 0.2  # share of such bodies that may have none

LAYERS = {
    "proto": 0,
    "files": 1,
    "model": 2,
    "datapath": 3,
    "keyd": 4,
    "agent": 4,
    "link": 4,
    "supervise": 5,
    "diagnose": 6,
    "lab": 6,
    "control": 6,
    "router": 6,
    "controller": 6,
    "objects": 6,
    "bench": 7,
    "tools": 7,
    "cli": 8,
    "__main__": 9,
}
# fwd.proto is pure: what it may use of the standard library, and of others.
PURE = {
    "__future__", "bisect", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools", "ipaddress",
    "itertools", "math", "hashlib", "hmac", "heapq", "operator", "re", "string", "struct", "types", "typing",
    "unicodedata", "weakref",
}  # fmt: skip
PURE_PACKAGES = {"cryptography", "numpy", "xxhash"}


@cache
def imports(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it, as a dotted name."""
    found: set[str] = set()
    for node in nodes(file):
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


def test_imports_go_one_way() -> None:
    for file in LAYERED:
        mine = layer_of(file)
        assert mine in LAYERS, f"fwd/{mine} has no place in the layering"
        for module in imports(file):
            if module.startswith("fwd."):
                theirs = layer(module)
                if theirs in ("__version__", "PURE", "CIPHER", mine):
                    continue
                assert LAYERS[theirs] < LAYERS[mine], f"{name(file)} imports {module}"


def test_proto_is_pure() -> None:
    for file in sorted((ROOT / "proto").rglob("*.py")):
        for module in imports(file):
            top = module.split(".")[0]
            if top == "fwd":
                continue
            allowed = PURE if top in sys.stdlib_module_names else PURE_PACKAGES
            assert top in allowed, f"{name(file)} imports {module}: no sockets, clock, processes or files in fwd.proto"


def test_files_are_small() -> None:
    lines = {name(file): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {file: count for file, count in lines.items() if count > LINES_MAX}


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions(file: Path) -> list[Function]:
    return [node for node in nodes(file) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_functions_are_small() -> None:
    sizes = {
        f"{name(file)}: {one.name}": (one.end_lineno or one.lineno) - one.lineno + 1
        for file in FILES
        for one in functions(file)
    }
    assert not {one for one, lines in sizes.items() if lines > FUNCTION_MAX}


def body(file: Path, function: Function) -> list[str]:
    """Lines of a function's body, without its docstring."""
    first = function.body[bool(ast.get_docstring(function))] if len(function.body) > 1 else function.body[0]
    return file.read_text(encoding="utf-8").splitlines()[first.lineno - 1 : function.end_lineno]


def has_paragraphs(lines: list[str]) -> bool:
    return any(not line.strip() or line.lstrip().startswith("#") for line in lines)


def test_longer_functions_have_paragraphs() -> None:
    """A blank line, and mostly a line of why, before each step."""
    bodies = chain.from_iterable(
        ((f"{name(file)}: {one.name}", body(file, one)) for one in functions(file)) for file in FILES
    )
    longer = [(where, lines) for where, lines in bodies if len(lines) >= PARAGRAPHS_FROM]
    walls = [where for where, lines in longer if not has_paragraphs(lines)]
    assert len(walls) < WALLS_MAX * len(longer), walls


def test_every_file_says_what_it_is() -> None:
    assert not [name(file) for file in FILES if tree(file).body and not ast.get_docstring(tree(file))]


# What unpickles, or would let another process unpickle what it is sent. The supervisor's own log queue is a library's.
PICKLES = {"pickle", "marshal", "shelve", "multiprocessing.connection", "multiprocessing.managers"}
PICKLED = {"Queue", "SimpleQueue", "JoinableQueue", "Pipe", "Manager", "Pool", "recv_bytes", "send_bytes"}


def test_nothing_is_pickled_between_a_gateways_processes() -> None:
    """They have different rights."""
    for file in FILES:
        if layer_of(file) not in ("lab", "bench"):
            attributes = {node.attr for node in nodes(file) if isinstance(node, ast.Attribute)}
            assert not imports(file) & PICKLES, name(file)
            assert not attributes & PICKLED, name(file)


# -- what docs/ARCHITECTURE.md says ---------------------------------------------------------------------------------


def told() -> list[str]:
    """All lines of text and code that a reader has."""
    files = [
        *FILES,
        *(REPOSITORY / "tests").rglob("*.py"),
        *(REPOSITORY / "docs").glob("*.md"),
        *REPOSITORY.glob("*.md"),
    ]
    return [f"{file.name}: {line}" for file in files for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_layers_are_drawn_as_they_are() -> None:
    layers = sorted(((level, one) for one, level in LAYERS.items() if one != "__main__"), key=lambda pair: -pair[0])
    drawn = [", ".join(one for _, one in alike) for _, alike in groupby(layers, key=lambda pair: pair[0])]
    assert " → ".join(drawn) in ARCHITECTURE.read_text(encoding="utf-8")


def test_every_package_is_told_of() -> None:
    packages = {file.parent.name for file in ROOT.glob("*/*.py")}
    text = ARCHITECTURE.read_text(encoding="utf-8")
    assert not [one for one in sorted(packages) if f"`fwd/{one}`" not in text]


def test_rules_and_headings_that_are_named_are_there() -> None:
    """None of a document that is not in the repository."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    rules = re.findall(r"(?m)^\| \*\*(\d+)\. ", text)
    headings = re.findall(r"(?m)^#+ (.*)", text)
    assert rules == [str(number) for number in range(1, 11)]
    for line in told():
        assert not re.search(r"(?i)\bdesign (§|rule)", line), line
        assert set(re.findall(r"(?i)\brules? (\d+)", line)) <= set(rules), line
        assert set(re.findall(r'ARCHITECTURE, "(\w[^"]*)"', line)) <= set(headings), line
