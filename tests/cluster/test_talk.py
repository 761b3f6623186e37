"""The numbered flows by which others see what is lost: what only waits for their own processes is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fwd.lab import tools

TALK = [sys.executable, "-m", "fwd.lab.fleet.talk"]
FLOWS, HZ, AWAY_S = 40, 25, 1.0


@pytest.fixture
def answering() -> Iterator[subprocess.Popen[str]]:
    """One that answers, alone in a network of its own."""
    command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *TALK, "answer"]
    with tools.ended(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


@pytest.mark.timeout(60)
def test_messages_that_come_while_their_answerer_has_no_time_are_answered_later(
    answering: subprocess.Popen[str],
) -> None:
    ask = ["nsenter", f"--net=/proc/{answering.pid}/ns/net", *TALK, "ask", "127.0.0.1", str(FLOWS), str(HZ)]
    with tools.ended(subprocess.Popen(ask, stdout=subprocess.PIPE, text=True)) as asking:
        assert asking.stdout is not None
        assert asking.stdout.readline() == "ready\n"
        time.sleep(AWAY_S / 2)
        answering.send_signal(signal.SIGSTOP)
        time.sleep(AWAY_S)
        answering.send_signal(signal.SIGCONT)
        time.sleep(AWAY_S)
        asking.terminate()
        told = json.loads(asking.stdout.read())
    assert sum(told["sent"]) > FLOWS * HZ
    assert (told["lost"], told["reordered"]) == (0, 0)
    assert max(told["silence_s"]) > AWAY_S / 2
