"""A configuration as it is written and shown: TOML that is read as the same, and what a change of each key does."""

from __future__ import annotations

import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwd.model.config import Config, parse
from fwd.model.example import EXAMPLE
from fwd.model.render import render, write
from fwd.model.tables import ROUTER_TABLES, TABLES, keys_of, markdown
from fwd.model.words import Strict, change_of

ROOT = Path(__file__).parents[1]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20).map(
    "/run/".__add__
)
SUBNETS = {
    "local_ts": st.lists(st.integers(0, 255).map(lambda n: ip_network(f"10.{n}.0.0/16")), min_size=1, max_size=9),
    "remote_ts": st.lists(st.integers(0, 255).map(lambda n: ip_network(f"fd00:{n:x}::/32")), max_size=9).map(
        [ip_network("172.16.0.0/16")].__add__  # else neither side has whom to talk to
    ),
}
PEERINGS = st.fixed_dictionaries(
    {
        "name": st.just("vpc2"),
        "local_addrs": st.just("192.0.2.1"),
        "remote_addrs": st.sampled_from(["192.0.2.2", "203.0.113.1"]),
        "keys": st.one_of(
            st.fixed_dictionaries({"source": st.just("lab"), "secret": PATHS}),
            st.fixed_dictionaries(
                {"source": st.just("psk"), "secret": PATHS, "dpd_delay": st.sampled_from(["0s", "10s", "1h", 7])}
            ),
            st.fixed_dictionaries(
                {
                    "source": st.just("cert"), "certificate": PATHS, "key": PATHS, "authorities": PATHS,
                    "crls": st.lists(PATHS, max_size=3), "tls_certificates": st.booleans(),
                }
            ),
        ),
        **SUBNETS,
    },
    optional={
        "members": st.integers(1, 64),
        "payload": st.sampled_from(["esp", "superpacket"]),
        "reorder_ms": st.floats(1e-9, 100, exclude_min=True),
        "rekey_bytes": st.integers(0, 2**60),
        "life_packets": st.just(2**62),
        "tun_mtu": st.integers(1280, 65535),
        "audit": st.booleans(),
    },
)  # fmt: skip
CONFIGS = st.fixed_dictionaries(
    {"peering": PEERINGS.map(lambda one: [one])},
    optional={
        "gateway": st.fixed_dictionaries(
            {"control": PATHS},
            optional={"user": st.sampled_from(["fwd", 1000, "1000"]), "log_level": st.sampled_from(["debug", "error"])},
        )
    },
)


@given(CONFIGS.map(Config.model_validate))
def test_what_is_written_is_read_as_the_same(config: Config) -> None:
    text = render(config)
    assert parse(text, "again") == config
    assert render(parse(text, "again")) == text


def test_a_key_that_has_its_default_is_not_written() -> None:
    text = render(parse(EXAMPLE, "example"))
    assert "members" not in text
    assert 'name = "vpc2"' in text


def test_whatever_a_table_says_is_toml() -> None:
    tables = {"gateway": {"control": 'a"\\\n\x7f\x01é'}, "peering": [{"on": True, "x": [1.5, "y"], "keys": {"k": -1}}]}
    assert tomllib.loads(write(tables)) == tables


@pytest.mark.parametrize("model", TABLES.values())
def test_every_key_says_what_a_change_of_it_does(model: type[Strict]) -> None:
    for key, schema in keys_of(model).items():
        assert schema["change"] == change_of(model, key)
        assert schema.get("description"), key


def test_the_example_says_of_each_key_what_a_change_of_it_does() -> None:
    lines = {line.strip("# ").split(" =")[0]: line for line in EXAMPLE.splitlines() if " = " in line}
    for key, change in (("members", "live"), ("dpd_delay", "live"), ("grace", "live"), ("ike_port", "restart")):
        assert f"# {change}" in lines[key], lines[key]
    assert max(map(len, EXAMPLE.splitlines())) <= 120
    marked = [line for line in lines.values() if "# live" in line or "# restart" in line]
    assert len(marked) == len(lines) - 1  # the line that tells of certificates is none of a key


def test_the_reference_is_as_the_program_has_it() -> None:
    """`python -c 'from fwd.model import tables; print(tables.markdown())'` prints the tables anew."""
    assert markdown().strip() in (ROOT / "docs" / "config.md").read_text()


def test_so_is_the_routers() -> None:
    """`python -c 'from fwd.model import tables as t; print(t.markdown(t.ROUTER_TABLES))'` prints them."""
    assert markdown(ROUTER_TABLES).strip() in (ROOT / "docs" / "router.md").read_text()
