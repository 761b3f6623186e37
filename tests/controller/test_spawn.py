"""Programs of the operator's: real ones, with their output, their time and what they leave behind."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from fwd.controller.spawn import Ran, filled, run, why_no_argv, why_not_executable, words_of
from fwd.lab.waiting import until
from fwd.model.fleet import Gateway, Router

GATEWAY = Gateway.model_validate({"name": "a1", "vpc": "a", "inner": ["10.1.0.1"], "outer": "192.0.2.1"})
ROUTER = Router.model_validate({"name": "r1", "vpc": "a", "inner": ["fd00::1"]})


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def ran(*argv: str, limit_s: float = 60.0) -> Ran:
    return asyncio.run(asyncio.wait_for(run(argv, limit_s), 60))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("echo; echo '  is  up '; echo more", Ran(True, "is up")),
        ("true", Ran(True, "")),
        ("echo no such host >&2; exit 3", Ran(False, "exit status 3: no such host")),
        ("kill -9 $$", Ran(False, "ended by signal 9")),
        (r"printf 'a\033[31mb\377\n'", Ran(True, "a?[31mb\ufffd")),
        ("head -c 100000 /dev/zero | tr '\\0' x", Ran(True, "x" * 200)),
        ("cat; pwd", Ran(True, "/")),
    ],
)  # fmt: skip
def test_how_it_ended_and_its_first_line(tmp_path: Path, text: str, wanted: Ran) -> None:
    assert ran(program(tmp_path / "p", text)) == wanted


def test_one_that_writes_without_end_does_not_wait_for_a_reader(tmp_path: Path) -> None:
    assert ran(program(tmp_path / "p", "echo first; head -c 5000000 /dev/zero; echo; exit 0")) == Ran(True, "first")


def test_one_that_takes_too_long_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    text = f"echo waits; sleep 1000 & echo $! >{tmp_path}/pid; wait"
    assert ran(program(tmp_path / "p", text), limit_s=1.0) == Ran(False, "not done after 1 s, and killed: waits")
    child = int((tmp_path / "pid").read_text())
    until(lambda: not alive(child), "its child is gone", 30)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_what_it_leaves_running_with_its_output_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    assert ran(program(tmp_path / "p", f"sleep 30 & echo $! >{tmp_path}/pid; echo done")) == Ran(True, "done")
    assert time.monotonic() - began < 29
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_nothing_waits_for_it(tmp_path: Path) -> None:
    async def work() -> int:
        task, turns = asyncio.create_task(run([program(tmp_path / "p", "sleep 1")], 60.0)), 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        return turns

    assert asyncio.run(work()) > 5


def test_it_has_no_descriptor_and_no_environment_of_the_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FWD_CONTROLLER_TOKEN", "fwdb.secret")
    held = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(held, True)
    text = f'[ -e /proc/self/fd/{held} ] && echo held; [ -n "$FWD_CONTROLLER_TOKEN" ] && echo token; echo end'
    try:
        assert ran(program(tmp_path / "p", text)) == Ran(True, "end")
    finally:
        os.close(held)


def test_a_program_that_is_not_there_is_told() -> None:
    assert ran("/nowhere/restart") == Ran(False, "/nowhere/restart: cannot be run: No such file or directory")
    assert why_not_executable(["/nowhere/restart"])
    assert not why_not_executable(["/bin/sh"])
    assert not why_not_executable([])


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["restart", "{name}"], "whole path"),
        (["/bin/{name}"], "whole path"),
        (["/bin/x", "{host}"], "use one of {name}"),
        (["/bin/x", "a\0b"], "octet of zero"),
        (["/bin/x", "--host={name}", "{inner}", "a b"], ""),
        ([], ""),
    ],
)
def test_argvs(argv: list[str], why: str) -> None:
    assert why in why_no_argv(argv)
    assert bool(why) == bool(why_no_argv(argv))


def test_words_of_hosts_are_put_in_once() -> None:
    argv = ["/x", "{name}", "{kind}.{vpc}", "{inner}", "{outer}"]
    assert filled(argv, words_of(GATEWAY)) == ["/x", "a1", "gateway.a", "10.1.0.1", "192.0.2.1"]
    assert filled(argv, words_of(ROUTER)) == ["/x", "r1", "router.a", "fd00::1", ""]
    assert filled(["/x", "{name}"], {"name": "{vpc}", "vpc": "no"}) == ["/x", "{vpc}"]
