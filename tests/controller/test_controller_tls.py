"""A controller on a port of its own, over TLS: whose certificate it sees, and what it does with each."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from cakit import DAY_S, new_key, request
from sitekit import NOW, Site, pem_of, with_site

from fwd.controller import ca, keys, tls
from fwd.controller.rotate import Standing, ask_running, rotate
from fwd.controller.tls import LIFETIME_S, Server
from fwd.proto.errors import UserError


def test_a_links_certificate_says_who_it_is_and_without_one_nobody_is_heard(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        heard, unheard = await site.beat(site.issue(NOW)), await site.beat(None)
        assert (heard.status_code, unheard.status_code) == (200, 401)

    with_site(tmp_path, work)


def test_an_expired_certificate_passes_the_handshake_and_is_heard_for_7_days(tmp_path: Path) -> None:
    """OpenSSL's own check of times is off: the client's is told what is wrong in words."""

    async def work(site: Site) -> None:
        within = await site.beat(site.issue(NOW - 8 * DAY_S, 2 * DAY_S))
        after = await site.beat(site.issue(NOW - 10 * DAY_S, 2 * DAY_S))
        assert (within.status_code, after.status_code) == (200, 403)
        assert "grace" in after.json()["detail"]

    with_site(tmp_path, work)


def test_a_certificate_of_the_future_passes_the_handshake_and_is_told_the_time(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        answer = await site.beat(site.issue(NOW + 3600))
        assert (answer.status_code, "whose clock is wrong" in answer.json()["detail"]) == (403, True)

    with_site(tmp_path, work)


@pytest.mark.parametrize("how", ["another CA's", "for another use"])
def test_a_certificate_of_another_ca_or_use_fails_the_handshake(tmp_path: Path, how: str) -> None:
    async def work(site: Site) -> None:
        foreign: dict[str, Any] = {"authority": ca.new_authority("fwd controller", NOW)}
        link = site.issue(NOW, **(foreign if how == "another CA's" else {"use": "ike"}))
        with pytest.raises(httpx.TransportError):
            await site.beat(link)

    with_site(tmp_path, work)


def test_a_host_that_is_deleted_loses_its_stream_and_is_refused(tmp_path: Path) -> None:
    """As a host does it: join, then read documents as they come."""

    async def work(site: Site) -> None:
        admin = {"Authorization": f"Bearer {site.admin}"}
        key = new_key()
        async with site.client() as client:
            token = (await client.post("/v1/tokens", json={"vpc": "a"}, headers=admin)).json()["token"]
            body = {
                "token": token.split(".")[1], "kind": "gateway", "name": "a2", "link_csr": request(key),
                "ike_csr": request(new_key()), "inner": ["10.1.0.12"], "outer": ["192.0.2.2"],
            }  # fmt: skip
            told = (await client.post("/v1/join", json=body)).json()
            assert token.split(".")[2] == ca.pin(site.keys.authority.certificate)
            link = site.directory / "a2.pem"
            link.write_bytes(pem_of(key) + told["link_certificate"].encode())

            async with site.client(link) as host, host.stream("GET", "/v1/desired?term=0&generation=0") as stream:
                lines = stream.aiter_lines()
                assert (await anext(lines)).startswith('{"signed"')
                (await client.delete("/v1/gateways/a2", headers=admin)).raise_for_status()
                assert not [line async for line in lines if line]
            assert (await site.beat(link)).status_code == 403

    with_site(tmp_path, work)


def test_the_chain_ends_in_the_ca_by_whose_pin_a_host_knows_it(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        text = (site.directory / keys.SERVER_PEM).read_text()
        assert ca.pem(site.keys.authority.certificate).decode() in text
        assert text.count("BEGIN CERTIFICATE") == 2

    with_site(tmp_path, work)


def test_the_controllers_certificate_is_made_anew_at_half_of_its_life(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = Server(tmp_path, keys.load(tmp_path, NOW), ["127.0.0.1"], NOW)
    path = tmp_path / keys.SERVER_PEM
    first = path.read_bytes()
    server.renew(NOW + LIFETIME_S / 2 - 1)
    assert path.read_bytes() == first
    server.renew(NOW + LIFETIME_S / 2)
    assert path.read_bytes() != first


# -- another CA -------------------------------------------------------------------------------------------------------


def test_the_ca_is_replaced_in_three_steps_and_hosts_are_heard_in_each(tmp_path: Path) -> None:
    """What a certificate of the old one is worth after each step: all, all, nothing."""
    tmp_path.chmod(0o700)
    first = keys.load(tmp_path, NOW - 3600).authority
    said = []
    for n, (trusted, heard) in enumerate(((2, True), (2, True), (1, False)), start=1):
        said.append(rotate(tmp_path, NOW - 3600 + 600 * n))
        held = keys.load(tmp_path, NOW)
        assert len(held.trusted()) == trusted
        keys.note_told(tmp_path, held)  # the controller has been restarted

        async def work(site: Site, heard: bool = heard) -> None:
            assert (await site.beat(site.issue(NOW))).status_code == 200
            old = site.issue(NOW, authority=first)
            if heard:
                assert (await site.beat(old)).status_code == 200
            else:
                with pytest.raises(httpx.TransportError):
                    await site.beat(old)

        with_site(tmp_path, work)
    assert [line[:6] for line in said] == ["1 of 3", "2 of 3", "3 of 3"]
    issuing = keys.load(tmp_path, NOW).authority
    assert ca.pin(issuing.certificate) != ca.pin(first.certificate)


@pytest.mark.parametrize("step", [1, 2])
def test_hosts_are_told_of_a_step_before_the_next(tmp_path: Path, step: int) -> None:
    """Who takes two at once, or three, has hosts that trust nobody."""
    tmp_path.chmod(0o700)
    keys.load(tmp_path, NOW - 3600)
    for n in range(step):
        rotate(tmp_path, NOW - 3000 + 600 * n)
        if n + 1 < step:
            keys.note_told(tmp_path, keys.load(tmp_path, NOW))
    before = {one.name: one.read_bytes() for one in tmp_path.glob("*.key")}
    with pytest.raises(UserError, match="restart the controller first"):
        rotate(tmp_path, NOW)
    assert {one.name: one.read_bytes() for one in tmp_path.glob("*.key")} == before


def test_a_key_that_hosts_believe_is_not_replaced_by_another_one(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    keys.load(tmp_path, NOW)
    (tmp_path / keys.DOCUMENT_KEY).unlink()
    with pytest.raises(UserError, match="put back the one that hosts have been told of"):
        keys.load(tmp_path, NOW)
    assert not (tmp_path / keys.DOCUMENT_KEY).exists()


def restarted(directory: Path) -> None:
    """What is in the state directory after a start of the controller."""
    keys.note_told(directory, keys.load(directory, NOW))


def pins(directory: Path) -> list[str]:
    return [ca.pin(one) for one in keys.load(directory, NOW).trusted()]


def begun(directory: Path, steps: int) -> Path:
    """A state directory in which some steps were taken, the controller restarted after each but the last."""
    directory.chmod(0o700)
    keys.load(directory, NOW - 3600)
    for n in range(steps):
        restarted(directory)
        rotate(directory, NOW - 3600 + 600 * (n + 1))
    return directory


@pytest.mark.parametrize("steps", [1, 2])
def test_the_next_step_waits_for_the_controller(tmp_path: Path, steps: int) -> None:
    state = begun(tmp_path, steps)
    before = pins(state)
    for _ in range(3):
        with pytest.raises(UserError, match="restart the controller first"):
            rotate(state, NOW)
    assert pins(state) == before


def test_the_next_step_waits_for_hosts(tmp_path: Path) -> None:
    state = begun(tmp_path, 1)
    restarted(state)
    with pytest.raises(UserError, match="a1, a2, a3 and 1 more have yet to hear"):
        rotate(state, NOW, lambda: Standing(pins(state), ["a1", "a2", "a3", "a4"], []))
    with pytest.raises(UserError, match="restart the controller first"):
        rotate(state, NOW, lambda: Standing(pins(state)[:1], [], []))
    assert rotate(state, NOW, lambda: Standing(pins(state), [], ["a1"])).startswith("2 of 3")


def test_the_old_ca_is_not_forgotten_while_a_host_has_its_certificate_and_is_kept_then(tmp_path: Path) -> None:
    state = begun(tmp_path, 2)
    restarted(state)
    old = (state / keys.OTHER_KEY).read_bytes()
    with pytest.raises(UserError, match="a1 have certificates of the old CA"):
        rotate(state, NOW, lambda: Standing(pins(state), [], ["a1"]))
    assert rotate(state, NOW, lambda: Standing(pins(state), [], [])).startswith("3 of 3")
    assert (state / keys.OLD_KEY).read_bytes() == old
    assert len(pins(state)) == 1


def test_how_a_controller_stands_is_asked_of_it(tmp_path: Path) -> None:
    async def work(site: Site) -> None:
        keys.write(tmp_path / keys.ADMIN_TOKEN, b"fwdb.x")
        with pytest.raises(UserError, match="not known here"):
            await asyncio.to_thread(ask_running, site.url, tmp_path)
        keys.write(tmp_path / keys.ADMIN_TOKEN, site.admin.encode())
        assert await asyncio.to_thread(ask_running, site.url, tmp_path) == Standing(pins(tmp_path), [], [])

    with_site(tmp_path, work)
    with pytest.raises(UserError, match="asked of the controller"):
        ask_running("https://127.0.0.1:1", tmp_path)


@pytest.mark.parametrize("done", [False, True], ids=["before its first rename", "between both"])
def test_a_swap_of_cas_that_was_cut_off_loses_none(tmp_path: Path, done: bool) -> None:
    state = begun(tmp_path, 1)
    before = pins(state)
    (state / "swap.key").write_bytes((state / keys.CA_KEY).read_bytes())
    (state / "swap.key").chmod(0o600)
    if done:
        (state / keys.OTHER_KEY).replace(state / keys.CA_KEY)

    assert pins(state) == (before[::-1] if done else before)
    assert not (state / "swap.key").exists()


def test_the_key_of_documents_is_not_made_anew_where_a_controller_was(tmp_path: Path) -> None:
    state = begun(tmp_path, 0)
    (state / keys.DOCUMENT_KEY).unlink()
    with pytest.raises(UserError, match=r"document.key is missing: put back the one"):
        keys.load(state, NOW)


# -- strangers --------------------------------------------------------------------------------------------------------


async def idle(site: Site, link: Path | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection on which nothing is asked."""
    context = ssl.create_default_context(cadata=ca.bundle(site.keys.trusted()).decode())
    if link is not None:
        context.load_cert_chain(link)
    return await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]), ssl=context)


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 60) == b""
    except ConnectionError:
        return True


def test_of_one_address_without_a_certificate_few_connections_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "STRANGER_CONNECTIONS_MAX", 3)
    monkeypatch.setattr(tls, "FIRST_S", 3600.0)

    async def work(site: Site) -> None:
        opened = [await idle(site) for _ in range(6)]
        closed = [asyncio.create_task(is_closed(reader)) for reader, _ in opened]
        done = 0
        for one in asyncio.as_completed(closed, timeout=60):
            done += await one
            if done == 3:
                break
        assert (await site.beat(site.issue(NOW))).status_code == 200
        for _, writer in opened:
            writer.transport.abort()

    with_site(tmp_path, work)


def test_of_a_host_the_oldest_connection_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tls, "FIRST_S", 3600.0)

    async def work(site: Site) -> None:
        link = site.issue(NOW)
        (oldest, _), *_ = [await idle(site, link) for _ in range(tls.HOST_CONNECTIONS_MAX + 1)]
        assert await is_closed(oldest)
        assert (await site.beat(link)).status_code == 200

    with_site(tmp_path, work)


def test_a_connection_on_which_nothing_is_asked_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(site: Site) -> None:
        monkeypatch.setattr(tls, "FIRST_S", 0.05)
        reader, _ = await idle(site)
        assert await is_closed(reader)

    with_site(tmp_path, work)


_GET = b"GET /v1/openapi.json HTTP/1.1\r\nHost: c\r\n"
_POST = b"POST /v1/join HTTP/1.1\r\nHost: c\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize("begun", [_GET, _POST + b"{", b"G"], ids=["head", "body", "next head"])
def test_who_does_not_go_on_with_a_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    async def work(site: Site) -> None:
        monkeypatch.setattr(tls, "FIRST_S", 0.2)
        reader, writer = await idle(site)
        if begun == b"G":
            writer.write(_GET + b"\r\n")
            await reader.readuntil(b"\r\n\r\n")
        writer.write(begun)
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 10)

    with_site(tmp_path, work)


def test_who_does_not_read_its_answers_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(site: Site) -> None:
        monkeypatch.setattr(tls, "FIRST_S", 0.2)
        monkeypatch.setattr(tls, "UNREAD_S", 0.5)
        lost = asyncio.Event()
        monkeypatch.setattr(tls.PeerProtocol, "connection_lost", lambda self, error: lost.set())
        _, writer = await idle(site)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write((_GET + b"\r\n") * 300)
        await asyncio.wait_for(lost.wait(), 20)
        writer.transport.abort()

    with_site(tmp_path, work)


def test_strangers_nonsense_writes_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(site: Site) -> None:
        monkeypatch.setattr(tls, "FIRST_S", 0.2)
        for begun in (b"\0 nonsense\r\n\r\n", _GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"):
            reader, writer = await idle(site)
            writer.write(begun)
            await asyncio.wait_for(reader.read(1), 10)
            writer.close()
        await asyncio.sleep(0.5)

    with_site(tmp_path, work)
    assert [one.getMessage() for one in caplog.records if one.levelname in ("WARNING", "ERROR")] == []


def test_there_is_no_ca_to_replace_where_no_controller_was(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(UserError, match="no CA to replace"):
        rotate(tmp_path, NOW)
