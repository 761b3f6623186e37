"""What is to be done for a change of the configuration; and that each key is what it is marked as."""

from __future__ import annotations

from typing import Any

import pytest

from fwd.datapath import tuning
from fwd.model.config import Config, Peering
from fwd.model.gateway import Gateway
from fwd.model.keys import CertificateKeys, LabKeys, PskKeys
from fwd.model.words import Strict, change_of
from fwd.proto.errors import UserError
from fwd.supervise.plan import Close, Follow, Guard, InForce, Open, Secrets, Step, plan

PSK = {"source": "psk", "secret": "/etc/fwd/vpc2.psk"}
CERT = {"source": "cert", "certificate": "/c.pem", "key": "/c.key", "authorities": "/ca.pem"}
LAB = {"source": "lab", "secret": "/lab"}


A, B, C = (f"192.0.2.{n}" for n in (2, 3, 4))


def vpc2(**changes: Any) -> dict[str, Any]:
    return {
        "name": "vpc2", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2", "local_ts": ["10.1.0.0/16"],
        "remote_ts": ["10.2.0.0/16"], "members": 2, "keys": PSK, **changes,
    }  # fmt: skip


def vpc3(**changes: Any) -> dict[str, Any]:
    apart = {"name": "vpc3", "tun": "fwd1", "port": 4600, "remote_ts": ["10.3.0.0/16"], "remote_addrs": "192.0.2.3"}
    return vpc2(**(apart | changes))


def config(*peerings: dict[str, Any], **gateway: Any) -> Config:
    return Config.model_validate({"gateway": gateway, "peering": list(peerings)})


def steps(before: Config, after: Config, *renewed: str) -> list[Step]:
    return plan(InForce(before.gateway, {one.name: one for one in before.peering}, frozenset(renewed)), after)


def told(before: Config, after: Config, *renewed: str) -> list[str]:
    return [str(step) for step in steps(before, after, *renewed)]


TABLE: list[tuple[str, Config, Config, tuple[str, ...], list[str]]] = [
    ("nothing", config(vpc2(), vpc3()), config(vpc2(), vpc3()), (), []),
    ("another order", config(vpc2(), vpc3()), config(vpc3(), vpc2()), (), []),
    (
        "a peering comes", config(vpc2()), config(vpc2(), vpc3(members=3)), (),
        ["vpc3: guard 10.3.0.0/16", "vpc3: open, with 3 members to 192.0.2.3"],
    ),
    (
        "a peering goes", config(vpc2(), vpc3()), config(vpc2()), (),
        ["vpc3: close", "gateway: guard 10.3.0.0/16 no more"],
    ),
    (
        "another name", config(vpc2()), config(vpc2(name="new")), (),
        ["new: guard 10.2.0.0/16", "vpc2: close", "new: open, with 2 members to 192.0.2.2"],
    ),
    (
        "addresses and payload", config(vpc2()), config(vpc2(remote_addrs="192.0.2.9", payload="esp")), (),
        ["vpc2: guard 10.2.0.0/16", "vpc2: close, to set up anew: remote_addrs, payload",
         "vpc2: open, with 2 members to 192.0.2.9"],
    ),
    ("the audit log", config(vpc2(), vpc3()), config(vpc2(audit=False), vpc3()), (), ["vpc2: follow audit"]),
    ("more members", config(vpc2()), config(vpc2(members=6)), (), ["vpc2: grow from 2 to 6 members"]),
    (
        "fewer members, and another key", config(vpc2()), config(vpc2(members=1, drain_deadline=5, audit=False)), (),
        ["vpc2: follow drain_deadline, audit", "vpc2: shrink from 2 to 1 members; busy flows move after 5 s"],
    ),
    (
        "more members with the lab's keys, of which nothing tells the far side",
        config(vpc2(keys=LAB)), config(vpc2(keys=LAB, members=3)), (),
        ["vpc2: guard 10.2.0.0/16", "vpc2: close, to set up anew: members",
         "vpc2: open, with 3 members to 192.0.2.2"],
    ),
    (
        "clamping", config(vpc2()), config(vpc2(mss_clamp=False)), (),
        ["vpc2: guard 10.2.0.0/16", "vpc2: follow mss_clamp"],
    ),
    (
        "a subnet comes", config(vpc2()), config(vpc2(remote_ts=["10.2.0.0/16", "10.9.0.0/16"])), (),
        ["vpc2: guard 10.2.0.0/16, 10.9.0.0/16", "vpc2: follow remote_ts; route 10.9.0.0/16"],
    ),
    (
        "a subnet goes", config(vpc2(remote_ts=["10.2.0.0/16", "10.9.0.0/16"])), config(vpc2()), (),
        ["vpc2: guard 10.2.0.0/16, 10.9.0.0/16", "vpc2: follow remote_ts; route 10.9.0.0/16 no more",
         "vpc2: guard 10.2.0.0/16", "gateway: guard 10.9.0.0/16 no more"],
    ),
    (
        "a subnet becomes a smaller one", config(vpc2()), config(vpc2(remote_ts=["10.2.4.0/24"])), (),
        ["vpc2: guard 10.2.0.0/16", "vpc2: follow remote_ts; route 10.2.4.0/24; route 10.2.0.0/16 no more",
         "vpc2: guard 10.2.4.0/24", "gateway: guard 10.2.0.0/16 no more"],
    ),
    (
        "a subnet goes from one to another: both guard it meanwhile",
        config(vpc2(remote_ts=["10.2.0.0/16", "10.9.0.0/16"]), vpc3()),
        config(vpc2(), vpc3(remote_ts=["10.3.0.0/16", "10.9.0.0/16"])), (),
        ["vpc2: guard 10.2.0.0/16, 10.9.0.0/16", "vpc3: guard 10.3.0.0/16, 10.9.0.0/16",
         "vpc2: follow remote_ts; route 10.9.0.0/16 no more", "vpc3: follow remote_ts; route 10.9.0.0/16",
         "vpc2: guard 10.2.0.0/16"],
    ),
    ("a local subnet", config(vpc2()), config(vpc2(local_ts=["10.7.0.0/16"])), (), ["vpc2: follow local_ts"]),
    (
        "words of IKE", config(vpc2()), config(vpc2(keys={**PSK, "dpd_delay": 3})), (),
        ["vpc2: read secrets and certificates again", "vpc2: follow keys.dpd_delay"],
    ),
    (
        "certificates for a secret", config(vpc2()), config(vpc2(keys=CERT)), (),
        ["vpc2: read secrets and certificates again", "vpc2: follow keys.source"],
    ),
    ("a secret file", config(vpc2()), config(vpc2()), ("vpc2",), ["vpc2: read secrets and certificates again"]),
    (
        "the lab's secret", config(vpc2(keys=LAB)), config(vpc2(keys=LAB)), ("vpc2",),
        ["vpc2: guard 10.2.0.0/16", "vpc2: close, to set up anew: keys.secret",
         "vpc2: open, with 2 members to 192.0.2.2"],
    ),
    *[
        (name, config(vpc2(remote_addrs=before, members=4)), config(vpc2(remote_addrs=after, members=count)), (), told)
        for name, before, after, count, told in [
            ("a far gateway comes, with half of the members", A, [A, B], 4,
             [f"vpc2: members 4, 5 come to {B}; members 2, 3 leave {A}; busy flows move after 60 s"]),
            ("a far gateway comes, with members of its own", A, [A, B], 8, [f"vpc2: members 4, 5, 6, 7 come to {B}"]),
            ("a third far gateway", [A, B], [A, B, C], 6, [f"vpc2: members 4, 5 come to {C}"]),
            ("the last far gateway goes", [A, B, C], [A, B], 3,
             [f"vpc2: member 2 leaves {C}; busy flows move after 60 s"]),
            ("the first far gateway goes", [A, B], [B], 2,
             [f"vpc2: members 0, 2 leave {A}; busy flows move after 60 s"]),
            ("one far gateway for another", [A, B], [C, B], 4,
             [f"vpc2: members 4, 5 come to {C}; members 0, 2 leave {A}; busy flows move after 60 s"]),
            ("the only far gateway for another", A, B, 4,
             [f"vpc2: members 4, 5, 6, 7 come to {B}; members 0, 1, 2, 3 leave {A}; busy flows move after 60 s"]),
            ("far gateways in another order", [A, B], [B, A], 4, ["vpc2: take far gateways in another order"]),
            ("more members to two far gateways", [A, B], [A, B], 6,
             ["vpc2: member 4 comes to 192.0.2.2; member 5 comes to 192.0.2.3"]),
        ]
    ],
    (
        "identities of far gateways come along",
        config(vpc2(keys={**PSK, "remote_id": "a"})),
        config(vpc2(remote_addrs=[A, B], members=4, keys={**PSK, "remote_id": ["a", "b"]})), (),
        ["vpc2: read secrets and certificates again", "vpc2: follow keys.remote_id", f"vpc2: members 2, 3 come to {B}"],
    ),
    (
        "the ports that a far gateway's members need are another peering's",
        config(vpc2(), vpc3(port=4502)), config(vpc2(remote_addrs=C), vpc3(port=4502)), (),
        ["vpc2: guard 10.2.0.0/16", "vpc2: close, to set up anew: remote_addrs",
         "vpc2: open, with 2 members to 192.0.2.4"],
    ),
    (
        "the gateway's own", config(vpc2()), config(vpc2(), log_level="debug", metrics="127.0.0.1:9595"), (),
        ["gateway: log from level debug on", "gateway: serve metrics at 127.0.0.1:9595"],
    ),
    ("low latency is wanted", config(vpc2()), config(vpc2(), low_latency=True), (),
     ["gateway: keep CPUs out of deep sleep"]),
    ("low latency is not wanted any more", config(vpc2(), low_latency=True), config(vpc2()), (),
     ["gateway: let CPUs sleep"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "renewed", "expected"), [row[1:] for row in TABLE], ids=[r[0] for r in TABLE]
)
def test_steps(before: Config, after: Config, renewed: tuple[str, ...], expected: list[str]) -> None:
    assert told(before, after, *renewed) == expected


OTHERS: dict[str, Any] = {
    "name": "other", "local_addrs": "192.0.2.7", "remote_addrs": "192.0.2.8", "local_ts": ["10.8.0.0/16"],
    "remote_ts": ["10.9.0.0/16"], "members": 3, "payload": "esp", "steering": "kernel", "port": 4700,
    "shared_port": True, "tun": "fwd7", "native": True,
    "tun_mtu": 1400, "path_mtu": 1400, "esn": False, "replay_window": 2048, "rekey_time": 60, "rekey_packets": 4096,
    "rekey_bytes": 2**30, "life_time": 86400, "life_packets": 2**40, "life_bytes": 2**40, "reorder_packets": 9,
    "reorder_ms": 9.0, "offload": False, "mss_clamp": False, "audit": False, "drain_deadline": 5,
    "control": "/run/other", "metrics": "127.0.0.1:1", "user": "other", "log_level": "error", "low_latency": True,
    "local_id": "a.example", "remote_id": "b.example", "ike_proposals": ["aes256gcm16-prfsha384-ecp384"],
    "esp_proposals": ["aes256gcm16-esn"], "ike_rekey_time": 60, "reauth_time": 60, "grace": 1, "dpd_delay": 1,
    "start_action": "none", "mobility": "none", "ike_port": 501, "secret": "/other", "certificate": "/other",
    "key": "/other", "authorities": "/other", "remote_cert": "/other", "crls": ["/other"], "crl_policy": "strict",
    "tls_certificates": True, "cert_grace": 60,
    "beacon": "10.1.0.1:4791", "probe_key": "/other",
}  # fmt: skip
NEEDS: dict[str, dict[str, Any]] = {
    "shared_port": {"payload": "esp"}, "esn": {"keys": LAB}, "crl_policy": {"crls": ["/crl"]},
    "life_bytes": {"rekey_bytes": 2**20},
}  # fmt: skip
SOURCES: dict[type[Strict], dict[str, Any]] = {PskKeys: PSK, CertificateKeys: CERT, LabKeys: LAB}


@pytest.mark.parametrize("key", [key for key in Peering.model_fields if key != "keys"])
def test_a_peering_s_key_is_what_it_is_marked_as(key: str) -> None:
    before = vpc2(**NEEDS.get(key, {}))
    found = steps(config(before), config({**before, key: OTHERS[key]}))
    assert found
    assert any(isinstance(step, Close) for step in found) == (change_of(Peering, key) == "restart")


@pytest.mark.parametrize("key", sorted(tuning.KEYS))
def test_what_demux_and_members_follow_is_on_their_board(key: str) -> None:
    before = vpc2(**NEEDS.get(key, {}))
    one, other = (Peering.model_validate(values) for values in (before, {**before, key: OTHERS[key]}))
    assert tuning.Tuning.of(one) != tuning.Tuning.of(other)


@pytest.mark.parametrize(
    ("model", "key"), [(model, key) for model in SOURCES for key in model.model_fields if key != "source"]
)
def test_a_key_of_the_keys_is_what_it_is_marked_as(model: type[Strict], key: str) -> None:
    keys = SOURCES[model] | NEEDS.get(key, {})
    found = steps(config(vpc2(keys=keys)), config(vpc2(keys={**keys, key: OTHERS[key]})))
    if change_of(model, key) == "restart":
        assert [type(step) for step in found] == [Guard, Close, Open]
    else:
        assert [type(step) for step in found] == [Secrets, Follow]


@pytest.mark.parametrize("key", Gateway.model_fields)
def test_a_key_of_the_gateway_is_what_it_is_marked_as(key: str) -> None:
    alike = {"beacon": "10.1.0.1:4790", "probe_key": "/probe.key"}  # which go together
    before, after = config(vpc2(), **alike), config(vpc2(), **{**alike, key: OTHERS[key]})
    if change_of(Gateway, key) == "live":
        assert len(steps(before, after)) == 1
    else:
        with pytest.raises(UserError, match=rf"^gateway\.{key} is .* and cannot become .* while fwd runs: leave it"):
            steps(before, after)


def test_what_is_left_of_a_plan_is_what_the_next_one_has() -> None:
    """A peering that could not be opened is not in force: it is opened, and nothing else is done."""
    wanted = config(vpc2(audit=False), vpc3())
    left = plan(InForce(wanted.gateway, {"vpc2": Peering.model_validate(vpc2(audit=False))}), wanted)
    assert [type(step) for step in left] == [Guard, Open]


def test_where_nothing_is_sent_another_far_gateway_gets_the_ports_that_are_configured() -> None:
    before, after = config(vpc2()), config(vpc2(remote_addrs=B))
    in_force = InForce(before.gateway, {"vpc2": before.peering[0]}, idle=frozenset({"vpc2"}))
    assert [str(step) for step in plan(in_force, after)] == [
        "vpc2: guard 10.2.0.0/16",
        "vpc2: close, to set up anew: remote_addrs",
        "vpc2: open, with 2 members to 192.0.2.3",
    ]
