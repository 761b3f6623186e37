"""What `fwd apply` and `fwd confirm` do to a gateway: its plan, its trial, and what its file holds."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fwd.model.config import Config, parse
from fwd.model.example import EXAMPLE
from fwd.proto.errors import UserError
from fwd.supervise import applying, plan
from fwd.supervise.admin import RefusedError, Request
from fwd.supervise.applying import Applying
from fwd.supervise.trial import Now, Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives up root, and has to have it")
OLD = EXAMPLE
NEW = EXAMPLE.replace("[[peering]]", "# new\n[[peering]]")
GUARD = plan.LogLevel("debug")


class Gateway:
    """A gateway that is at once as it is wanted, and its configuration file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "fwd.toml"
        self.path.write_text(OLD)
        self.config = parse(OLD, "old")
        self.wanted: list[Config] = []
        self.refusal = self.lacks = ""
        self.is_settled = True
        self.start()

    def start(self) -> None:
        """Another supervisor, with what is in the file."""
        self.config = parse(self.path.read_text(), "file")
        self.applying = Applying(
            applying.Gateway(
                lambda: self.config, self.steps_to, self.want, lambda: self.is_settled,
                lambda: {"vpc2": "no address"}, lambda config: config, self.examined,
            ),
            Store(self.path),
            (65534, 65534),
        )  # fmt: skip
        self.applying.resume()

    def steps_to(self, config: Config) -> Sequence[plan.Step]:
        if self.refusal:
            raise UserError(self.refusal)
        return [GUARD]

    def examined(self, config: Config) -> Iterator[None]:
        yield None
        if self.lacks:
            raise UserError(self.lacks)

    def want(self, config: Config) -> None:
        self.config = config
        self.wanted.append(config)

    def begin(self, text: str, **words: object) -> Iterator[dict[str, Any] | None]:
        with tempfile.TemporaryFile("w+") as file:
            file.write(text)
            file.flush()
            return self.applying.apply(Request("apply", {"command": "apply", **words}, file.fileno()))

    def apply(self, text: str, **words: object) -> list[dict[str, Any]]:
        """All that is said, once everything has been done."""
        try:
            said = []
            for one in self.begin(text, **words):
                said += [one] if one else []
                time.sleep(0.002)
            return said
        finally:
            while self.applying._reading is not None:
                self.applying.turn()

    def files(self) -> list[str]:
        return sorted(os.listdir(self.path.parent))


def other(level: str) -> str:
    """A configuration that differs."""
    text = NEW.replace('log_level = "info"', f'log_level = "{level}"')
    assert text != NEW
    return text


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds since a moment, by both clocks."""
    passed = [0.0]
    monkeypatch.setattr(applying, "now", lambda: Now(100.0 + passed[0], 5000.0 + passed[0]))
    return passed


def test_what_is_applied_is_in_force_and_in_the_file_and_the_former_beside_it(gateway: Gateway) -> None:
    said = gateway.apply(other("debug"))
    assert said == [{"plan": [str(GUARD)], "confirm_s": 0}, {"done": True, "waiting": {"vpc2": "no address"}}]
    assert gateway.config.gateway.log_level == "debug"
    assert gateway.path.read_text() == other("debug")
    assert gateway.path.with_name("fwd.toml.before").read_text() == OLD


def test_a_dry_run_shows_the_plan_and_changes_nothing(gateway: Gateway) -> None:
    assert gateway.apply(other("debug"), dry_run=True, confirm_s=60) == [{"plan": [str(GUARD)], "done": True}]
    assert not gateway.wanted
    assert gateway.files() == ["fwd.toml"]
    assert gateway.path.read_text() == OLD


def edited(gateway: Gateway, text: str) -> None:
    """The gateway's own file, changed where it is."""
    gateway.path.write_text(text)


def test_the_gateways_own_file_may_be_edited_and_applied(gateway: Gateway) -> None:
    edited(gateway, other("debug"))
    gateway.apply(other("debug"))
    assert gateway.path.read_text() == other("debug")
    assert gateway.path.with_name("fwd.toml.before").read_text() == OLD


def test_the_gateways_own_file_edited_and_tried_holds_what_is_in_force_until_it_is_confirmed(
    gateway: Gateway, clock: list[float]
) -> None:
    edited(gateway, other("debug"))
    gateway.apply(other("debug"), confirm_s=60)
    assert gateway.path.read_text() == OLD
    clock[0] = 61.0
    gateway.start()
    assert (gateway.config, gateway.path.read_text()) == (parse(OLD, "old"), OLD)
    assert gateway.path.with_name("fwd.toml.edited").read_text() == other("debug")

    edited(gateway, other("error"))
    gateway.apply(other("error"), confirm_s=60)
    gateway.applying.confirm()
    assert gateway.path.read_text() == other("error")
    assert gateway.path.with_name("fwd.toml.before").read_text() == OLD
    assert gateway.files() == ["fwd.toml", "fwd.toml.before"]


def test_another_change_of_the_file_is_kept_when_it_is_replaced(gateway: Gateway) -> None:
    edited(gateway, "# not applied")
    gateway.apply(other("debug"))
    assert gateway.path.with_name("fwd.toml.before").read_text() == "# not applied"


def test_what_the_file_says_when_it_is_read_anew_is_in_force(gateway: Gateway, clock: list[float]) -> None:
    edited(gateway, other("error"))
    gateway.applying.give_way()
    edited(gateway, other("debug"))
    gateway.apply(other("debug"), confirm_s=60)
    assert gateway.path.read_text() == other("error")


@pytest.mark.parametrize("words", [{}, {"confirm_s": 60}, {"dry_run": True}])
def test_secrets_with_which_fwd_would_not_start_are_refused(gateway: Gateway, words: dict[str, object]) -> None:
    gateway.lacks = "peering vpc2: keys.secret /x: cannot be opened: No such file or directory"
    with pytest.raises(RefusedError, match="cannot be opened"):
        gateway.apply(other("debug"), **words)
    assert (gateway.wanted, gateway.files(), gateway.path.read_text()) == ([], ["fwd.toml"], OLD)


def test_a_file_that_others_can_write_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    path = tmp_path / "new.toml"
    path.write_text(other("debug"))
    path.chmod(0o666)
    with path.open() as file, pytest.raises(RefusedError, match=r"new\.toml: can be written by others"):
        gateway.applying.apply(Request("apply", {"name": "new.toml"}, file.fileno()))


@pytest.mark.parametrize("confirm_s", [0, 60])
def test_a_bad_file_and_one_that_needs_a_restart_change_nothing(gateway: Gateway, confirm_s: int) -> None:
    with pytest.raises(RefusedError, match=r"new\.toml: not TOML"):
        gateway.apply("[gateway", name="new.toml", confirm_s=confirm_s)
    gateway.refusal = "gateway.user cannot change while fwd runs: restart fwd"
    with pytest.raises(RefusedError, match="restart fwd"):
        gateway.apply(other("debug"), confirm_s=confirm_s)
    assert (gateway.wanted, gateway.files(), gateway.path.read_text()) == ([], ["fwd.toml"], OLD)


def test_what_is_on_trial_is_in_force_and_not_in_the_file_until_it_is_confirmed(
    gateway: Gateway, clock: list[float]
) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    clock[0] = 59.0
    gateway.applying.turn()
    assert gateway.applying.trial_until == 5060
    assert (gateway.config.gateway.log_level, gateway.path.read_text()) == ("debug", OLD)
    assert gateway.applying.confirm() == {"confirmed": str(gateway.path)}
    assert gateway.applying.trial_until is None
    assert gateway.path.read_text() == other("debug")
    assert gateway.files() == ["fwd.toml", "fwd.toml.before"]
    clock[0] = 61.0
    gateway.applying.turn()
    assert gateway.config.gateway.log_level == "debug"


def test_what_is_not_confirmed_in_time_goes(gateway: Gateway, clock: list[float]) -> None:
    before = gateway.config
    gateway.apply(other("debug"), confirm_s=60)
    clock[0] = 60.0
    with pytest.raises(RefusedError, match="nothing to confirm"):
        gateway.applying.confirm()
    gateway.applying.turn()
    assert gateway.config == before
    assert (gateway.files(), gateway.path.read_text()) == (["fwd.toml"], OLD)


def test_a_trial_goes_on_in_the_next_supervisor_for_the_time_that_is_left(gateway: Gateway, clock: list[float]) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    clock[0] = 40.0
    gateway.start()
    assert gateway.config.gateway.log_level == "debug"
    clock[0] = 60.0
    gateway.applying.turn()
    assert gateway.config == parse(OLD, "old")
    assert gateway.files() == ["fwd.toml"]


def test_a_trial_whose_time_is_over_when_the_next_supervisor_starts_is_not_taken_up(
    gateway: Gateway, clock: list[float]
) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    clock[0] = 61.0
    gateway.start()
    assert gateway.config == parse(OLD, "old")
    assert gateway.files() == ["fwd.toml"]


def test_a_trial_can_be_confirmed_in_the_next_supervisor(gateway: Gateway, clock: list[float]) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    gateway.start()
    gateway.applying.confirm()
    assert gateway.path.read_text() == other("debug")


def test_a_trial_that_cannot_be_taken_up_again_goes(gateway: Gateway, clock: list[float]) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    gateway.refusal = "no"
    gateway.start()
    assert gateway.config == parse(OLD, "old")
    assert gateway.files() == ["fwd.toml"]


def test_nothing_else_is_applied_meanwhile_and_a_dry_run_shows_what_would_be(
    gateway: Gateway, clock: list[float]
) -> None:
    gateway.apply(other("debug"), confirm_s=60)
    for confirm_s in (0, 5):
        with pytest.raises(RefusedError, match="on trial"):
            gateway.apply(other("error"), confirm_s=confirm_s)
    assert gateway.config.gateway.log_level == "debug"
    assert gateway.apply(other("error"), dry_run=True)


def test_two_are_not_read_at_a_time(gateway: Gateway) -> None:
    first = gateway.begin(other("debug"))
    with pytest.raises(RefusedError, match="another configuration is being applied"):
        gateway.begin(other("error"))
    for _ in first:
        time.sleep(0.002)
    assert gateway.config.gateway.log_level == "debug"


def test_who_goes_before_it_is_read_has_nothing_applied(gateway: Gateway) -> None:
    said = gateway.begin(other("debug"))
    said.close()  # type: ignore[attr-defined]
    assert not gateway.wanted
    deadline = time.monotonic() + 20
    while gateway.applying._reading is not None and time.monotonic() < deadline:
        gateway.applying.turn()
    assert gateway.apply(other("debug"))


def test_the_file_that_is_read_anew_ends_a_trial(gateway: Gateway, clock: list[float]) -> None:
    """SIGHUP: what the file says is wanted next, and not what was in force before the trial."""
    gateway.apply(other("debug"), confirm_s=60)
    gateway.applying.give_way()
    assert len(gateway.wanted) == 1
    assert gateway.files() == ["fwd.toml"]
    with pytest.raises(RefusedError, match="nothing to confirm"):
        gateway.applying.confirm()


@pytest.mark.parametrize(
    "words",
    [{"confirm_s": -1}, {"confirm_s": "60"}, {"confirm_s": 1e3}, {"confirm_s": 10**9}, {"dry_run": 1}, {"name": []}],
)
def test_words_that_make_no_sense_are_refused(gateway: Gateway, words: dict[str, object]) -> None:
    with pytest.raises(RefusedError):
        gateway.begin(OLD, **words)
    with pytest.raises(RefusedError, match="no file"):
        gateway.applying.apply(Request("apply", {}))


def test_what_cannot_be_kept_is_not_applied(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(gateway.path))

    monkeypatch.setattr(Store, "replace", full)
    monkeypatch.setattr(Store, "keep", full)
    for confirm_s in (0, 60):
        with pytest.raises(RefusedError, match="No space left"):
            gateway.apply(other("debug"), confirm_s=confirm_s)
    assert not gateway.wanted


def test_who_waits_too_long_for_others_to_be_told_hears_it(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applying, "SETTLED_S", 0.01)
    gateway.is_settled = False
    assert gateway.apply(other("debug"))[-1]["waiting"]["gateway"]
