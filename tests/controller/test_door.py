"""Connections before their TLS handshake: few of an address, not for long, and nobody else waits for them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from sitekit import NOW, Site, with_site

from fwd.controller import door
from fwd.controller.door import whence


def port(site: Site) -> int:
    return int(site.url.rpartition(":")[2])


class Silent:
    """Connections that say nothing, not even hello."""

    def __init__(self, site: Site) -> None:
        self._port = port(site)
        self.readers: list[asyncio.StreamReader] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self, count: int) -> list[asyncio.StreamReader]:
        for _ in range(count):
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self.readers.append(reader)
            self.writers.append(writer)
        return self.readers

    def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 60) == b""
    except ConnectionError:
        return True


async def heard(site: Site) -> bool:
    """Try until a host is heard."""
    while True:
        try:
            return (await site.beat(site.issue(NOW))).status_code == 200
        except httpx.TransportError:
            await asyncio.sleep(0.01)


def test_of_an_address_few_shake_hands_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKES_EACH_MAX", 3)
    monkeypatch.setattr(door, "HANDSHAKE_S", 3600.0)

    async def work(site: Site) -> None:
        crowd = Silent(site)
        readers = await crowd.open(5)
        assert await ends(readers[3])
        assert await ends(readers[4])
        assert not any(reader.at_eof() for reader in readers[:3])
        with pytest.raises(httpx.TransportError):
            await site.beat(site.issue(NOW))

        crowd.close()
        assert await heard(site)

    with_site(tmp_path, work)


def test_of_very_many_the_oldest_goes_and_a_host_comes_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKES_MAX", 3)
    monkeypatch.setattr(door, "HANDSHAKE_S", 3600.0)

    async def work(site: Site) -> None:
        crowd = Silent(site)
        readers = await crowd.open(4)
        assert await ends(readers[0])
        assert (await site.beat(site.issue(NOW))).status_code == 200
        assert await ends(readers[1])
        assert not any(reader.at_eof() for reader in readers[2:])
        crowd.close()

    with_site(tmp_path, work)


def test_a_handshake_that_does_not_come_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HANDSHAKE_S", 2.0)  # others, which do shake hands, have it, too

    async def work(site: Site) -> None:
        crowd = Silent(site)
        assert await ends(*await crowd.open(1))
        crowd.close()

    with_site(tmp_path, work)


def test_what_is_no_tls_ends_its_own_connection_alone(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(site))
        writer.write(b"GET / HTTP/1.1\r\n\r\n" * 1000)
        while await reader.read(4096):  # an alert, perhaps
            pass
        assert (await site.beat(site.issue(NOW))).status_code == 200
        writer.close()

    with_site(tmp_path, work)


def test_a_door_that_cannot_take_connections_for_want_of_descriptors_takes_them_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(site: Site) -> None:
        loop, failures = asyncio.get_running_loop(), [24, 24]
        accept = loop.sock_accept

        async def poor(sock: socket.socket) -> tuple[socket.socket, object]:
            if failures:
                raise OSError(failures.pop(), "Too many open files")
            return await accept(sock)

        monkeypatch.setattr(loop, "sock_accept", poor)
        for _ in range(3):
            assert (await site.beat(site.issue(NOW))).status_code == 200
        assert not failures

    with_site(tmp_path, work)


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_by_what_an_address_is_counted(address: str, counted: str) -> None:
    assert whence(address) == counted
