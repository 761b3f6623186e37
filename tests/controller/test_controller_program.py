"""`fwd controller`, the program: what it makes at its first start, and what it says of what it cannot use."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest
from runkit import running, written

from fwd.cli import _exit_status
from fwd.controller import keys, service
from fwd.controller.config import load
from fwd.model.words import ConfigError

HOOK = '[controller]\nurl = "https://a"\n[webhook]\nsecret_file = "/s"\n'


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_it_makes_its_keys_leads_and_lets_its_first_admin_in_and_again_at_the_next_start(tmp_path: Path) -> None:
    for names in ([], ["a"]):
        with running(tmp_path) as one, one.client() as client:
            assert [vpc["name"] for vpc in client.get("/v1/vpcs").json()["items"]] == names
            client.post("/v1/vpcs", json={"name": "a", "cidrs": ["10.1.0.0/16"]})
        assert "event=controller.leads" in one.log
    secret = [path for path in one.state.iterdir() if path.suffix in (".key", ".pem", ".token")]
    assert {path.stat().st_mode & 0o077 for path in secret} == {0}


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_who_starts_with_an_empty_store_by_mistake_still_has_the_token_of_the_one_that_is_put_back(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as one, one.client():
        token = (one.state / "admin.token").read_text()
    for path in one.state.glob("store.db*"):
        path.unlink()
    with running(tmp_path) as one, one.client():
        assert (one.state / "admin.token").read_text() != token
    assert (one.state / "admin.token.before").read_text() == token


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "controller: missing"),
        ('[controller]\nurl = "http://a:1"\n', "https is needed"),
        ('[controller]\nurl = "https://a/x"\n', "a URL without a path"),
        ('[controller]\nurl = "https://a:x"\n', "a URL without a path"),
        ('[controller]\nurl = "https://ä.example"\n', "expected a host name"),
        ('[controller]\nurl = "https://a b:1"\n', "expected a host name"),
        ('[controller]\nurl = "https://a"\nnames = ["b", "c d"]\n', "names.1: 'c d': expected a host name"),
        ('[controller]\nurl = "https://a"\nnames = [""]\n', "expected a host name"),
        ('[controller]\nurl = "https://a"\nlisten = "a:1"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\nlisten = "::1:1"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\nlisten = "127.0.0.1:70000"\n', "an address and a port"),
        ('[controller]\nurl = "https://a"\ncertificate_lifetime = "1s"\n', "10 is the least"),
        ('[controller]\nurl = "https://a"\ncolor = 1\n', "unknown key"),
        ('[controller]\nurl = "https://a"\nrestart_command = "/bin/x {name}"\n', "restart_command"),
        ('[controller]\nurl = "https://a"\nrestart_command = ["restart"]\n', "whole path"),
        ('[controller]\nurl = "https://a"\nrestart_command = ["/bin/x", "{host}"]\n', "use one of {name}"),
        ('[controller]\nurl = "https://a"\nupgrade_command = ["/bin/x", "{name"]\nupgrade_timeout = "5h"\n', "upgrade"),
        ('[controller]\nurl = "https://a"\nrestart_limit = 0\n', "1 is the least"),
        ('[controller]\nurl = "https://a"\nrestart_limit = true\n', "restart_limit"),
        ('[controller]\nurl = "https://a"\nrestart_wait = "1s"\n', "5 is the least"),
        ('[controller]\nurl = "https://a"\nrestart_timeout = "soon"\n', "a time such as"),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "etcd"\n', "etcd needs endpoints"),
        ('[controller]\nurl = "https://a"\n[store]\nendpoints = ["https://e:1"]\n', 'are for kind = "etcd"'),
        (HOOK + 'url = "http://h.example/a"\n', "https is needed"),
        (HOOK + 'url = "http://localhost/a"\n', "https is needed"),
        (HOOK + 'url = "https://u@h/a"\n', "without a user"),
        (HOOK + 'url = "ftp://h/a"\n', "without a user"),
        (HOOK + 'url = "https://h:0/"\n', "without a user"),
        (HOOK + 'url = "h"\n', "without a user"),
        ('[controller]\nurl = "https://a"\n[webhook]\nurl = "https://h/a"\n', "webhook.secret_file: missing"),
        (HOOK + 'url = "https://h/a"\nkey = 1\n', "unknown key"),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "redis"\n', "use one of"),
        ('[controller]\nurl = "https://a"\n[store]\nkind = "etcd"\nprefix = "x"\nendpoints = ["http://e"]\n', "prefix"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_is_one_line(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "controller.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert why in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_keeps_it_from_starting_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its port is taken; others may look into its state; a key is none."""

    def refused(config: Path) -> str:
        assert _exit_status(["controller", "--config", str(config)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = written(tmp_path, taken.getsockname()[1])
        assert "is another controller running?" in refused(config)
    config.write_text(config.read_text().replace('listen = "127.0.0.1:', 'listen = "192.0.2.1:'))
    assert "this host has no such address" in refused(config)
    state = tmp_path / "state"
    state.chmod(0o755)
    assert "chmod 700" in refused(config)
    state.chmod(0o700)
    config.write_text(f'{config.read_text()}restart_command = ["/nowhere/restart", "{{name}}"]\n')
    assert "restart_command: /nowhere/restart: there is no such program" in refused(config)
    written(tmp_path, 1)
    (state / keys.CA_KEY).write_text("no key")
    assert "ca.key" in refused(config)
    (state / keys.CA_KEY).unlink()
    assert "ca.key" in refused(config)


def test_a_turn_that_fails_is_told_of_and_the_next_one_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns: list[int] = []

    async def turn() -> None:
        turns.append(len(turns))
        if len(turns) == 3:
            raise asyncio.CancelledError
        raise OverflowError("a number of 400 digits")

    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(service._again_and_again(turn, lambda: asyncio.sleep(0)))
    assert len(turns) == 3
    assert caplog.text.count("a turn of the controller has failed") == 2
