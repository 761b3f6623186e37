"""A configuration that comes as a descriptor is read and checked by a process without rights."""

from __future__ import annotations

import json
import os
import socket
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from fwd.model.config import Config, parse
from fwd.model.example import EXAMPLE
from fwd.model.subnets import SUBNETS_MAX
from fwd.model.toml import FILE_OCTETS_MAX
from fwd.proto.errors import UserError
from fwd.supervise import asked, reading
from fwd.supervise.reading import Reading, answer_in

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root, and has to have it")
USER = (65534, 65534)


def read(file: int) -> tuple[Config, str]:
    """What comes of it; the child is gone then."""
    child = Reading(file, "new.toml", USER, time.monotonic())
    try:
        while (found := child.heard(time.monotonic())) is None:
            time.sleep(0.002)
        return found
    finally:
        child.end()
        while not child.is_gone():
            time.sleep(0.002)


def refused(file: int) -> str:
    with pytest.raises(UserError) as error:
        read(file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[int]]:
    """Descriptors, closed at the end; none is left over otherwise."""
    before, fds = set(os.listdir("/proc/self/fd")), list[int]()
    yield fds
    for fd in fds:
        os.close(fd)
    assert set(os.listdir("/proc/self/fd")) == before


def file_of(tmp_path: Path, data: bytes, opened: list[int]) -> int:
    (tmp_path / "file").write_bytes(data)
    opened.append(os.open(tmp_path / "file", os.O_RDONLY))
    return opened[-1]


def test_a_configuration_comes_back_checked_with_its_text(tmp_path: Path, opened: list[int]) -> None:
    text = EXAMPLE.replace("\n", "\r\n")
    fd = file_of(tmp_path, text.encode(), opened)
    os.lseek(fd, 10, os.SEEK_SET)  # wherever it stands
    assert read(fd) == (parse(text, "example"), text)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "peering"),
        (b"[gateway", "new.toml: not TOML"),
        (b"[gateway]\nnonsense = 1\n", "nonsense"),
        (b"[gateway]\nlog_levle = 1\n", "log_level"),
        (b'[[peering]]\nname = "a"\nremote_ts = ["10.0.0.1/8"]\n', "peering"),
        (b"a = " + b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfea\0", "UTF-16"),
        (b"\xc3(", "line 1"),
        (b"#" * (FILE_OCTETS_MAX + 1), "more than"),
    ],
)
def test_a_bad_one_is_refused_in_one_line(tmp_path: Path, opened: list[int], data: bytes, reason: str) -> None:
    assert reason in refused(file_of(tmp_path, data, opened))


def test_of_what_is_no_file_nothing_is_read(tmp_path: Path, opened: list[int]) -> None:
    opened += [*os.pipe(), os.open(tmp_path, os.O_RDONLY)]
    one, other = socket.socketpair()
    opened += [one.detach(), other.detach()]
    os.mkfifo(tmp_path / "fifo")
    opened.append(os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK))
    for fd in opened:
        assert "not a regular file" in refused(fd)


def test_a_device_that_never_ends_and_a_sparse_file_are_too_long(tmp_path: Path, opened: list[int]) -> None:
    opened.append(os.open("/dev/zero", os.O_RDONLY))
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    opened.append(os.open(tmp_path / "huge", os.O_RDONLY))
    for fd in opened:
        assert "more than" in refused(fd)


def test_one_that_takes_too_long_is_ended(tmp_path: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "DEADLINE_S", 0.05)
    monkeypatch.setattr(reading, "parse_octets", lambda *_: time.sleep(60))
    assert "could not be read within" in refused(file_of(tmp_path, b"", opened))


def test_one_that_dies_takes_nobody_along(tmp_path: Path, opened: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "parse_octets", lambda *_: os.abort())
    assert "ended without a word" in refused(file_of(tmp_path, b"", opened))


@pytest.mark.parametrize("said", [b"", b"7", b"[]", b"\xff", b"[" * 100_000, b'{"config": 7}\n', b"null"])
def test_what_it_says_is_not_believed_to_be_anything(said: bytes) -> None:
    with pytest.raises(UserError):
        answer_in(said)


def test_a_reason_is_one_printable_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        answer_in(b'{"error": "a\\n\\u001b[2J' + b"x" * 5000 + b'"}')
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 1000


GOOD = json.dumps({"config": parse(EXAMPLE, "example").model_dump(mode="json")}).encode()


@pytest.mark.parametrize(
    "said",
    [
        b'{"config":{"peering":[' + b"[]," * 2_000_000 + b"[]]}}\n",
        b'{"config":{"peering":[' + b"[]," * 600_000 + b"[]]}}\n",
        b'{"config":{"gateway":{' + b",".join(b'"%x":1' % n for n in range(200_000)) + b"}}}\n",
        b'{"error":"' + b"x" * 10_000_000 + b'"}\n',
        GOOD + b"\n" + b"#" * (FILE_OCTETS_MAX + 1),
        GOOD + b"\n\xff",
    ],
    ids=["long", "many lists", "many keys", "a long reason", "a long text", "no text"],
)
def test_what_is_more_than_a_configuration_is_not_looked_into(said: bytes) -> None:
    """By the memory that it takes: of lists, 50 octets an octet; the supervisor's loop watches everybody meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            answer_in(said)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2 * len(said) + 1_000_000


def test_the_largest_configuration_that_there_may_be_is_no_more_than_that() -> None:
    config = parse(EXAMPLE, "example").model_dump(mode="json")
    (peering,) = config["peering"][:1]
    peering["local_ts"] = peering["remote_ts"] = ["fd00:1111:2222:3333:4444:5555:6666:7777/128"] * SUBNETS_MAX
    line = json.dumps({"config": {**config, "peering": [peering] * 64}}).encode()
    assert not reading.is_too_much(line)
