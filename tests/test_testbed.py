"""The testbed without containers: what it reads from iperf3 and from logs, and what it refuses. The rest is
`make testbed`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from fwd.lab.testbed import logs, observe, run, silence
from fwd.lab.testbed.engine import compose_command
from fwd.lab.world import LabError

# -- iperf3 -------------------------------------------------------------------------------------------------------


def intervals(*octets: int, socket: int = 5, sender: bool = False) -> list[list[dict[str, Any]]]:
    """One stream's, 0.1 s each."""
    return [
        [{"socket": socket, "start": i / 10, "end": (i + 1) / 10, "bytes": n, "sender": sender}]
        for i, n in enumerate(octets)
    ]


def report(*streams: list[list[dict[str, Any]]]) -> str:
    together = [[row for rows in at for row in rows] for at in zip(*streams, strict=True)]
    return json.dumps({"intervals": [{"streams": rows} for rows in together], "end": {}})


def test_the_longest_silence_is_that_of_one_stream_not_of_all_together() -> None:
    one = intervals(9, 9, 9, 0, 0, 0, 9, 0, 9)
    other = intervals(9, 0, 0, 9, 9, 9, 9, 9, 9, socket=6)
    found = silence.read(report(one, other))
    assert found.longest_silence_s == pytest.approx(0.3)
    assert found.count == 2


def test_a_silence_to_the_end_counts() -> None:
    assert silence.read(report(intervals(9, 9, 0, 0, 0, 0))).longest_silence_s == pytest.approx(0.4)


def test_what_senders_write_is_not_received() -> None:
    found = silence.read(report(intervals(5, 5), intervals(7, 7, socket=6, sender=True)))
    assert found.received_bytes == 10


@pytest.mark.parametrize(
    ("output", "words"),
    [("", "no result"), ('{"error": "unable to connect"}', "unable to connect"), ('{"intervals": []}', "no interval")],
)
def test_an_iperf3_that_failed_says_why(output: str, words: str) -> None:
    with pytest.raises(LabError, match=words):
        silence.read(output)


def test_udp_is_what_arrived() -> None:
    output = json.dumps({"end": {"sum": {"bits_per_second": 50e6, "lost_percent": 10.0}}})
    assert silence.read_udp(output) == (45.0, 10.0)


# -- logs ---------------------------------------------------------------------------------------------------------

GOOD = "2026-01-02 03:04:05,678 INFO vpc2/member-0: sends on SPI 0x4555c700, accepts 1 SPIs"


def test_a_line_of_the_log_is_not_odd() -> None:
    assert logs.odd_lines([GOOD, GOOD.replace("INFO", "WARNING").replace("vpc2/member-0", "MainProcess")]) == []


@pytest.mark.parametrize(
    "line",
    [
        "", "Traceback (most recent call last):", '  File "x.py", line 1', GOOD + GOOD, GOOD[:40] + GOOD,
        GOOD.replace("INFO ", ""), GOOD + "\x1b[0m", GOOD + "\ttab",
    ],
)  # fmt: skip
def test_anything_else_is_odd(line: str) -> None:
    assert logs.odd_lines([GOOD, line]) == [line]


def test_a_key_in_a_line_is_found() -> None:
    secret = "c2VjcmV0"
    shown = [f"{GOOD} {secret}", f"{GOOD} {'0A' * 16}"]
    assert logs.with_keys([GOOD, *shown, f"{GOOD} a717de0d37f6cbc6"], secret) == shown


def test_the_engines_time_with_nanoseconds() -> None:
    assert logs.moment("1970-01-01T00:01:00.250000001Z") == pytest.approx(60.25)
    assert logs.moment("1970-01-01T00:01:00Z") == 60.0


# -- the dashboard ------------------------------------------------------------------------------------------------


def test_expressions_of_rows_are_found_too() -> None:
    inner = {"targets": [{"expr": "b"}, {"expr": "c"}]}
    dashboard = {"panels": [{"targets": [{"expr": "a"}]}, {"type": "row", "panels": [inner]}, {"type": "text"}]}
    assert list(observe.expressions(dashboard)) == ["a", "b", "c"]


# -- the engine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which commands are found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_without_an_engine_it_says_how_to_get_one(commands: Path) -> None:
    with pytest.raises(LabError, match=r"no container engine; on Debian: apt-get install docker.io docker-compose"):
        compose_command()


def test_an_engine_that_does_not_answer_is_no_missing_one(commands: Path) -> None:
    put(commands, "docker", "exit 1")
    put(commands, "dockerd", "")
    with pytest.raises(LabError, match=r"no container engine answers: start dockerd, or"):
        compose_command()


def test_without_compose_it_says_how_to_get_it(commands: Path) -> None:
    put(commands, "docker", '[ "$1" != compose ]')
    with pytest.raises(LabError, match=r"Compose is missing; on Debian"):
        compose_command()


def test_compose_v2_goes_before_1_29(commands: Path) -> None:
    put(commands, "docker-compose", "")
    put(commands, "docker", '[ "$1" != compose ]')
    assert compose_command() == ["docker-compose"]
    put(commands, "docker", "exit 0")
    assert compose_command() == ["docker", "compose"]


def test_outside_a_checkout_it_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LabError, match=r"docker/compose.yml is not here"):
        run.engine(Path(os.devnull))


def test_a_scenario_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no scenario has 'tea'"):
        list(run.run(tmp_path / "x.json", run.BASE, "tea"))


def test_a_traceback_of_an_aborted_process_is_told_apart_from_the_log() -> None:
    begin = GOOD.partition("sends")[0].replace("INFO", "ERROR")
    texts = ["Fatal Python error: Aborted", "Current thread (most recent call first):", '  File "x.py", line 1 in f']
    dump = [f"{begin}{text} event=process.stderr" for text in texts]
    assert logs.without_dumps([GOOD, *dump, GOOD, *dump]) == ([GOOD, GOOD], 2)
    assert logs.without_dumps([GOOD, "Traceback"]) == ([GOOD, "Traceback"], 0)
