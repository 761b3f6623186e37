"""The tools that look at a fleet, against a controller of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from runkit import Running, running

from fwd.cli import _exit_status
from fwd.controller import keys

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("controller")) as one:
        fleet = [
            ("vpcs", {"name": "v1", "cidrs": ["10.1.0.0/16"]}), ("vpcs", {"name": "v2", "cidrs": ["10.2.0.0/16"]}),
            ("gateways", {"name": "a1", "vpc": "v1", "inner": ["10.1.0.11"], "outer": "192.0.2.1"}),
            ("gateways", {"name": "b1", "vpc": "v2", "inner": ["10.2.0.11"], "outer": "192.0.2.2"}),
            ("clusters", {"name": "c1", "vpc": "v1", "gateways": ["a1"]}),
            ("clusters", {"name": "c2", "vpc": "v2", "gateways": ["b1"]}),
            ("peerings", {"name": "one-two", "clusters": ["c1", "c2"]}),
        ]  # fmt: skip
        with one.client() as client:
            for plural, body in fleet:
                assert client.post(f"/v1/{plural}", json=body).status_code == 200
        yield one


@pytest.fixture
def viewer(site: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask as who may look, and nothing else."""
    with site.client() as client:
        token = client.post("/v1/tokens", json={"role": "viewer"}).json()["token"]
    path = tmp_path / "token"
    path.write_text(token)
    path.chmod(0o600)
    monkeypatch.setenv("FWD_CLIENT", str(site.state / keys.CLIENT))
    monkeypatch.setenv("FWD_CONTROLLER_TOKEN_FILE", str(path))


@pytest.mark.usefixtures("viewer")
def test_a_viewer_sees_the_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(["show"]) == 0
    assert "peering one-two  c1 - c2, internet, superpacket: unknown, 0 of 1 pairs" in capsys.readouterr().out
    assert _exit_status(["show", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in told["gateways"]] == ["a1", "b1"]
    assert told["pairs"][0]["peering"] == "one-two"


@pytest.mark.usefixtures("viewer")
@pytest.mark.parametrize(("format", "start"), [("mermaid", "flowchart LR\n"), ("dot", "digraph fwd {\n")])
def test_a_viewer_draws_the_fleet(format: str, start: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(["graph", "--format", format]) == 0
    text = capsys.readouterr().out
    assert text.startswith(start)
    assert "host_a1" in text


@pytest.mark.parametrize("line", ["graph --format svg", "show --colour", "graph dot"])
def test_what_cannot_be_is_one_line_and_status_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(line.split()) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("tool", ["show", "graph"])
def test_without_a_controller_a_tool_says_how_to_name_one(
    tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FWD_CLIENT", "/nonexistent")
    assert _exit_status([tool]) == 2
    assert capsys.readouterr().err.count("\n") == 1
