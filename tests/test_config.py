"""The configuration: what is accepted, and that everything else is one line with file, key and reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fwd.model.config import Config, load, parse, with_members, without_offload
from fwd.model.example import EXAMPLE
from fwd.model.render import render
from fwd.model.words import ConfigError

KEYS = '[peering.keys]\nsource = "lab"\nsecret = "/etc/fwd/lab.secret"\n'
PSK = '[peering.keys]\nsource = "psk"\nsecret = "/etc/fwd/vpc2.psk"\n'
CERT = (
    '[peering.keys]\nsource = "cert"\ncertificate = "/etc/fwd/gw.pem"\nkey = "/etc/fwd/gw.key"\n'
    'authorities = "/etc/fwd/ca.pem"\n'
)


def peering(drop: str = "", keys: str = KEYS, **changes: str) -> str:
    """One peering in TOML, each change a TOML value; `drop` leaves a key out."""
    values = {
        "name": '"vpc2"',
        "local_addrs": '"192.0.2.1"',
        "remote_addrs": '"192.0.2.2"',
        "local_ts": '["10.1.0.0/16"]',
        "remote_ts": '["10.2.0.0/16"]',
    } | changes
    lines = [f"{key} = {value}" for key, value in values.items() if key != drop]
    return "\n".join(["[[peering]]", *lines, keys])


def other(**changes: str) -> str:
    """A second peering that gets along with the first."""
    apart = {"name": '"vpc3"', "tun": '"fwd1"', "port": "4600", "remote_ts": '["10.3.0.0/16"]'}
    return peering(**(apart | {"remote_addrs": '"192.0.2.3"'} | changes))


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, "fwd.toml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("fwd.toml: ")
    return line


# -- what is accepted ------------------------------------------------------------------------------------------


def test_the_example_is_accepted() -> None:
    config = parse(EXAMPLE, "example")
    assert config.peering[0].members == 4
    assert config.peering[0].rekey_time == 3600


def test_the_smallest_configuration_has_the_documented_defaults() -> None:
    only = parse(peering(), "fwd.toml").peering[0]
    assert (only.members, only.payload, only.port, only.tun) == (4, "superpacket", 4500, "fwd0")
    assert (only.esn, only.replay_window, only.reorder_packets, only.reorder_ms) == (True, 1024, 3, 2.0)
    assert (only.offload, only.mss_clamp, only.path_mtu, only.tun_mtu) == (True, True, None, None)


def test_ike_has_the_documented_defaults() -> None:
    for keys in (PSK, CERT):
        ike = parse(peering(keys=keys), "fwd.toml").peering[0].ike
        assert ike is not None
        assert (ike.local_id, ike.remote_id, ike.ike_port) == (None, None, 500)
        assert (ike.ike_rekey_time, ike.dpd_delay) == (4 * 3600, 10)
        assert ike.ike_proposals[0].startswith("aes256gcm16-prfsha384-x25519")
        assert "esn-noesn" in ike.esp_proposals[0]
    assert parse(peering(), "fwd.toml").peering[0].ike is None


def test_ipv6_inside_and_outside_is_accepted() -> None:
    text = peering(
        local_addrs='"2001:db8::1"', remote_addrs='"2001:db8::2"',
        local_ts='["10.1.0.0/16", "fd00:1::/32"]', remote_ts='["10.2.0.0/16", "fd00:2::/32"]',
    )  # fmt: skip
    assert len(parse(text, "fwd.toml").peering[0].remote_ts) == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ('"90"', 90), ('"90s"', 90), ('"60m"', 3600), ('"4h"', 14400),
                          ('"1d"', 86400), ('"10 m"', 600)],
)  # fmt: skip
def test_times_are_written_as_in_swanctl(text: str, seconds: int) -> None:
    assert parse(peering(rekey_time=text), "fwd.toml").peering[0].rekey_time == seconds


def test_a_far_gateway_is_inside_its_subnets_only_if_the_file_says_so() -> None:
    inside = {"remote_addrs": '"10.2.0.9"'}
    with pytest.raises(ConfigError, match="native = true leads its own packets past the tunnel"):
        parse(peering(**inside), "fwd.toml")
    assert parse(peering(**inside, native="true"), "fwd.toml").peering[0].native


def test_several_peerings_live_side_by_side() -> None:
    assert len(parse(peering() + other(), "fwd.toml").peering) == 2


def test_ports_that_touch_do_not_overlap() -> None:
    assert parse(peering(members="4") + other(port="4504"), "fwd.toml")
    assert parse(peering(port="4504") + other(port="4500", members="4"), "fwd.toml")


def test_the_same_ports_on_another_address_are_accepted() -> None:
    assert parse(peering() + other(port="4500", local_addrs='"192.0.2.9"'), "fwd.toml")


@pytest.mark.parametrize("metrics", ["127.0.0.1:9595", "[::1]:9595"])
def test_metrics_take_an_address_and_a_port(metrics: str) -> None:
    assert parse(f'[gateway]\nmetrics = "{metrics}"\n' + peering(), "fwd.toml").gateway.metrics == metrics


# -- what is refused -------------------------------------------------------------------------------------------

WRONG = {
    "unknown key": (peering(colour='"red"'), "peering.vpc2.colour: unknown key"),
    "unknown table": ("[gatway]\n" + peering(), "gatway: unknown key"),
    "unknown gateway key": ("[gateway]\nusr = 1\n" + peering(), "gateway.usr: unknown key"),
    "unknown keys key": (peering(keys=KEYS + "x = 1\n"), "peering.vpc2.keys.x: unknown key"),
    "no peering": ("", "peering: missing"),
    "no peerings": ("peering = []", "peering: "),
    "no name": (peering(drop="name"), "peering.0.name: missing"),
    "no keys": (peering(keys=""), "peering.vpc2.keys: missing"),
    "no such source": (peering(keys='[peering.keys]\nsource = "x"\n'), "keys.source: use one of lab, psk, cert"),
    "no source": (peering(keys="[peering.keys]\n"), "peering.vpc2.keys.source: missing"),
    "no pre-shared key": (peering(keys='[peering.keys]\nsource = "psk"\n'), "peering.vpc2.keys.secret: missing"),
    "no certificate": (peering(keys=CERT.replace("certificate", "certificat")), "vpc2.keys.certificate: missing"),
    "an old cipher": (
        peering(keys=PSK + 'ike_proposals = ["aes256-sha256-modp2048"]\n'),
        "peering.vpc2.keys.ike_proposals: proposal 'aes256-sha256-modp2048': 'aes256' is not known",
    ),
    "no PRF": (
        peering(keys=PSK + 'ike_proposals = ["aes256gcm16-x25519"]\n'),
        "peering.vpc2.keys.ike_proposals: proposal 'aes256gcm16-x25519': PRF is missing",
    ),
    "a name with a line end": (
        peering(keys=PSK + 'local_id = "gw1.example\\n"\n'), "peering.vpc2.keys.local_id: identity 'gw1.example\\n'"
    ),
    "half an octet of a key id": (
        peering(keys=PSK + 'remote_id = "@#abc"\n'), "peering.vpc2.keys.remote_id: identity '@#abc'"
    ),
    "IKE's port is a member's": (
        peering(port="498", keys=PSK), "peering.vpc2: port 500 is IKE's (keys.ike_port) and a member's"
    ),
    "no secret": (peering(keys='[peering.keys]\nsource = "lab"\n'), "peering.vpc2.keys.secret: missing"),
    "other keys": (peering(keys=KEYS.replace("lab", "ike", 1)), "peering.vpc2.keys.source: "),
    "bad name": (peering(name='"VPC 2"'), "peering.0.name: "),
    "bad address": (peering(local_addrs='"192.0.2"'), "peering.vpc2.local_addrs: "),
    "bad subnet": (peering(remote_ts='["10.2.0.0/33"]'), "peering.vpc2.remote_ts.0: "),
    "host bits": (peering(local_ts='["10.1.0.1/16"]'), "peering.vpc2.local_ts.0: "),
    "no subnet": (peering(local_ts="[]"), "peering.vpc2.local_ts: "),
    "no member": (peering(members="0"), "peering.vpc2.members: "),
    "too many members": (peering(members="65"), "peering.vpc2.members: "),
    "unknown payload": (peering(payload='"gre"'), "peering.vpc2.payload: "),
    "port zero": (peering(port="0"), "peering.vpc2.port: "),
    "ports past the end": (peering(port="65533"), "peering.vpc2: port + members passes 65535"),
    "long device name": (peering(tun='"fwd0123456789012"'), "peering.vpc2.tun: "),
    "device name with a slash": (peering(tun='"a/b"'), "peering.vpc2.tun: "),
    "small window": (peering(replay_window="64"), "peering.vpc2.replay_window: "),
    "small MTU": (peering(path_mtu="500"), "peering.vpc2.path_mtu: "),
    "bad time": (peering(rekey_time='"soon"'), "peering.vpc2.rekey_time: expected a time such as"),
    "negative time": (peering(rekey_time="-1"), "peering.vpc2.rekey_time: "),
    "long time": (peering(rekey_time='"8d"'), "peering.vpc2.rekey_time: "),
    "late soft limit": (peering(rekey_packets="4294967295"), "peering.vpc2.rekey_packets: "),
    "no wait": (peering(reorder_ms="0"), "peering.vpc2.reorder_ms: "),
    "versions mixed": (peering(remote_addrs='"2001:db8::2"'), "peering.vpc2: local_addrs and remote_addrs are of diff"),
    "same address": (peering(remote_addrs='"192.0.2.1"'), "peering.vpc2: local_addrs and remote_addrs are the same"),
    "one version alone": (peering(remote_ts='["10.9.0.0/16", "::/0"]'), "::/0: with no IPv6 subnet in local_ts"),
    "loopback": (peering(remote_ts='["127.0.0.0/8"]'), "remote_ts 127.0.0.0/8: loopback addresses are not routed"),
    "link-local": (peering(local_ts='["169.254.7.0/24"]'), "local_ts 169.254.7.0/24: link-local"),
    "multicast": (peering(remote_ts='["224.0.0.0/4"]'), "remote_ts 224.0.0.0/4: multicast"),
    "mapped": (peering(remote_ts='["::ffff:10.9.0.0/112"]'), "IPv4-mapped addresses are not routed"),
    "everybody": (peering(remote_addrs='"255.255.255.255"'), "255.255.255.255 is no address of one host"),
    "overlap": (peering(remote_ts='["10.1.2.0/24"]'), "local_ts 10.1.0.0/16 and remote_ts 10.1.2.0/24 overlap"),
    "gateway inside": (peering(remote_ts='["192.0.2.0/24"]'), "vpc2: remote_ts 192.0.2.0/24 contains a gateway"),
    "this gateway inside": (
        peering(native="true", remote_ts='["192.0.2.0/24"]'), "contains a gateway's own outer address, 192.0.2.1",
    ),
    "same names": (peering() + other(name='"vpc2"'), "two peerings are named vpc2"),
    "same device": (peering() + other(tun='"fwd0"'), "peerings vpc2 and vpc3 share the TUN device fwd0"),
    "same ports": (peering() + other(port="4503"), "peerings vpc2 and vpc3 share UDP port 4503 on 192.0.2.1"),
    "same subnets": (peering() + other(remote_ts='["10.2.9.0/24"]'), "remote_ts 10.2.0.0/16 of vpc2 and 10.2.9.0/24"),
    "bad metrics": ('[gateway]\nmetrics = "everywhere"\n' + peering(), "gateway.metrics: "),
    "bad log level": ('[gateway]\nlog_level = "loud"\n' + peering(), "gateway.log_level: "),
    "metrics at no port": ('[gateway]\nmetrics = "127.0.0.1:99999"\n' + peering(), "expected ADDR:PORT"),
    "metrics at no address": ('[gateway]\nmetrics = "999.0.0.1:9595"\n' + peering(), "expected ADDR:PORT"),
    "root": ('[gateway]\nuser = "root"\n' + peering(), "gateway.user: root is not for this"),
    "root's number": ("[gateway]\nuser = 0\n" + peering(), "gateway.user: 0 is not for this"),
    "a user below zero": ("[gateway]\nuser = -1\n" + peering(), "gateway.user: expected the name of a user"),
    "a user without a name": ('[gateway]\nuser = ""\n' + peering(), "gateway.user: expected the name of a user"),
    "true for the user 1": ("[gateway]\nuser = true\n" + peering(), "user: expected a text in quotes, not true or fal"),
    "true for one member": (peering(members="true"), "members: expected a whole number, not true or"),
    "true for a second": (peering(rekey_time="true"), "rekey_time: expected a whole number, not true"),
    "a key of IKE's in the peering": (peering(reauth_time='"1d"'), "unknown key here: it belongs to peering.keys"),
    "a key of the peering in IKE's": (peering(keys=PSK + "life_time = 0\n"), "unknown key here: it belongs to peering"),
    "a certificate's key": (peering(keys=PSK + 'cert_grace = "1d"\n'), 'it belongs to peering.keys, source "cert"'),
    "one letter less": (peering(lif_time='"2h"'), "unknown key: is life_time meant?"),
    "swanctl's word": (peering(keys=CERT + 'cacerts = ["c"]\n'), "unknown key: is authorities meant?"),
    "misspelt": (peering(keys=CERT.replace("certificate", "certs")), "certificate: missing, and certs is unknown"),
    "one path for a list": (peering(keys=CERT + 'crls = "c"\n'), "keys.crls: expected a list"),
    "a list for one path": (peering(keys=CERT + 'remote_cert = ["c"]\n'), "remote_cert: expected the path of one file"),
    "whoever comes": (peering(keys=PSK + 'remote_id = "%any"\n'), "there are no wildcards"),
    "whoever has a name": (peering(keys=PSK + 'remote_id = "*.example"\n'), "there are no wildcards"),
    "not TOML": ("peering = [", "not TOML: "),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named_in_one_line(text: str, expected: str) -> None:
    assert expected in refusal(text)


def test_further_mistakes_are_counted() -> None:
    assert refusal(peering(members="0", port="0", payload='"gre"')).endswith("(and 2 more)")


def test_one_mistake_is_not_counted_twice() -> None:
    assert "more)" not in refusal(peering(local_addrs='"192.0.2"'))


# -- files and options -----------------------------------------------------------------------------------------


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "fwd.toml"
    file.write_text(peering())
    assert load(file) == parse(peering(), "")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file or directory$"):
        load(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fwd.toml"
    file.write_bytes(b"\n\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"fwd\.toml: not UTF-8 text, at line 3: save it as UTF-8$"):
        load(file)


def test_a_mistake_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "fwd.toml"
    file.write_text(peering(members="0"))
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file}: peering.vpc2.members: ")


def test_the_members_option_counts_for_every_peering() -> None:
    config = with_members(parse(peering() + other(), "fwd.toml"), 7)
    assert [p.members for p in config.peering] == [7, 7]


@pytest.mark.parametrize(("members", "reason"), [(0, "members"), (65, "members"), (64, "port + members passes 65535")])
def test_the_members_option_is_checked_again(members: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        with_members(parse(peering(port="65500"), "fwd.toml"), members)
    assert str(caught.value).startswith(f"--members {members}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_members_option_may_make_peerings_overlap() -> None:
    with pytest.raises(ConfigError, match="share UDP port 4504"):
        with_members(parse(peering() + other(port="4504"), "fwd.toml"), 5)


def test_offloads_off_changes_nothing_else() -> None:
    config = parse(peering() + other(), "fwd.toml")
    off = without_offload(config)
    assert not any(p.offload for p in off.peering)
    assert off.model_dump(exclude={"peering": {"__all__": {"offload"}}}) == config.model_dump(
        exclude={"peering": {"__all__": {"offload"}}}
    )


def test_a_configuration_cannot_be_changed_in_place() -> None:
    config: Config = parse(peering(), "fwd.toml")
    with pytest.raises(ValueError, match="frozen"):
        config.peering[0].members = 9


@pytest.mark.parametrize(
    ("mode", "owner", "reason"), [(0o664, 0, "can be written by others"), (0o644, 65534, "user 65534")]
)
def test_a_file_that_others_may_write_or_own_is_refused(tmp_path: Path, mode: int, owner: int, reason: str) -> None:
    """As OpenSSH's StrictModes has it: who writes the configuration has the gateway."""
    path = tmp_path / "fwd.toml"
    path.write_text(EXAMPLE)
    path.chmod(0o644)
    assert load(path).peering
    path.chmod(mode)
    os.chown(path, owner, owner)
    with pytest.raises(ConfigError, match=reason) as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("", "authorities is missing"), ('remote_cert = "p"\ncrls = ["c"]', "they need authorities"),
        ('authorities = "a"\ncrl_policy = "strict"', "takes no peer at all without crls"),
    ],
)  # fmt: skip
def test_certificates_have_something_to_be_held_against(more: str, reason: str) -> None:
    keys = 'source = "cert"\ncertificate = "c"\nkey = "k"\n'
    text = EXAMPLE.partition("[peering.keys]")[0] + "[peering.keys]\n" + keys
    with pytest.raises(ConfigError, match=reason):
        parse(text + more, "f")
    for good in ('authorities = "a"', 'remote_cert = "p"', 'authorities = "a"\ncrls = ["c"]\ncrl_policy = "strict"'):
        assert parse(text + good, "f")


def test_without_extended_sequence_numbers_is_said_in_the_proposals() -> None:
    """The word would mean nothing beside them."""
    with pytest.raises(ConfigError, match="noesn"):
        parse(EXAMPLE.replace("esn = true", "esn = false"), "f")


def two_of_one_pair(first: str, second: str) -> str:
    """Two peerings between the same addresses; what their keys say more."""
    return peering(keys=PSK + first) + other(keys=PSK + second, remote_addrs='"192.0.2.2"')


def test_two_ike_peerings_of_one_pair_of_addresses_differ_in_port_or_identity() -> None:
    reason = refusal(two_of_one_pair("", ""))
    assert "vpc2 and vpc3" in reason
    assert "ike_port" in reason
    assert "local_id" in reason
    assert "ike_port" in refusal(two_of_one_pair("", 'local_id = "192.0.2.1"\nremote_id = "192.0.2.2"\n'))
    parse(two_of_one_pair("", "ike_port = 510\n"), "file")
    parse(two_of_one_pair("", 'local_id = "other.example"\n'), "file")
    parse(two_of_one_pair('remote_id = "a.example"\n', 'remote_id = "b.example"\n'), "file")


def test_peerings_told_apart_by_identity_offer_the_same_for_ike() -> None:
    """What protects IKE is chosen before the peer says who it is."""
    proposals = 'ike_proposals = ["aes128gcm16-prfsha256-x25519"]\n'
    assert "ike_proposals" in refusal(two_of_one_pair("", 'local_id = "other.example"\n' + proposals))
    parse(two_of_one_pair("", "ike_port = 510\n" + proposals), "file")


# -- several far gateways --------------------------------------------------------------------------------------

TWO_FAR = '["192.0.2.2", "192.0.2.3"]'


def test_a_peering_has_one_far_gateway_or_several() -> None:
    one = parse(peering(keys=PSK), "f").peering[0]
    assert [str(far.address) for far in one.fars] == ["192.0.2.2"]
    assert one.towards(one.fars[0]) == one
    two = parse(peering(keys=PSK, remote_addrs=TWO_FAR, members="5"), "f").peering[0]
    legs = [two.towards(far) for far in two.fars]
    assert [str(leg.far) for leg in legs] == ["192.0.2.2", "192.0.2.3"]
    assert [leg.members for leg in legs] == [3, 2]
    assert [leg.remote_id for leg in legs] == ["192.0.2.2", "192.0.2.3"]


def test_each_far_gateway_has_its_own_identity() -> None:
    keys = PSK + 'remote_id = ["a.example", "b.example"]\n'
    two = parse(peering(keys=keys, remote_addrs=TWO_FAR), "f").peering[0]
    assert [two.towards(far).remote_id for far in two.fars] == ["a.example", "b.example"]
    one = parse(peering(keys=PSK + 'remote_id = ["a.example"]\n'), "f").peering[0]
    assert one.remote_id == "a.example"


@pytest.mark.parametrize(
    ("changes", "keys", "reason"),
    [
        ({"remote_addrs": "[]"}, PSK, "remote_addrs: has no entries"),
        ({"remote_addrs": '["192.0.2.2", "192.0.2.2"]'}, PSK, "remote_addrs: 192.0.2.2 stands here twice"),
        ({"remote_addrs": '["192.0.2.2", "192.0.2"]'}, PSK, "remote_addrs: '192.0.2' is no IP address"),
        ({"remote_addrs": '["gw3.example", "GW3.example."]'}, PSK, "remote_addrs: gw3.example stands here twice"),
        ({"remote_addrs": '[["192.0.2.2"], "192.0.2.3"]'}, PSK, "a list within a list"),
        ({"remote_addrs": '["gw3.example", "192.0.2.1"]'}, PSK, "are the same address"),
        ({"remote_addrs": '["gw3.example", "2001:db8::2"]'}, PSK, "different IP versions"),
        ({"remote_addrs": '["gw3.example", "10.2.0.9"]'}, PSK, "contains a gateway's own outer address"),
        ({"remote_addrs": '["gw3.example", "192.0.2.2"]', "members": "1"}, PSK, "members 1 are fewer than the 2 far"),
        ({"remote_addrs": '["192.0.2.2", "2001:db8::2"]'}, PSK, "different IP versions"),
        ({"remote_addrs": '["192.0.2.2", "192.0.2.1"]'}, PSK, "are the same address"),
        ({"remote_addrs": TWO_FAR}, KEYS, "several far gateways need IKE keys"),
        ({"remote_addrs": TWO_FAR, "members": "1"}, PSK, "members 1 are fewer than the 2 far gateways"),
        ({"remote_addrs": TWO_FAR}, PSK + 'remote_id = "a.example"\n', "keys.remote_id is one identity"),
        ({"remote_addrs": TWO_FAR}, PSK + 'remote_id = ["a"]\n', "keys.remote_id has 1 entries, and remote_addrs 2"),
        ({}, PSK + "remote_id = []\n", "remote_id: has no entries"),
        ({}, PSK + "remote_id = [1]\n", "remote_id: expected a text in quotes"),
        ({"remote_addrs": TWO_FAR, "remote_ts": '["192.0.2.3/32"]'}, PSK, "contains a gateway's own outer address"),
    ],
)
def test_far_gateways_that_cannot_be_paired_are_refused(changes: dict[str, str], keys: str, reason: str) -> None:
    assert reason in refusal(peering(keys=keys, **changes))


def test_two_peerings_may_not_share_a_far_gateway_that_cannot_be_told_apart() -> None:
    text = peering(keys=PSK, remote_addrs=TWO_FAR) + other(keys=PSK, remote_addrs='"192.0.2.3"')
    assert "vpc2 and vpc3" in refusal(text)
    parse(text.replace('"192.0.2.3"\n', '"192.0.2.4"\n'), "f")


@pytest.mark.parametrize("far", [TWO_FAR, '["gw3.example", "192.0.2.3"]', '["gw3.example", "gw4.example"]'])
def test_several_far_gateways_are_written_as_they_are_read(far: str) -> None:
    config = parse(peering(keys=PSK + 'remote_id = ["a", "b"]\n', remote_addrs=far), "f")
    assert parse(render(config), "f") == config
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert 'remote_addrs = "192.0.2.2"' in render(parse(peering(keys=PSK), "f"))
