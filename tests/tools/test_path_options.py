"""`fwd path`: what the options may say."""

from __future__ import annotations

import pytest

from fwd.cli import _exit_status


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--to 10.2.0.1", "--from"),
        ("--from 10.1.0.1 --to x --sport 1 --dport 2", "--to: 'x' is no IP address"),
        ("--from 10.1.0.1 --to fd00::1 --sport 1 --dport 2", "two IP versions"),
        ("--from 10.1.0.1 --to 10.2.0.1 --dport 2", "--sport is missing"),
        ("--from 10.1.0.1 --to 10.2.0.1 --sport 1", "--dport is missing"),
        ("--from 10.1.0.1 --to 10.2.0.1 --sport 0 --dport 2", "--sport: 0 is no port"),
        ("--from 10.1.0.1 --to 10.2.0.1 --sport 1 --dport 65536", "--dport: 65536 is no port"),
        ("--from 10.1.0.1 --to 10.2.0.1 --sport x --dport 1", "--sport"),
        ("--from 10.1.0.1 --to 10.2.0.1 --proto sctp --sport 1 --dport 1", "use tcp, udp or icmp"),
        ("--from 10.1.0.1 --to 10.2.0.1 --proto icmp --dport 1", "has no ports"),
    ],
)
def test_what_cannot_be_is_one_line_and_status_2(line: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_status(["path", *line.split()]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert why in said.err
