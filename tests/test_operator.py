"""An operator's mistakes at the command line: one line that names the remedy, exit status 2, and no traceback.

What a container lacks is in tests/supervise/test_host.py, every key of the configuration in tests/test_mistakes.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fwd.cli import _exit_status
from fwd.model.example import EXAMPLE

SECRET = b"kept between the two of us"


def written(directory: Path, text: str = EXAMPLE, secret: bytes = SECRET) -> Path:
    """A configuration and the secret that it names."""
    key = directory / "vpc2.psk"
    key.write_bytes(secret)
    key.chmod(0o600)
    path = directory / "fwd.toml"
    path.write_text(text.replace("/etc/fwd/vpc2.psk", str(key)))
    return path


def with_link(directory: Path) -> Path:
    path = written(directory)
    (directory / "vpc2.psk").rename(directory / "real.psk")
    (directory / "vpc2.psk").symlink_to("real.psk")
    return path


def with_probe_key(text: bytes) -> Callable[[Path], Path]:
    def made(directory: Path) -> Path:
        key = directory / "probe.key"
        key.touch(0o600)
        key.write_bytes(text)
        path = written(directory)
        gateway = f'[gateway]\nbeacon = "10.1.0.1:4790"\nprobe_key = "{key}"\n'
        path.write_text(path.read_text().replace("[gateway]\n", gateway, 1))
        return path

    return made


def changed(old: str, new: str) -> Callable[[Path], Path]:
    return lambda directory: written(directory, EXAMPLE.replace(old, new))


def holding(secret: bytes) -> Callable[[Path], Path]:
    return lambda directory: written(directory, secret=secret)


MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "host bits": (changed("10.2.0.0/16", "10.2.0.1/16"), "did you mean 10.2.0.0/16?"),
    "host bits of IPv6": (changed("10.2.0.0/16", "fd00:2::1/64"), "did you mean fd00:2::/64?"),
    "everything": (changed("10.2.0.0/16", "0.0.0.0/0"), "0.0.0.0/0 cannot be one side's"),
    "a text for a list": (changed('["10.1.0.0/16"]', '"10.1.0.0/16"'), "local_ts: expected a list"),
    "a long socket path": (changed("/run/fwd/fwd.sock", "/run/" + "x" * 110), "choose a shorter one"),
    "a quoted secret": (holding(b'"' + SECRET + b'"\n'), "secret is in quotes, which would be part of it: remove them"),
    "a blank behind a secret": (
        holding(SECRET + b" \n"),
        "has a blank at its beginning or end, which would be",
    ),
    "a blank before a secret": (holding(b" " + SECRET), "has a blank at its beginning or end"),
    "a mark before a secret": (
        holding(b"\xef\xbb\xbf" + SECRET),
        "begins with a byte order mark: save it",
    ),
    "no base64": (holding(b"0s" + SECRET), "begins with 0s, and what follows is no base64"),
    "a link as a secret": (with_link, "is a symbolic link: name the file itself"),
    "a probe key that is none": (with_probe_key(b"x" * 64), "probe.key: probe key is not hexadecimal"),
    "half a probe key": (with_probe_key(b"0" * 32), "probe key holds 32 bytes, needs 64 or more"),
}


@pytest.mark.skipif(os.geteuid() != 0, reason="a secret is its owner's, and --secrets looks as root")
@pytest.mark.parametrize(("made", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_and_status_2(
    made: Callable[[Path], Path], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit_status(["config", "check", "--secrets", str(made(tmp_path))]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("fwd: ")
    assert told.err.count("\n") == 1
    assert expected in told.err


@pytest.mark.parametrize(
    "secret", [SECRET, SECRET + b"\n", SECRET + b"\r\n", b"0s" + b"a2VwdCBiZXR3ZWVuIHRoZSB0d28gb2YgdXM=\n"]
)
def test_what_swanctl_takes_is_taken(secret: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, secret=secret)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert _exit_status(["config", "check", "--secrets", str(path)]) == 0
    assert capsys.readouterr().err == ""
