"""An operator's mistakes in a configuration: each is one line that says what is wrong, where, and what to do."""

from __future__ import annotations

import datetime
import math
import os
import re
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fwd.model.config import Config, Peering, load, parse
from fwd.model.example import EXAMPLE
from fwd.model.gateway import Gateway
from fwd.model.keys import CertificateKeys, LabKeys, PskKeys
from fwd.model.mistakes import first_reason
from fwd.model.subnets import SUBNETS_MAX
from fwd.model.words import ConfigError

KEYS: dict[str, dict[str, Any]] = {
    "psk": {"source": "psk", "secret": "/s"},
    "lab": {"source": "lab", "secret": "/s"},
    "cert": {"source": "cert", "certificate": "/c", "key": "/k", "authorities": "/a"},
}
WHOLE: dict[str, Any] = {
    "gateway": {"control": "/run/fwd/fwd.sock"},
    "peering": [
        {
            "name": "vpc2", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2",
            "local_ts": ["10.1.0.0/16"], "remote_ts": ["10.2.0.0/16"], "keys": KEYS["psk"],
        }
    ],
}  # fmt: skip
# Whatever may stand behind a key in TOML.
VALUES = [
    True, 5, -1, 2**70, 1.5, math.nan, math.inf, -math.inf, "word", "", "\0", "a\nb", "x" * 300, "1 000", "true",
    datetime.datetime(2026, 1, 1), datetime.date(2026, 1, 1), datetime.time(1), [], ["word"], [""], [5], [True], [[]],
    ["10.0.0.0/8"] * 300, {}, {"a": 1}, [{}], "10.1.0.0/16", "192.0.2.1:500", "::", "0.0.0.0/0",
]  # fmt: skip
# Words that are pydantic's or Python's and say nothing to an operator.
FOREIGN = re.compile(
    r"Input|Value error|pydantic|should|valid \w+ or|class|validation|NoneType|errno|<|\bField\b", re.I
)


def changed(where: tuple[str | int, ...], value: object, keys: str = "psk") -> dict[str, Any]:
    """A whole configuration in which something else stands in one place."""
    data = deepcopy(WHOLE)
    data["peering"][0]["keys"] = deepcopy(KEYS[keys])
    place: Any = data
    for step in where[:-1]:
        place = place[step]
    place[where[-1]] = value
    return data


PLACES: list[tuple[tuple[str | int, ...], str]] = [
    (("gateway",), "psk"), (("peering",), "psk"), (("peering", 0), "psk"), (("peering", 0, "keys"), "psk"),
    *((("gateway", key), "psk") for key in Gateway.model_fields),
    *((("peering", 0, key), "psk") for key in Peering.model_fields),
    *(
        (("peering", 0, "keys", key), source)
        for source, model in (("psk", PskKeys), ("lab", LabKeys), ("cert", CertificateKeys))
        for key in model.model_fields
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "keys"), PLACES, ids=lambda it: it if isinstance(it, str) else ".".join(map(str, it))
)
def test_whatever_stands_in_a_place_is_taken_or_refused_in_plain_words(where: tuple[str | int, ...], keys: str) -> None:
    refused = 0
    for value in VALUES:
        try:
            Config.model_validate(changed(where, value, keys))
        except ValidationError as error:
            reason = first_reason(error, {"gateway": Gateway, "peering": Peering})
            assert not FOREIGN.search(reason), (value, reason)
            assert len(reason) < 400, reason
            assert reason.startswith(str(where[0])), reason
            refused += 1
    assert refused >= 3


def written(**changes: str) -> str:
    """The smallest configuration in TOML, with some values written otherwise."""
    values = {
        "name": '"vpc2"', "local_addrs": '"192.0.2.1"', "remote_addrs": '"192.0.2.2"',
        "local_ts": '["10.1.0.0/16"]', "remote_ts": '["10.2.0.0/16"]', "source": '"psk"', "secret": '"/etc/fwd/psk"',
    } | changes  # fmt: skip
    keys = [f"{key} = {values.pop(key)}" for key in ("source", "secret")]
    return "\n".join(["[[peering]]", *(f"{key} = {value}" for key, value in values.items()), "[peering.keys]", *keys])


def many(count: int, start: int = 0) -> str:
    return str([f"10.{start + n // 256}.{n % 256}.0/24" for n in range(count)])


MISTAKES = {
    "host bits": (written(remote_ts='["10.2.0.1/16"]'), "did you mean 10.2.0.0/16? (10.2.0.1 alone is 10.2.0.1/32)"),
    "host bits of IPv6": (written(remote_ts='["fd00:2::1/64"]'), "did you mean fd00:2::/64? (fd00:2::1 alone is"),
    "host bits behind a mask": (written(local_ts='["10.1.0.9/255.255.0.0"]'), "did you mean 10.1.0.0/16?"),
    "a long prefix": (written(remote_ts='["10.2.0.0/33"]'), "/33 is no length of a prefix: 0 to 32 is possible"),
    "a range": (written(remote_ts='["10.2.0.0-10.2.0.9"]'), "ranges are not taken: write the subnets"),
    "a blank in a subnet": (written(remote_ts='[" 10.2.0.0/16"]'), "has blanks around it: remove them"),
    "swanctl's dynamic": (written(local_ts='["dynamic"]'), "'dynamic' is not taken: write the subnet"),
    "a number for a subnet": (written(local_ts="[10]"), 'local_ts.0: expected a subnet in quotes, such as "10.2.0.0/'),
    "a text for a list": (written(local_ts='"10.1.0.0/16"'), 'local_ts: expected a list, such as ["…", "…"], not a te'),
    "everything is remote": (
        written(remote_ts='["0.0.0.0/0"]'),
        "local_ts 10.1.0.0/16 and remote_ts 0.0.0.0/0 overlap: 0.0.0.0/0 cannot be one side's, since the other side",
    ),
    "two IP versions that never meet": (
        written(remote_ts='["fd00:2::/64"]'), "local_ts has IPv4 alone and remote_ts IPv6: nothing could talk; name"),
    "everything is local": (written(local_ts='["0.0.0.0/0"]'), "0.0.0.0/0 cannot be one side's"),
    "everything of IPv6 is remote": (
        written(local_ts='["fd00:1::/64"]', remote_ts='["::/0"]'), "overlap: ::/0 cannot be one side's"
    ),
    "too many subnets": (
        written(remote_ts=many(SUBNETS_MAX + 1, 2)),
        "remote_ts: has 256 entries, and 255 is the most: IKE names all of them in one payload",
    ),
    "a number for an address": (written(local_addrs="5"), 'local_addrs: expected an IP address in quotes, such as "'),
    "a subnet for an address": (written(local_addrs='"192.0.2.1/24"'), "is a subnet, and one address is wanted: did y"),
    "an address with a port": (written(remote_addrs='"192.0.2.2:500"'), "has a port, which has a key of its own"),
    "an address in brackets": (written(remote_addrs='"[2001:db8::1]"'), "is in brackets: did you mean 2001:db8::1?"),
    "an address with a blank": (written(remote_addrs='"192.0.2.2 "'), "has blanks around it: did you mean 192.0.2.2?"),
    "an address of a device": (written(local_addrs='"fe80::1%eth0"'), "use one that is not link-local"),
    "any address": (written(local_addrs='"0.0.0.0"'), "0.0.0.0 is no address of one host"),
    "a name": (written(local_addrs='"gw2.example.net"'), "is a name, and names are not looked up here: write the IP"),
    "a name with lab keys": (
        written(remote_addrs='"gw2.example.net"', source='"lab"'), "remote_addrs is a name, which lab keys do not take"
    ),
    "a name for certificates without an identity": (
        written(remote_addrs='"gw2.example.net"', source='"cert"\ncertificate = "/c"\nkey = "/k"\nauthorities = "/a"')
        .replace('secret = "/etc/fwd/psk"', ""),
        "keys.remote_id is missing: whoever answers at a name must show its identity, too",
    ),
    "a name with a port": (written(remote_addrs='"gw2.example.net:500"'), "has a port, which has a key of its own"),
    "one number too many": (written(remote_addrs='"192.0.2.2.5"'), "is no IP address: expected one such as"),
    "true for a number": (written(members="true"), "members: expected a whole number, not true or false"),
    "a text for true": (written(audit='"aus"'), "audit: expected true or false, without quotes, not a text in quotes"),
    "a fraction for a number": (written(members="1.5"), "members: expected a whole number, not a fraction"),
    "too much": (written(members="65"), "members: 64 is the most, and 65 is more"),
    "too little": (written(replay_window="64"), "replay_window: 1024 is the least, and 64 is less"),
    "one bracket": (written().replace("[[peering]]", "[peering]"), "expected [[peering]] in double brackets"),
    "two brackets": ("[[gateway]]\n" + written(), "gateway: expected a table, [gateway] in single brackets, not a l"),
    "a long socket path": (
        f'[gateway]\ncontrol = "/run/{"x" * 103}"\n' + written(),
        "gateway.control: the path has 108 octets, and that of a Unix socket may have 107: choose a shorter one",
    ),
    "a long socket path in few letters": (
        f'[gateway]\ncontrol = "/run/{"ü" * 52}"\n' + written(), "gateway.control: the path has 109 octets"
    ),
    "an empty path": (written(secret='""'), "secret: expected the path of one file"),
    "a large name": (written(name='"VPC"'), "name: expected 1 to 31 small letters, digits and dashes"),
    "EAP": (written(source='"eap"'), "keys.source: use one of lab, psk, cert"),
    "no quotes": (written(name="vpc2"), "not TOML: Invalid value (at line 2, column 8); texts are in quotes"),
    "no quotes around an address": (
        written(local_addrs="192.0.2.1"), "after a statement (at line 3, column 20); texts are in quotes"
    ),
    "no quotes around a subnet": (written(remote_ts="[10.2.0.0/16]"), "array (at line 6, column 18); texts are"),
    "no quotes around a time": (written(rekey_time="1h"), "texts are in quotes"),
    "a table twice": ("[gateway]\n[gateway]\n" + written(), "twice (at line 2, column 9); it stands above already"),
    "keys twice": (written() + "\n[peering.keys]\n", "; it stands above already: write it once"),
    "a key twice": (written().replace("[peering.keys]", 'name = "a"\n[peering.keys]'), "stands above already: write"),
    "no number": (written(reorder_ms="nan"), "reorder_ms: expected a number, not nan"),
    "several of the plural": (
        written().replace("[[peering]]", "[[peerings]]"), "peering: [[peerings]] is unknown: write [[peering]]"
    ),
    "a device of the kernel's": (written(tun='"lo"'), "tun: the kernel has 'lo' for itself: choose another name"),
    "a device that is all of them to sysctl": (written(tun='"all"'), "tun: the kernel has 'all' for itself"),
    "a device that is a directory": (written(tun='".."'), "tun: the kernel has '..' for itself"),
    "IPv4 written as IPv6": (
        written(local_addrs='"::ffff:192.0.2.1"', remote_addrs='"::ffff:192.0.2.2"'),
        "local_addrs: ::ffff:192.0.2.1 is IPv4 written as IPv6: did you mean 192.0.2.1?",
    ),
    "typographic quotes": (
        written(name="“vpc2”"), "not TOML: Invalid value (at line 2, column 8); “ is no straight quote: write"
    ),
    "one typographic quote": (written(name='"vpc2”'), "” is no straight quote"),
    "typographic quotes within": (written(remote_ts='["“10.2.0.0/16”"]'), "“ is no straight quote"),
    "typographic quotes around an address": (written(local_addrs='"‘192.0.2.1’"'), "‘ is no straight quote"),
    "an unseen blank": (written(name='\u00a0"vpc2"'), "there is an unseen character (U+00A0): remove it"),
    "a blank of no width": (written(remote_ts='["10.2.0.0/16\u200b"]'), "there is an unseen character (U+200B)"),
    "several subnets in one text": (
        written(remote_ts='["10.2.0.0/16, 10.3.0.0/16"]'), 'each subnet is a text of its own: ["…", "…"]'
    ),
    "several subnets and blanks": (written(remote_ts='["10.2.0.0/16 10.3.0.0/16"]'), "each subnet is a text of"),
    "several addresses in one text": (
        written(remote_addrs='"192.0.2.2,192.0.2.3"'), 'each address is a text of its own: ["…", "…"]'
    ),
    "keys outside of their peering": (
        written().replace("[peering.keys]", "[keys]"),
        "peering.vpc2.keys: missing, and stands elsewhere: write [peering.keys] for [keys] (line 1) (and 1 more)",
    ),
    "the secret outside of keys": (
        written().replace("[peering.keys]\n", "").replace("source", "[peering.keys]\nsource")
        .replace('secret = "/etc/fwd/psk"', "").replace("[[peering]]", '[[peering]]\nsecret = "/etc/fwd/psk"'),
        "peering.vpc2.keys.secret: missing here: move it from peering.0.secret (line 8) (and 1 more)",
    ),
    "a number of many digits": (written(members="9" * 5000), "a number of too many digits"),
    "very deep": (written(local_ts="[" * 5000), "not TOML: nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_remedy(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(text, "fwd.toml")
    assert expected in str(refusal.value)
    assert "\n" not in str(refusal.value)


TWO = "\n".join([written(), "", "# [[peering]]", written(name='"far-away"', tun='"fwd1"', port="9000")])
PLACED = [
    (TWO.replace("9000", "0"), "peering.far-away.port: 1 is the least, and 0 is less (line 19)"),
    (TWO.replace('source = "psk"', "source = 3", 1), "peering.vpc2.keys.source: use one of lab, psk, cert (line 8)"),
    (TWO.replace('"fwd1"', '"fwd1"\nmembers = 99'), "far-away.members: 64 is the most, and 99 is more (line 19)"),
    (TWO.replace('name = "far-away"', ""), "peering.1.name: missing (line 12)"),
    (TWO.replace('["10.2.0.0/16"]', '[\n"10.2.0.0/16",\n"10.9/99",\n]', 1), "vpc2.remote_ts.1: '10.9/99' is no subnet"),
    (TWO.replace('["10.2.0.0/16"]', '[\n"10.2.0.0/16",\n"10.9/99",\n]', 1), "(line 6)"),
    ('[gateway]\nlog_level = "loud"\n' + TWO, "'info', 'warning', 'error' (line 2)"),
    ('peering = [{name = "vpc2", members = 0}]', "(line 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), PLACED, ids=[row[1] for row in PLACED])
def test_a_mistake_is_told_with_its_peering_and_its_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse(text, "fwd.toml")
    assert expected in str(refusal.value)


def test_a_value_that_is_right_elsewhere_says_where_it_belongs_and_nothing_of_what_it_is() -> None:
    """It may be the secret itself."""
    text = written().replace("[[peering]]", '[[peering]]\nsecrets = "correct horse battery"')
    with pytest.raises(ConfigError) as refusal:
        parse(text, "fwd.toml")
    assert "correct" not in str(refusal.value)


@pytest.mark.parametrize("name", ["gw2.example.net", "gw2", "GW2.Example.NET.", "a-b.c_d.example"])
def test_the_far_gateway_may_have_a_name(name: str) -> None:
    assert parse(written(remote_addrs=f'"{name}"'), "").peering[0].remote_addrs == name.lower().rstrip(".")


def test_the_longest_socket_path_is_taken() -> None:
    assert parse(f'[gateway]\ncontrol = "/run/{"x" * 102}"\n' + written(), "fwd.toml")


# -- files as editors and volumes make them ------------------------------------------------------------------------


def file(directory: Path, data: bytes) -> Path:
    path = directory / "fwd.toml"
    path.write_bytes(data)
    return path


def test_a_byte_order_mark_and_line_ends_of_windows_are_read_over(tmp_path: Path) -> None:
    marked = file(tmp_path, 2 * b"\xef\xbb\xbf" + EXAMPLE.replace("\n", "\r\n").encode())
    assert load(marked) == parse(EXAMPLE, "")


def test_utf_16_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is UTF-16: save it as UTF-8"):
        load(file(tmp_path, EXAMPLE.encode("utf-16")))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (EXAMPLE.encode("utf-32"), "is UTF-32: save it as UTF-8"),
        (EXAMPLE.encode("utf-16-le"), "has octets of zero in it, as UTF-16 has: save it as UTF-8"),
        (EXAMPLE.encode("utf-16-be"), "has octets of zero"),
        (EXAMPLE.encode() + b"\0\0", "has octets of zero"),
    ],
)
def test_other_encodings_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(file(tmp_path, data))


@pytest.mark.parametrize("text", [written(remote_ts='["10.2.0.0/16" "10.3.0.0/16"]'), written(port="04500")])
def test_quotes_are_not_asked_for_where_they_are_or_a_number_is_wanted(text: str) -> None:
    with pytest.raises(ConfigError, match=r"column \d+\)$"):
        parse(text, "fwd.toml")


def test_nobody_waits_for_what_is_written_to_a_fifo(tmp_path: Path) -> None:
    """The supervisor reads the file itself when it is told to."""
    fifo = tmp_path / "fwd.toml"
    os.mkfifo(fifo)
    with pytest.raises(ConfigError, match="peering: missing"):
        load(fifo)


def test_what_is_no_configuration_by_its_size_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="more than 4194304 octets"):
        load(Path("/dev/zero"))


def test_a_configuration_may_be_a_link(tmp_path: Path) -> None:
    """As a volume of Kubernetes has it."""
    data = tmp_path / "..data"
    data.mkdir()
    file(data, EXAMPLE.encode())
    (tmp_path / "fwd.toml").symlink_to("..data/fwd.toml")
    assert load(tmp_path / "fwd.toml") == parse(EXAMPLE, "")


def test_a_link_is_followed_to_where_it_leads_now_and_that_file_is_looked_at(tmp_path: Path) -> None:
    for name, text in (("v1", EXAMPLE), ("v2", EXAMPLE.replace("members = 4", "members = 3"))):
        (tmp_path / name).mkdir()
        file(tmp_path / name, text.encode())
    (tmp_path / "fwd.toml").symlink_to("..data/fwd.toml")
    for name, members in (("v1", 4), ("v2", 3)):
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").rename(tmp_path / "..data")
        assert load(tmp_path / "fwd.toml").peering[0].members == members
    (tmp_path / "v2" / "fwd.toml").chmod(0o666)
    with pytest.raises(ConfigError, match=r"fwd.toml: configuration can be written by others \(mode 0666\)"):
        load(tmp_path / "fwd.toml")


# -- many subnets --------------------------------------------------------------------------------------------------


def test_as_many_subnets_as_a_payload_holds_are_taken() -> None:
    only = parse(written(local_ts=many(SUBNETS_MAX, 20), remote_ts=many(SUBNETS_MAX, 40)), "fwd.toml").peering[0]
    assert (len(only.local_ts), len(only.remote_ts)) == (SUBNETS_MAX, SUBNETS_MAX)


def test_sixty_four_peerings_of_so_many_subnets_are_checked_in_seconds() -> None:
    """Compared pair by pair they would take minutes. CPU time: others may use the machine."""
    text = "\n".join(
        written(
            name=f'"p{n}"', tun=f'"t{n}"', remote_addrs=f'"192.0.2.{n + 2}"', port=str(5000 + 10 * n),
            local_ts='["192.168.0.0/16"]', remote_ts=many(SUBNETS_MAX, 10 + n),
        )
        for n in range(64)
    )  # fmt: skip
    started_s = time.process_time()
    assert len(parse(text, "fwd.toml").peering) == 64
    assert time.process_time() - started_s < 20
    overlapping = text.replace("10.73.254.0/24", "10.10.0.0/25")
    with pytest.raises(ConfigError, match=r"remote_ts 10.10.0.0/24 of p0 and 10.10.0.0/25 of p63 overlap"):
        parse(overlapping, "fwd.toml")
