"""Who has asked for what is in the audit log; who asks too often waits; which controller leads is told."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from apikit import Api

from fwd.controller import audit
from fwd.controller.acts import Acts
from fwd.controller.door import Door
from fwd.controller.rates import Rates
from fwd.proto.errors import UserError


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "audit.log"
    audit.write_to(path)
    try:
        yield path
    finally:
        audit.log.handlers[0].close()
        audit.log.handlers.clear()
        audit.log.propagate = True


@pytest.fixture(autouse=True)
def _at_info() -> Iterator[None]:
    before = audit.log.level
    audit.log.setLevel(logging.INFO)
    yield
    audit.log.setLevel(before)


@pytest.fixture
def own() -> Iterator[list[str]]:
    """What the controller's own log has."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("fwd.controller")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line)["fields"] for line in path.read_text().splitlines()]


def short(path: Path) -> list[tuple[str, str, str, int]]:
    return [(one["who"], one["method"], one["path"], one["status"]) for one in lines(path)]


def test_each_change_that_is_asked_for_is_a_line_and_so_is_each_refusal(api: Api, log: Path) -> None:
    api.make_vpc("a", "10.1")
    api.ask("DELETE", "/v1/vpcs/b")
    api.ask("POST", "/v1/vpcs", {"name": "c", "cidrs": ["10.3.0.0/16"]}, token=api.viewer)
    api.ask("POST", "/v1/vpcs", {"name": "c"}, token="fwdb.x")
    api.ask("GET", "/v1/vpcs")

    assert short(log) == [
        ("token root", "POST", "/v1/vpcs", 200),
        ("token root", "DELETE", "/v1/vpcs/b", 404),
        ("token page", "POST", "/v1/vpcs", 403),
        ("nobody", "POST", "/v1/vpcs", 401),
    ]
    record = json.loads(log.read_text().splitlines()[0])
    assert (record["event"], record["level"], "time" in record) == ("controller.asked", "info", True)
    assert log.stat().st_mode & 0o777 == 0o600


def test_hosts_are_named_and_heartbeats_that_are_heard_are_no_lines(api: Api, log: Path) -> None:
    api.make_vpc("a", "10.1")
    told = api.join("a", "a1", "10.1.0.11", "192.0.2.1")
    for _ in range(3):
        api.beat(told)
    api.good("DELETE", "/v1/gateways/a1")
    api.beat(told)

    assert short(log)[2:] == [
        ("who joins", "POST", "/v1/join", 201),
        ("token root", "DELETE", "/v1/gateways/a1", 200),
        ("nobody", "POST", "/v1/heartbeat", 403),
    ]


def test_no_line_has_a_token(api: Api, log: Path) -> None:
    api.make_vpc("a", "10.1")
    body = api.join_body("a", "a1", "10.1.0.11", "192.0.2.1")
    api.ask("POST", "/v1/join", body, token="")
    assert api.admin not in log.read_text()
    assert body["token"] not in log.read_text()


def test_nobody_fills_the_log(api: Api, log: Path) -> None:
    for n in range(100):
        api.ask("POST", f"/v1/vpcs/{n}%0aforged", {}, token="")
        api.as_host(None, "POST", "/v1/heartbeat", {})
    assert len(lines(log)) <= 21
    api.make_vpc("a", "10.1")
    assert short(log)[-1] == ("token root", "POST", "/v1/vpcs", 200)


def test_a_host_or_a_viewer_that_is_refused_again_and_again_fills_no_log(api: Api, log: Path) -> None:
    api.make_vpc("a", "10.1")
    told = api.join("a", "a1", "10.1.0.11", "192.0.2.1")
    for _ in range(200):
        api.beat(told)
        api.as_host(told["link_certificate"], "POST", "/v1/renew", {})
        api.ask("POST", "/v1/vpcs", {}, token=api.viewer)
    assert len(lines(log)) <= 50
    api.make_vpc("b", "10.2")
    assert sum(one.get("left_out", 0) + 1 for one in lines(log)) > 500


def test_a_viewer_that_asks_for_changes_too_often_waits(api: Api) -> None:
    found = {api.ask("POST", "/v1/vpcs", {}, token=api.viewer).status_code for _ in range(1001)}
    assert found == {403, 429}


def test_the_log_goes_on_in_a_new_file_when_it_was_renamed(api: Api, log: Path) -> None:
    api.make_vpc("a", "10.1")
    log.rename(log.with_suffix(".1"))
    api.make_vpc("b", "10.2")
    assert len(lines(log)) == len(lines(log.with_suffix(".1"))) == 1
    assert log.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_written_there_is_in_the_controllers_own_log_and_is_answered(
    api: Api, log: Path, own: list[str]
) -> None:
    directory = log.parent / "renamed"
    api.make_vpc("a", "10.1")
    log.rename(log.with_suffix(".1"))
    log.symlink_to(directory / "audit.log")
    assert [api.ask("DELETE", f"/v1/vpcs/{name}").status_code for name in "bcd"] == [404] * 3
    assert own[-4:] == [
        f"{log}: the audit log cannot be written: No such file or directory: its records are here instead",
        *(f"token root: DELETE /v1/vpcs/{name}: 404" for name in "bcd"),
    ]

    directory.mkdir()
    api.ask("DELETE", "/v1/vpcs/e")
    assert short(log) == [("token root", "DELETE", "/v1/vpcs/e", 404)]


def test_a_disk_that_is_full_refuses_nobody(api: Api, log: Path, own: list[str]) -> None:
    log.unlink()
    log.symlink_to("/dev/full")
    api.make_vpc("a", "10.1")
    api.make_vpc("b", "10.2")
    assert f"{log}: the audit log cannot be written: No space left on device: its records are here instead" in own
    assert own.count("token root: POST /v1/vpcs: 200") == 2


def test_an_audit_log_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the audit log cannot be written"):
        audit.write_to(tmp_path / "no" / "audit.log")


# -- rates ------------------------------------------------------------------------------------------------------------


def test_tries_come_back_with_time_and_are_each_ones_own() -> None:
    rates = Rates(3, 1)
    assert [rates.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.may("b", 0.0)
    assert [rates.take("a", 2.0) for _ in range(3)] == [True, True, False]
    assert [rates.take("a", 99.0) for _ in range(4)] == [True, True, True, False]


def test_whoever_is_refused_does_not_wait_longer_for_asking_on() -> None:
    rates = Rates(1, 1)
    assert rates.take("a", 0.0)
    assert not any(rates.take("a", n / 10) for n in range(1, 10))
    assert rates.take("a", 1.0)


def test_of_very_many_names_few_are_known() -> None:
    rates = Rates(1, 1)
    for n in range(10_000):
        rates.take(str(n), 0.0)
    assert len(rates._left) <= 4096


def test_of_who_may_not_change_anything_or_asks_too_often_no_body_is_read(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer's bodies of a megabyte were read before it was refused, as often as it liked."""
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"{}"

    def post(token: str) -> int:
        headers = {"Content-Type": "application/json"}
        return api.ask("POST", "/v1/vpcs", token=token, headers=headers, content=body()).status_code

    assert (post(api.viewer), read) == (403, 0)
    assert (post(api.admin), read) == (422, 1)
    monkeypatch.setattr(api.control, "people", Rates(0, 0))
    assert (post(api.viewer), read) == (429, 1)
    assert (post(api.admin), read) == (429, 1)


def test_a_bearer_that_asks_too_often_waits_and_others_do_not(api: Api) -> None:
    api.control.people = Rates(3, 1)
    assert [api.ask("GET", "/v1/vpcs").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert api.ask("GET", "/v1/vpcs", token=api.viewer).status_code == 200
    api.now += 1
    assert api.ask("GET", "/v1/vpcs").status_code == 200


def test_a_host_that_asks_too_often_waits_and_others_do_not(api: Api) -> None:
    told = api.peered()
    api.control.links = Rates(3, 1)
    assert [api.beat(told["a1"]).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert api.beat(told["b1"]).status_code == 200


# -- who leads --------------------------------------------------------------------------------------------------------


def test_which_controller_leads_is_told_by_those_that_follow_too(api: Api) -> None:
    api.peered()
    api.control.who, api.control.leader = "one:1", "one:1"
    api.control.turn()
    said = api.good("GET", "/v1/controller", token=api.viewer)
    assert (said["who"], said["leading"], said["leader"], said["term"]) == ("one:1", True, "one:1", 1)
    assert sum(said["hosts"].values()) == 2

    api.desk.step_down()
    api.control.leader = "two:2"
    said = api.good("GET", "/v1/controller", token=api.viewer)
    assert (said["leading"], said["leader"], said["term"], said["hosts"]) == (False, "two:2", None, {})
    assert 'fwd_controller_leader{leader="two:2"} 1.0' in api.ask("GET", "/metrics").text
    assert api.ask("GET", "/v1/controller", token="").status_code == 401


def test_metrics_tell_each_host_restarts_and_handshakes(api: Api) -> None:
    told = api.peered()
    api.beat(told["a1"])
    api.control.turn()
    api.control.restarts = Acts(api.control).control.restarts
    api.control.restarts.update({("a1", True): 2, ("a1", False): 1})
    api.control.door = Door(None, None, None)  # type: ignore[arg-type]
    api.control.door.counts["refused"] = 5
    text = api.ask("GET", "/metrics").text
    for line in (
        'fwd_controller_host{health="up",host="a1",kind="gateway",version="0.1.0"} 1.0',
        'fwd_controller_host{health="joining",host="b1",kind="gateway",version=""} 1.0',
        'fwd_controller_restarts_total{host="a1",result="done"} 2.0',
        'fwd_controller_restarts_total{host="a1",result="failed"} 1.0',
        "fwd_controller_handshakes_refused_total 5.0",
        "fwd_controller_handshakes 0.0",
    ):
        assert line in text
