"""The file that `--save-keys` writes all keys to: nobody else's, and nobody else reads it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fwd.proto.errors import UserError
from fwd.supervise.sockets import open_key_log


def test_a_file_that_is_there_is_added_to(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    for line in (b"one\n", b"two\n"):
        fd = open_key_log(path)
        os.write(fd, line)
        os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("somebody else's", "belongs to user 65534"), ("open to others", "others could read it"), ("a link", "symbolic"),
     ("a pipe", "No such device|not a regular file")],
)  # fmt: skip
def test_a_file_that_others_could_read_is_refused(tmp_path: Path, kind: str, reason: str) -> None:
    path = tmp_path / "keys"
    if kind == "a pipe":
        os.mkfifo(path, 0o600)
    elif kind == "a link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.touch(0o600 if kind == "somebody else's" else 0o644)
        os.chown(path, 65534 if kind == "somebody else's" else 0, 0)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(UserError, match=reason):
        open_key_log(path)
    assert set(os.listdir("/proc/self/fd")) == before
