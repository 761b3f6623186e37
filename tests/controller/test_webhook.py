"""The webhook: a real receiver on this host, which answers as a test wants it to, and checks signatures itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cakit import NOW

from fwd.controller import webhook
from fwd.controller.config import ControllerConfig, load, receiver_of
from fwd.controller.happened import Happened
from fwd.controller.webhook import Receiver, Webhook, pause_s
from fwd.lab.waiting import until
from fwd.proto.errors import UserError

SECRET = b"0123456789abcdef"


class Posts:
    """What was posted, and with what it is answered: the first statuses in turn, and 200 from then on."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.taken: list[dict[str, Any]] = []
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()
        posts = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posts.asked += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.hold.wait(60)
                text = self.headers["Fwd-Timestamp"].encode() + b"." + body
                good = "sha256=" + hmac.new(SECRET, text, hashlib.sha256).hexdigest()
                assert hmac.compare_digest(self.headers["Fwd-Signature"], good)
                status = posts.statuses.pop(0) if posts.statuses else 200
                if status == 200:
                    posts.taken.append({**json.loads(body), "sent": int(self.headers["Fwd-Timestamp"])})
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook?a=b"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def texts(self) -> list[str]:
        return [one["text"] for one in self.taken]


@pytest.fixture
def posts() -> Iterator[Posts]:
    one = Posts()
    try:
        yield one
    finally:
        one.close()


def told(posts: Posts, work: Callable[[Webhook, Happened], None], *, url: str = "") -> Webhook:
    """Run a webhook until it has told what there was to tell."""

    async def both() -> Webhook:
        happened = Happened()
        happened.term, about = 3, {"cluster_id": "c"}
        one = Webhook(Receiver(url or posts.url, SECRET), lambda: about, lambda: NOW, lambda: 0.001)
        happened.listeners.append(one.put)
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.01)
        work(one, happened)
        while one.waiting:
            assert not running.done()
            await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return one

    return asyncio.run(asyncio.wait_for(both(), 60))


def notes(*texts: str) -> Callable[[Webhook, Happened], None]:
    def work(one: Webhook, happened: Happened) -> None:
        for text in texts:
            happened.note("host.down", "a1", text, NOW - 1)

    return work


def test_an_event_is_told_with_its_time_and_a_signature_of_both(posts: Posts) -> None:
    one = told(posts, notes("down: gone"))

    assert posts.taken == [
        {"cluster_id": "c", "term": 3, "number": 1, "at": NOW - 1, "what": "host.down", "host": "a1",
         "text": "down: gone", "sent": int(NOW)}
    ]  # fmt: skip
    assert one.counts == {"delivered": 1}


def test_who_fails_is_asked_again_and_the_order_is_kept(posts: Posts) -> None:
    posts.statuses = [500, 429, 503, 200, 502]
    one = told(posts, notes("1", "2", "3"))

    assert posts.texts() == ["1", "2", "3"]
    assert one.counts == {"delivered": 3, "failed": 4}


@pytest.mark.parametrize("status", [301, 307, 400, 404, 410])
def test_a_refusal_and_a_redirect_end_it_and_the_next_one_is_told(posts: Posts, status: int) -> None:
    posts.statuses = [status]
    one = told(posts, notes("1", "2"))

    assert (posts.texts(), posts.asked) == (["2"], 2)
    assert one.counts == {"delivered": 1, "failed": 1, "lost": 1}


def test_what_cannot_be_told_is_given_up_after_a_while(posts: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "GIVE_UP_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    one = told(posts, notes("1"), url=f"http://127.0.0.1:{port}/")

    assert one.counts["lost"] == 1
    assert one.counts["failed"] > 1


def test_one_that_does_not_answer_is_given_up_in_time(posts: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "GIVE_UP_S", 0.01)
    monkeypatch.setattr(webhook, "ATTEMPT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        one = told(posts, notes("1"), url=f"http://127.0.0.1:{mute.getsockname()[1]}/")
    assert one.counts["lost"] == 1


def test_of_too_many_that_wait_the_oldest_go_and_are_counted(posts: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAITING_MAX", 3)

    def work(one: Webhook, happened: Happened) -> None:
        notes("1", "2", "3", "4", "5")(one, happened)
        assert one.waiting == 3

    one = told(posts, work)
    assert posts.texts() == ["3", "4", "5"]
    assert one.counts == {"delivered": 3, "lost": 2}


def test_events_of_one_host_keep_no_others_from_being_told(posts: Posts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "WAITING_MAX", 3)

    def work(one: Webhook, happened: Happened) -> None:
        happened.note("host.down", "b1", "other", NOW)
        notes("1", "2", "3", "4", "5")(one, happened)

    told(posts, work)
    assert posts.texts() == ["other", "4", "5"]


def test_pauses_grow_and_are_drawn_at_random() -> None:
    assert [pause_s(n, 1.0) for n in (1, 2, 3, 20, 10**6)] == [0.5, 1.0, 2.0, 60.0, 60.0]
    assert pause_s(20, 0.0) == 0.0


def test_a_controller_that_ends_tells_what_it_can(posts: Posts) -> None:
    async def work() -> None:
        one, happened = Webhook(Receiver(posts.url, SECRET), dict), Happened()
        happened.listeners.append(one.put)
        running = asyncio.create_task(one.run())
        notes("1", "2")(one, happened)
        await one.flush()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(asyncio.wait_for(work(), 60))
    assert posts.texts() == ["1", "2"]


# -- configuration ----------------------------------------------------------------------------------------------------


def configured(directory: Path, secret: bytes, mode: int = 0o600, more: str = "") -> ControllerConfig:
    path, file = directory / "controller.toml", directory / "secret"
    file.write_bytes(secret)
    file.chmod(mode)
    hook = f'[webhook]\nurl = "http://127.0.0.1:1/a"\nsecret_file = "{file}"\n{more}'
    path.write_text(f'[controller]\nurl = "https://a"\n{hook}')
    return load(path)


def test_the_secret_is_read_from_its_file(tmp_path: Path) -> None:
    found = receiver_of(configured(tmp_path, SECRET + b"\n"))
    assert found is not None
    assert (found.url, found.secret) == ("http://127.0.0.1:1/a", SECRET)


@pytest.mark.parametrize(
    ("secret", "mode", "more", "why"),
    [
        (SECRET, 0o644, "", "can be read by others"),
        (b"short\n", 0o600, "", "16 octets are the least"),
        (b"", 0o600, "", "holds 0 bytes"),
        (SECRET, 0o600, 'ca = "/nowhere.pem"\n', "no CA's certificates"),
    ],
)
def test_a_secret_or_a_ca_that_cannot_be_used_is_one_line(
    tmp_path: Path, secret: bytes, mode: int, more: str, why: str
) -> None:
    with pytest.raises(UserError, match=why) as refused:
        receiver_of(configured(tmp_path, secret, mode, more))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_running_controller_tells_what_happens_to_its_hosts(tmp_path: Path, posts: Posts) -> None:
    from runkit import running

    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "secret").chmod(0o600)
    more = f'[webhook]\nurl = "{posts.url}"\nsecret_file = "{tmp_path}/secret"\n'
    with running(tmp_path, more) as one, one.client() as client:
        client.post("/v1/vpcs", json={"name": "a", "cidrs": ["10.1.0.0/16"]})
        body = {"name": "a1", "vpc": "a", "outer": "192.0.2.1", "inner": ["10.1.0.11"]}
        client.post("/v1/gateways", json=body)
        until(lambda: [one["what"] for one in posts.taken] == ["host.joining"], "it was told", 60)
    assert (posts.taken[0]["host"], posts.taken[0]["term"]) == ("a1", 1)
