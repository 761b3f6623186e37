"""What is taken out of a support bundle, and what stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from fwd.controller.config import ControllerConfig
from fwd.model import config
from fwd.model.router import RouterConfig
from fwd.tools.redact import GONE, SECRETS, clean, forms_of, paths_in, shown

PEM = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIBprivate\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        (f"before {PEM} after", "MHcCAQEEIBprivate"),
        ("before -----BEGIN PRIVATE KEY-----\nMHcCAQcut", "MHcCAQcut"),
        ("before fwd1.abcDEF-_0.0123456789abcdef after", "abcDEF-_0"),
        ("before fwdb.abcDEF-_0 after", "abcDEF-_0"),
        ("before Authorization: Bearer xyz.123 after", "xyz.123"),
        ("before https://root:hunter2@etcd:2379/ after", "hunter2"),
        (f"before 0x{'aB' * 16} after", "aB" * 16),
        (f"before {'07' * 32} after", "07" * 32),
    ],
)
def test_what_looks_like_a_secret_is_gone(text: str, gone: str) -> None:
    cleaned = clean(text, ())
    assert gone not in cleaned
    assert GONE in cleaned
    assert cleaned.startswith("before ")


@pytest.mark.parametrize(
    "text",
    ["SPI 0x0123abcd0123abcd", "fd00:1::10/64 via fe80::1", "https://controller.example:8443", "key = /etc/fwd/a.key",
     "2026-11-26T18:00:00+0000 fwd[1]: event=keyd.established", "-----BEGIN CERTIFICATE-----"],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    assert clean(text, ()) == text


@pytest.mark.parametrize(
    "form",
    [b"correct horse", b"correct horse".hex().encode(), b"Y29ycmVjdCBob3JzZQ", b"CORRECT HORSE", b"second line"],
)
def test_what_a_secrets_file_holds_is_gone_in_each_form(form: bytes) -> None:
    forms = forms_of([b"correct horse\nsecond line\n", b"correct horse"])
    assert form.decode() not in clean(f"it said {form.decode()} aloud", forms)


def test_a_secret_that_json_escapes_is_gone() -> None:
    assert "quo" not in clean(r'{"a": "sec\"quo\\te"}', forms_of([b'sec"quo\\te']))


def test_of_a_secret_in_hexadecimal_the_digits_alone_are_gone_too() -> None:
    assert "00ff11" not in clean("key 00ff11", forms_of([b"0x00ff11\n"]))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"keys": {"secret": "/etc/fwd/a.psk"}}, {"keys": {"secret": "/etc/fwd/a.psk"}}),
        ({"keys": {"secret": "hunter2"}}, {"keys": {"secret": GONE}}),
        ({"router": {"hash_seed": 7}}, {"router": {"hash_seed": GONE}}),
        ({"peering": [{"keys": {"key": ["x"]}}]}, {"peering": [{"keys": {"key": GONE}}]}),
        ({"restart_command": ["ssh", "-i", "x"]}, {"restart_command": ["ssh", GONE]}),
        (
            {"webhook": {"url": "https://hooks.example:8/T0/B1?x=y"}},
            {"webhook": {"url": f"https://hooks.example:8/{GONE}"}},
        ),
        ({"webhook": {"secret_file": "/w", "ca": "/c"}}, {"webhook": {"secret_file": "/w", "ca": "/c"}}),
        ({"controller": {"url": "https://c.example:8443"}}, {"controller": {"url": "https://c.example:8443"}}),
        ({"members": 4, "tun": "fwd0"}, {"members": 4, "tun": "fwd0"}),
    ],
)
def test_of_a_configuration_paths_of_secrets_alone_are_shown(config: dict[str, Any], expected: dict[str, Any]) -> None:
    assert shown(config) == expected


def test_paths_of_secrets_are_found_wherever_they_stand() -> None:
    config = {
        "gateway": {"probe_key": "/a", "control": "/b"},
        "peering": [{"keys": {"secret": "/c", "key": "no path"}}],
    }
    assert paths_in(config) == ["/a", "/c"]


@pytest.mark.parametrize("model", [config.Config, RouterConfig, ControllerConfig])
def test_each_secret_of_the_configurations_is_known_as_one(model: type[BaseModel]) -> None:
    """What is described as a file for its owner alone, or as somebody's key."""
    found = dict(described(model))
    assert found
    secret = {key for key, text in found.items() if "0600" in text or "private key" in text or "'s key" in text}
    assert secret
    assert not {key for key in secret if not SECRETS.fullmatch(key)}


def described(model: Any) -> Iterator[tuple[str, str]]:
    """Each key of a configuration, with what is said of it."""
    for key, schema in [*_properties(model.model_json_schema())]:
        yield key, str(schema.get("description", ""))


def _properties(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for table in (schema, *schema.get("$defs", {}).values()):
        yield from table.get("properties", {}).items()
