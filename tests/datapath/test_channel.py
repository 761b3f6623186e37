"""The channel by which the supervisor tells a process what has changed: whole notices, descriptors, answers."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Iterator

import pytest

from fwd.datapath import channel
from fwd.datapath.channel import ChannelError, Notice, answered, hear, send
from fwd.datapath.memory import Memory, map_descriptor
from fwd.supervise.sockets import seqpacket_pair

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    near, far = seqpacket_pair()
    yield near, far
    near.close()
    far.close()


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def maps(name: str) -> int:
    with open("/proc/self/maps", encoding="ascii") as file:
        return sum(f"memfd:{name}" in line for line in file)


def test_a_notice_comes_whole_and_is_answered_once_it_is_dealt_with(pair: Pair) -> None:
    near, far = pair
    heard: list[Notice] = []
    assert not hear(far, heard.append)
    with open(os.devnull, "rb") as file:
        assert send(near, Notice("open", "p", {"words": [1]}, {"key": file.fileno()}), 1)
        about = os.fstat(file.fileno()).st_ino
    assert answered(near, 0) == (0, [])
    assert hear(far, heard.append)
    assert answered(near, 0) == (1, [])
    (notice,) = heard
    assert (notice.act, notice.peering, notice.body) == ("open", "p", {"words": [1]})
    assert os.fstat(notice.fds["key"]).st_ino == about
    os.close(notice.fds["key"])


def test_as_many_descriptors_as_a_message_can_have(pair: Pair) -> None:
    heard: list[Notice] = []
    with open(os.devnull, "rb") as file:
        fds = {str(n): file.fileno() for n in range(channel.DESCRIPTORS_MAX)}
        assert send(pair[0], Notice("open", "p", {}, fds), 1)
    assert hear(pair[1], heard.append)
    assert len(set(heard[0].fds.values())) == channel.DESCRIPTORS_MAX
    for fd in heard[0].fds.values():
        os.close(fd)


def test_memory_is_mapped_as_the_process_may_have_it_and_goes_with_its_views(pair: Pair) -> None:
    memory, heard = Memory({"keyd": 4096, "member-0": 4096}, "given"), list[Notice]()
    before = descriptors()
    with memory.opened("keyd", memory.sizes("keyd")) as fds:
        assert send(pair[0], Notice("open", "given", {}, fds, memory.sizes("keyd")), 1)
    assert hear(pair[1], heard.append)
    found = dict(heard[0].map("keyd"))
    assert descriptors() == before
    found["keyd"][0] = 7
    assert memory.map("supervisor")["keyd"][0] == 7
    with pytest.raises(TypeError):
        found["member-0"][0] = 7
    assert maps("fwd/given/member-0") == 1
    found.clear()
    assert maps("fwd/given/member-0") == 0
    memory.close()


def test_what_only_is_read_cannot_be_opened_to_write(pair: Pair) -> None:
    memory = Memory({"member-0": 4096}, "given")
    with memory.opened("keyd", ["member-0"]) as fds, pytest.raises(PermissionError):
        map_descriptor(fds["member-0"], 4096, "write")
    memory.close()


def test_who_does_not_read_makes_nobody_wait(pair: Pair) -> None:
    began, number = time.monotonic(), 0
    while send(pair[0], Notice("change", "p", {"words": "x" * 20000}), number + 1):
        number += 1
    assert 0 < number < 1000
    assert time.monotonic() - began < 60
    heard: list[Notice] = []
    while hear(pair[1], heard.append):
        pass
    assert answered(pair[0], 0) == (number, [])
    assert len(heard) == number


def test_what_goes_wrong_is_answered_all_the_same_and_leaves_no_descriptor(pair: Pair) -> None:
    def fails(notice: Notice) -> None:
        os.close(notice.fds["key"])
        raise ZeroDivisionError

    with open(os.devnull, "rb") as file:
        assert send(pair[0], Notice("open", "p", {}, {"key": file.fileno()}), 1)
        before = descriptors()
        with pytest.raises(ZeroDivisionError):
            hear(pair[1], fails)
    assert answered(pair[0], 0) == (1, [1])
    assert descriptors() <= before


def test_descriptors_that_find_no_place_are_told(pair: Pair) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open(os.devnull, "rb") as file:
        assert send(pair[0], Notice("open", "p", {}, {str(n): file.fileno() for n in range(9)}), 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(ChannelError, match="the limit is too low"):
                hear(pair[1], lambda notice: None)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert answered(pair[0], 0) == (1, [1])


@pytest.mark.parametrize(
    "words", [b"", b"x", bytes(9), b"\x02" + bytes(8), bytes(64)], ids=["empty", "short", "zero", "ahead", "long"]
)
def test_an_answer_that_is_none_is_refused(pair: Pair, words: bytes) -> None:
    pair[1].send(words)
    with pytest.raises(ChannelError):
        answered(pair[0], 0)


def test_a_notice_that_is_more_than_a_message_takes_is_refused(pair: Pair) -> None:
    with pytest.raises(ChannelError, match="more than one notice takes"):
        send(pair[0], Notice("open", "p", {"words": "x" * (1 << 18)}), 1)
    with open(os.devnull, "rb") as file, pytest.raises(ChannelError):
        send(pair[0], Notice("open", "p", {}, {str(n): file.fileno() for n in range(channel.DESCRIPTORS_MAX + 1)}), 1)


def test_only_so_many_answers_are_read_at_a_time(pair: Pair) -> None:
    count = 0
    with contextlib.suppress(BlockingIOError):
        while count < 2 * channel._ANSWERS_MAX:
            pair[1].send((count + 1).to_bytes(8, "little") + b"\x01")
            count += 1
    assert answered(pair[0], 0) == (min(count, channel._ANSWERS_MAX), [])
