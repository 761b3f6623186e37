"""The objects' command line against a controller of its own."""

from __future__ import annotations

import gc
import itertools
import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from runkit import Running, running

from fwd.cli import _exit_status
from fwd.controller import keys
from fwd.controller.changes import KINDS as FLEET_KINDS
from fwd.objects import client, commands
from fwd.objects.client import Client
from fwd.objects.kinds import KINDS
from fwd.proto.errors import UserError

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("controller")) as one:
        yield one


class Shell:
    """Commands, and what they say."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, line: str) -> str:
        """Run a command that goes well: what it says."""
        status, said = self._run(line), self._capsys.readouterr()
        assert (status, said.err) == (0, ""), said.err
        return said.out

    def json(self, line: str) -> Any:
        return json.loads(self(f"{line} --json"))

    def refused(self, line: str) -> str:
        """Run a command that cannot be: its one line."""
        assert self._run(line) == 2
        said = self._capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        return said.err

    def _run(self, line: str) -> int:
        status = _exit_status(shlex.split(line))
        gc.collect()  # its connection ends with it, as that of a process does
        return status


@pytest.fixture
def fwd(site: Running, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("FWD_CLIENT", str(site.state / keys.CLIENT))
    return Shell(capsys)


def make_side(fwd: Shell, name: str, net: int) -> None:
    """A VPC, two gateways in it, and a cluster of the first."""
    fwd(f"vpc create {name} cidrs=10.{net}.0.0/16")
    for n in (1, 2):
        fwd(f"gateway create {name}{n} vpc={name} inner=10.{net}.0.1{n} outer=192.0.2.{2 * net + n} members=2")
    fwd(f"cluster create {name} vpc={name} gateways={name}1")


def test_the_references_workflow_in_its_order(fwd: Shell) -> None:
    make_side(fwd, "a", 1)
    make_side(fwd, "b", 2)
    assert "a1 and b1 are joined" in fwd("peering create a-b clusters=a,b")
    assert "a2 and b1 are joined" in fwd("cluster set a gateways+=a2")
    assert [(one["a"], one["b"]) for one in fwd.json("pair list")] == [("a1", "b1"), ("a2", "b1")]

    assert "are joined no more" in fwd("cluster set a gateways-=a1")
    fwd("peering delete a-b")
    for line in ("cluster delete a", "cluster delete b", "gateway delete a1", "gateway delete a2", "gateway delete b1",
                 "gateway delete b2", "vpc delete a", "vpc delete b"):  # fmt: skip
        assert fwd(line).splitlines()[-1].startswith("operation op-")
    assert fwd.json("vpc list") == []


def test_lists_and_objects_are_shown_as_tables_and_as_json(fwd: Shell) -> None:
    make_side(fwd, "c", 3)
    heading, *rows = fwd("gateway list").splitlines()
    assert heading.split()[:4] == ["NAME", "VPC", "INNER", "OUTER"]
    assert [row.split()[:3] for row in rows if row.startswith("c")] == [
        ["c1", "c", "10.3.0.11"],
        ["c2", "c", "10.3.0.12"],
    ]
    assert "inner: 10.3.0.11" in fwd("gateway show c1").splitlines()
    shown = fwd.json("gateway show c1")
    assert [one["revision"] for one in fwd.json("gateway list") if one["name"] == "c1"] == [shown["revision"]]
    last = fwd.json("operation list")[0]
    assert (last["act"], last["kind"], last["name"]) == ("create", "cluster", "c")
    assert f"id: {last['id']}" in fwd(f"operation show {last['id']}")
    assert fwd.json("event list") is not None
    times = [line for line in fwd("token show admin").splitlines() if line.startswith("made_at: ")]
    assert re.fullmatch(r"made_at: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", times[0]), times


def test_a_dry_run_and_another_revision_change_nothing(fwd: Shell) -> None:
    make_side(fwd, "d", 4)
    assert fwd("gateway delete d1 --dry-run").splitlines()[-1] == "dry run: nothing has changed"
    seen = fwd.json("gateway show d1")["revision"]
    fwd(f"gateway set d1 weight=2.5 members=3 --revision {seen}")
    assert "it has changed since" in fwd.refused(f"gateway set d1 weight=1 --revision {seen}")
    assert "it has changed since" in fwd.refused(f"gateway delete d1 --revision {seen}")
    shown = fwd.json("gateway show d1")
    assert (shown["weight"], shown["members"]) == (2.5, 3)


def test_a_gateway_is_drained_and_undrained(fwd: Shell) -> None:
    make_side(fwd, "e", 5)
    fwd("gateway drain e1")
    assert fwd.json("gateway show e1")["state"] == "draining"
    fwd("gateway undrain e1")
    assert fwd.json("gateway show e1")["state"] == "active"
    assert "there is no restart_command in controller.toml" in fwd.refused("gateway restart e1")


def test_tokens_are_made_once_and_go_to_a_file_that_is_nobody_elses(
    fwd: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Running
) -> None:
    fwd("vpc create f cidrs=10.6.0.0/16")
    assert fwd("token create vpc=f name=host").startswith("fwd1.")
    assert "role: join" in fwd("token show host").splitlines()

    path = tmp_path / "viewer"
    assert "token robot, viewer" in fwd(f"token create role=viewer name=robot --output {path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setenv("FWD_CONTROLLER_TOKEN_FILE", str(path))
    assert "robot" in fwd("token list")
    assert "an admin's is needed" in fwd.refused("token delete robot")
    monkeypatch.delenv("FWD_CONTROLLER_TOKEN_FILE")
    fwd("token delete robot")
    monkeypatch.setenv("FWD_CONTROLLER_TOKEN", path.read_text().strip())
    assert "not known here" in fwd.refused("vpc list")


def test_recovery_is_an_operation(fwd: Shell) -> None:
    assert fwd("controller recover").startswith("operation op-")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("vpc create x cidr=10.9.0.0/16", "cidr: unknown key: use one of cidrs"),
        ("vpc create x 10.9.0.0/16", "expected KEY=VALUE"),
        ("vpc create x cidrs=10.9.0.1/16", "did you mean 10.9.0.0/16"),
        ("vpc create x cidrs=0.0.0.0/0", "0.0.0.0/0 is no VPC's own (all addresses there are)"),
        ("vpc create x cidrs=10.9.0.0/16 cidrs=10.8.0.0/16", "stands here twice"),
        ("vpc create x cidrs+=10.9.0.0/16", "there is nothing yet"),
        ("vpc create", "Missing argument"),
        ("vpc set x probe_number=1 --revision x", "'--revision': expected a whole number: see `fwd vpc set --help`"),
        ("vpc set x", "nothing to set"),
        ("vpc show none", "there is no vpc none"),
        ("vpc show ..", "not a name"),
        ("vpc show a/../b", "not a name"),
        ("vpc drain x", "No such command"),
        ("gateway upgrade x", "there is no upgrade_command"),
        ("gateway upgrade", "Missing argument"),
        ("gateway restart x", "there is no gateway x"),
        ("router restart x --dry-run", "there is no router x"),
        ("vpc restart x", "No such command"),
        ("gateway set x weight=much", "expected a number"),
        ("gateway set x weight=nan", "weight: expected a number that is finite"),
        ("gateway set x weight=1e400", "weight: expected a number that is finite"),
        ("vpc show \udcff", "not a name"),
        ("vpc create \udcff cidrs=10.9.0.0/16", "name"),
        ("token create role=admin --output /nonexistent/token", "cannot be written"),
        ("gateway create x weight+=1", "is no list"),
        ("gateway list --color", "No such option"),
        ("token create role=king", "role: use one of 'join', 'viewer', 'admin'"),
        ("token create", "give a vpc for a host that joins with it"),
        ("vpc show ''", "not a name"),
        ("gateway delete ''", "not a name"),
        ("token create vpc=none", "there is no VPC none"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(fwd: Shell, line: str, why: str) -> None:
    assert why in fwd.refused(line)


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"FWD_CLIENT": "/nonexistent"}, "cannot be read"),
        ({"FWD_CONTROLLER": "http://127.0.0.1:1"}, "expected a URL such as https"),
        ({"FWD_CONTROLLER": "https://127.0.0.1:1/v1"}, "has no path"),
        ({"FWD_CONTROLLER": "https://127.0.0.1:1"}, "no controller answers"),
        ({"FWD_CONTROLLER": "https://x:y"}, "no URL"),
        ({"FWD_CONTROLLER_TOKEN": "fwdb.ä"}, "no bearer token"),
        ({"FWD_CONTROLLER_CA": "/nonexistent"}, "no CA's certificates"),
        (
            {"FWD_CONTROLLER_CA": "/etc/ssl/certs/ca-certificates.crt"},
            "not the controller for which /etc/ssl/certs/ca-certificates.crt vouches",
        ),
        ({"FWD_CONTROLLER_TOKEN_FILE": "/nonexistent"}, "cannot be opened"),
    ],
)
def test_a_controller_that_cannot_be_asked_is_one_line(
    fwd: Shell, environ: dict[str, str], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert why in fwd.refused("vpc list")


def answers(monkeypatch: pytest.MonkeyPatch, body: bytes | Iterator[bytes], status: int = 200) -> None:
    """Have every request answered so, by whatever it is that listens there."""

    @contextmanager
    def stream(*_: Any, **__: Any) -> Iterator[httpx.Response]:
        yield httpx.Response(status, content=body)

    monkeypatch.setattr(httpx.Client, "stream", stream)


@pytest.mark.parametrize(
    ("line", "body"),
    [
        *((line, b"{}") for line in ("vpc list", "vpc create a", "controller recover", "token create role=viewer")),
        ("gateway upgrade a", b'{"operation": "op-1", "plan": [], "dry_run": false}'),
        ("vpc show a", b"[" * 100_000),
        ("vpc show a", b"1" * 5000),
        ("vpc show a", b"\xff"),
        ("show", b'{"items": 5}'),
    ],
)
def test_what_is_no_controllers_answer_is_one_line(
    fwd: Shell, monkeypatch: pytest.MonkeyPatch, line: str, body: bytes
) -> None:
    answers(monkeypatch, body)
    assert _exit_status(line.split()) == 2


@pytest.mark.parametrize(("piece", "why"), [(b" ", "not all of it within"), (b" " * (1 << 20), "octets")])
def test_an_answer_that_does_not_end_is_not_waited_for(
    fwd: Shell, monkeypatch: pytest.MonkeyPatch, piece: bytes, why: str
) -> None:
    clock = itertools.count()
    monkeypatch.setattr(client, "time", SimpleNamespace(monotonic=lambda: next(clock) * (20 if len(piece) == 1 else 0)))
    answers(monkeypatch, itertools.repeat(piece))
    assert why in fwd.refused("vpc list")


@pytest.mark.parametrize(
    ("status", "answer"), [(200, {"items": [{"name": "a\x1b[2J"}]}), (409, {"detail": "a\x1b[2J"})]
)
def test_no_terminal_obeys_what_a_controller_says(
    fwd: Shell, monkeypatch: pytest.MonkeyPatch, status: int, answer: dict[str, Any]
) -> None:
    answers(monkeypatch, json.dumps(answer).encode(), status)
    said = fwd("gateway list") if status == 200 else fwd.refused("gateway list")
    assert "a\\u001b[2J" in said


def test_a_file_that_cannot_be_makes_no_token(fwd: Shell, tmp_path: Path) -> None:
    there = len(fwd.json("token list"))
    for path in (tmp_path, tmp_path / "no" / "file"):
        fwd.refused(f"token create role=admin --output {path}")
    fwd.refused(f"token create role=king --output {tmp_path / 'king'}")
    assert len(fwd.json("token list")) == there
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_another_users_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", denied)
    with pytest.raises(UserError, match="where is the controller"):
        Client({})


def test_the_table_has_the_models_fields() -> None:
    for kind, (plural, model) in FLEET_KINDS.items():
        fields = set(model.model_fields) - {"name", "number", "rekey_number"}
        row = KINDS[kind]
        assert (set(row.fields), row.plural) == (fields, plural)
        properties = model.model_json_schema()["properties"]
        assert set(row.lists) == {key for key in fields if properties[key].get("type") == "array"}
        assert set(row.numbers) == {key for key in fields if properties[key].get("type") in ("integer", "number")}


def test_the_command_line_loads_neither_the_controller_nor_its_client() -> None:
    script = "import sys, fwd.cli; print({'fastapi', 'uvicorn', 'httpx', 'pydantic'} & set(sys.modules))"
    # In a session of its own it is executed, and not forked by the nursery, which has loaded both (forking.py).
    how: dict[str, Any] = {"capture_output": True, "text": True, "start_new_session": True}
    done = subprocess.run([sys.executable, "-c", script], check=True, **how)
    assert done.stdout == "set()\n"


def test_an_upgrade_is_followed_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step is told once; the exit status says whether all went well."""
    told = [
        {"steps": ["a1: drains", "a2: waits"], "result": "in progress"},
        {"steps": ["a1: drains", "a2: waits"], "result": "in progress"},
        {"steps": ["a1: failed: no room", "a2: waits"], "result": "failed: a1: no room"},
    ]
    asked: list[tuple[str, str]] = []

    def ask(method: str, path: str, body: object = None, **how: object) -> dict[str, object]:
        asked.append((method, path))
        if method == "POST":
            return {"plan": ["gateway a1: 0.1.0"], "operation": "op-1", "dry_run": False, "object": None}
        return dict(told.pop(0))

    monkeypatch.setattr(commands, "ask", ask)
    monkeypatch.setattr(commands, "_LOOK_S", 0.0)
    assert _exit_status(["gateway", "upgrade", "a1", "a2"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "gateway a1: 0.1.0", "operation op-1", "a1: drains", "a2: waits", "a1: failed: no room",
        "operation op-1: failed: a1: no room",
    ]  # fmt: skip
    assert asked == [("POST", "/v1/upgrade")] + 3 * [("GET", "/v1/operations/op-1")]


@pytest.mark.parametrize(("result", "status"), [("done: it is back after 9 s", 0), ("failed: exit status 1", 1)])
def test_a_restart_is_followed_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], result: str, status: int
) -> None:
    told = [{"steps": ["its command runs"], "result": "in progress"}, {"steps": ["it is done"], "result": result}]
    asked: list[tuple[str, str, object]] = []

    def ask(method: str, path: str, body: object = None, **how: object) -> dict[str, object]:
        asked.append((method, path, how.get("if_match")))
        if method == "POST":
            return {"plan": [], "operation": "op-1", "dry_run": False, "object": None}
        return dict(told.pop(0))

    monkeypatch.setattr(commands, "ask", ask)
    monkeypatch.setattr(commands, "_LOOK_S", 0.0)
    assert _exit_status(["router", "restart", "r1", "--revision", "7"]) == status
    assert capsys.readouterr().out.splitlines() == [
        "operation op-1", "its command runs", "it is done", f"operation op-1: {result}"
    ]  # fmt: skip
    assert asked[0] == ("POST", "/v1/routers/r1/restart", '"7"')
