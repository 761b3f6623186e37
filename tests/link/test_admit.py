"""What a controller may set on a gateway, and what it may not, whoever has signed it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fwd.controller.place import place
from fwd.link.admit import IKE_KEYS, PEERING_KEYS, admit, beside
from fwd.link.document import DocumentError
from fwd.model.config import Config
from fwd.model.fleet import Fleet
from fwd.model.keys import CertificateKeys

KEYS = {"source": "cert", "certificate": "/etc/fwd/gw.pem", "key": "/etc/fwd/gw.key", "authorities": "/etc/fwd/ca.pem"}
LOCAL = Config.model_validate(
    {
        "gateway": {"user": "vpn", "metrics": "127.0.0.1:9595"},
        "controller": {"subnets": ["10.1.0.0/16", "10.2.0.0/16", "fd00::/16"]},
        "peering": [
            {
                "name": "mine", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.99", "local_ts": ["10.1.0.0/24"],
                "remote_ts": ["10.9.0.0/24"], "port": 4000, "members": 2, "tun": "fwd0", "keys": KEYS,
            }
        ],
    }
)  # fmt: skip
FILES = CertificateKeys.model_validate(KEYS)
TABLE: dict[str, Any] = {
    "name": "a-b", "local_addrs": "192.0.2.1", "remote_addrs": ["192.0.2.2"], "local_ts": ["10.1.0.0/24"],
    "remote_ts": ["10.2.0.0/24"], "members": 4, "payload": "superpacket", "port": 5012, "tun": "fwd1a2b3c4d",
    "local_id": "a1.gateway.fwd", "remote_id": ["b1.gateway.fwd"],
}  # fmt: skip


def wanted(**changes: Any) -> Config:
    return beside(LOCAL, admit(LOCAL, FILES, {"peering": [{**TABLE, **changes}]}))


def refusal(content: Any) -> str:
    with pytest.raises(DocumentError) as refused:
        admit(LOCAL, FILES, content)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_peering_from_outside_comes_beside_those_of_the_file() -> None:
    found = wanted()
    assert found.gateway == LOCAL.gateway
    assert [one.name for one in found.peering] == ["mine", "a-b"]
    assert found.peering[0] == LOCAL.peering[0]


@pytest.mark.parametrize(("native", "address"), [(False, "10.1.0.5"), (True, "192.0.2.1")])
def test_behind_a_1_to_1_nat_it_is_at_the_gateways_own_address_and_native_ones_are_anyway(
    native: bool, address: str
) -> None:
    controller = {"subnets": ["10.0.0.0/8"], "local_addrs": "10.1.0.5"}
    local = Config.model_validate({**LOCAL.model_dump(), "controller": controller})
    table = {**TABLE, **({"native": True} if native else {})}
    (found,) = admit(local, FILES, {"peering": [table]})
    assert str(found.local_addrs) == address


def test_its_files_are_those_of_the_local_file() -> None:
    keys = wanted().peering[1].ike
    assert keys is not None
    assert (keys.local_id, str(keys.certificate)) == ("a1.gateway.fwd", "/etc/fwd/gw.pem")  # type: ignore[attr-defined]


def test_timers_and_members_may_be_set() -> None:
    found = wanted(rekey_time=600, dpd_delay=2, members=8, drain_deadline=5).peering[1]
    assert (found.rekey_time, found.members, found.drain_deadline) == (600, 8, 5)
    assert found.ike is not None
    assert found.ike.dpd_delay == 2


def test_without_peerings_what_the_file_has_stays() -> None:
    assert admit(LOCAL, FILES, {"peering": [], "draining": False}) == []


def test_what_a_controller_places_is_admitted() -> None:
    """The two ends of the same contract: what a fleet comes to, and what a host takes."""
    gateways = [
        {"name": f"{vpc}{n}", "vpc": vpc, "outer": f"192.0.2.{10 * base + n}", "inner": [f"10.{base}.0.{n}"]}
        for vpc, base in (("a", 1), ("b", 2))
        for n in (1, 2)
    ]
    fleet = Fleet.model_validate(
        {
            "vpcs": [{"name": "a", "cidrs": ["10.1.0.0/16"]}, {"name": "b", "cidrs": ["10.2.0.0/16"]}],
            "gateways": gateways,
            "clusters": [{"name": one, "vpc": one, "gateways": [f"{one}1", f"{one}2"]} for one in "ab"],
            "peerings": [{"name": "a-b", "clusters": ["a", "b"], "number": 0}],
        }
    )
    empty = LOCAL.model_copy(update={"peering": []})
    for content in place(fleet).gateways.values():
        assert [one.name for one in admit(empty, FILES, content)] == ["a-b"]


@pytest.mark.parametrize("key", ["gateway", "hooks", "restart_command", "spread", "log"])
def test_nothing_but_peerings_can_be_set(key: str) -> None:
    assert refusal({"peering": [TABLE], key: {}}) == f"it sets {key!r}, which is the local file's alone"


NEVER = sorted((set(type(LOCAL.peering[0]).model_fields) | set(type(LOCAL.peering[0].keys).model_fields))
               - PEERING_KEYS - IKE_KEYS)  # fmt: skip


@pytest.mark.parametrize("key", [*NEVER, "user", "save_keys"])
def test_no_other_key_of_a_peering_can_be_set(key: str) -> None:
    assert f"it sets {key!r}" in refusal({"peering": [{**TABLE, key: "/etc/shadow"}]})


def test_no_path_can_be_set() -> None:
    """Of what may be set nothing is a path: a key that comes to the model is one more for the list above."""
    assert {"keys", "certificate", "key", "authorities", "remote_cert", "crls", "audit"} <= set(NEVER)
    for key in PEERING_KEYS | IKE_KEYS:
        with pytest.raises(DocumentError):
            wanted(**{key: Path("/etc/shadow")})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"remote_ts": ["10.3.0.0/24"]}, "remote_ts 10.3.0.0/24 is in none of controller.subnets"),
        ({"remote_ts": ["10.2.0.0/15"]}, "is in none"),
        ({"local_ts": ["192.168.0.0/24"]}, "local_ts 192.168.0.0/24 is in none"),
        ({"remote_ts": ["10.2.0.0/24", "fd99::/64"]}, "is in none"),
        ({"port": 22}, "port 22 is below 4500"),
        ({"tun": "eth0"}, "its device must begin with fwd"),
        ({"tun": "fwd0"}, "share the TUN device fwd0"),
        ({"name": "mine"}, "two peerings are named mine"),
        ({"members": 65}, "members"),
        ({"members": True}, "members"),
        ({"remote_addrs": []}, "remote_addrs"),
        ({"remote_ts": ["10.1.0.0/16"]}, "peering 'a-b'"),
        ({"name": "x" * 4000}, "name"),
        ({"name": None}, "name"),
    ],
)
def test_what_lies_beyond_what_is_given_away_is_refused(changes: dict[str, Any], why: str) -> None:
    text = refusal({"peering": [{**TABLE, **changes}]})
    assert why in text
    assert len(text) < 500


@pytest.mark.parametrize("tables", [None, {}, "x", [1], [[]], [None], [{}]])
def test_nonsense_is_refused(tables: Any) -> None:
    assert refusal({"peering": tables})


def test_more_members_than_the_file_allows_are_refused() -> None:
    assert LOCAL.controller is not None
    few = LOCAL.model_copy(update={"controller": LOCAL.controller.model_copy(update={"members_max": 2})})
    with pytest.raises(DocumentError, match="4 members over all peerings, and 2 are allowed"):
        admit(few, FILES, {"peering": [TABLE]})


def test_members_are_counted_over_all_peerings() -> None:
    other = {**TABLE, "name": "a-c", "remote_ts": ["10.2.1.0/24"], "remote_addrs": ["192.0.2.3"], "port": 5112,
             "tun": "fwd2", "members": 61}  # fmt: skip
    assert "65 members over all peerings, and 64 are allowed" in refusal({"peering": [TABLE, other]})


@pytest.mark.parametrize("key", ["rekey_time", "life_time", "ike_rekey_time"])
@pytest.mark.parametrize("value", [0, "0s"])
def test_keys_that_never_end_cannot_be_had_from_outside(key: str, value: object) -> None:
    assert f"{key} is 0" in refusal({"peering": [{**TABLE, key: value}]})


def test_a_far_gateway_may_be_inside_its_subnets() -> None:
    assert wanted(local_addrs="10.1.0.11", remote_addrs=["10.2.0.11"], native=True).peering[1].native
