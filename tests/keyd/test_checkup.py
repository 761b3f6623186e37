"""What an operator is told of a peering's certificates: one line each, with the file and what to do."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from fwd.cli import _exit_status
from fwd.keyd import checkup, generate
from fwd.keyd.checkup import Checkup, findings
from fwd.model.config import Peering
from fwd.model.keys import CertificateKeys, LabKeys, PskKeys
from fwd.proto.ike.auth import Certificates, Credentials, Psk
from fwd.proto.ike.trust import Crl, Rules, Trusted

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)
CA = generate.authority("CA")
OWN = generate.issue(CA, "gw1.example", 300)
FAR = generate.issue(CA, "gw2.example", 300)


def peering(**keys: Any) -> Peering:
    made = {"certificate": "gw1.pem", "key": "gw1.key", "authorities": "ca.pem", "local_id": "gw1.example"} | keys
    made |= {"remote_id": "gw2.example", "source": "cert"}
    values = {
        "name": "vpc2", "local_addrs": "192.0.2.1", "remote_addrs": "192.0.2.2", "local_ts": ["10.1.0.0/16"],
        "remote_ts": ["10.2.0.0/16"], "keys": CertificateKeys.model_validate(made),
    }  # fmt: skip
    return Peering.model_validate(values)


def mine(own: generate.Pair = OWN, *cas: x509.Certificate, **rules: Any) -> Certificates:
    return Certificates(own.key, (own.certificate,), cas or (CA.certificate,), Rules(**rules))


def crl(ca: generate.Pair, end: datetime.datetime) -> Crl:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject)
    return Crl.of(builder.last_update(NOW - 9 * DAY).next_update(end).sign(ca.key, hashes.SHA256()))


def with_purpose(purpose: x509.ObjectIdentifier) -> generate.Pair:
    old = OWN.certificate
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, OWN.key.public_key(), 7, old.not_valid_before_utc, old.not_valid_after_utc,
        [x509.Extension(e.oid, e.critical, e.value) for e in old.extensions],
    )  # fmt: skip
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return generate.Pair(OWN.key, builder.sign(CA.key, hashes.SHA256()))


def test_nothing_is_said_of_what_is_well() -> None:
    assert findings(peering(), mine(), NOW) == []
    assert findings(peering(), mine(crls=(crl(CA, NOW + DAY),), strict=True), NOW) == []
    assert findings(peering(), mine(pinned=FAR.certificate), NOW) == []
    itself = Certificates(CA.key, (CA.certificate,), (), Rules(pinned=FAR.certificate))
    assert findings(peering(authorities=None, remote_cert="far.pem", local_id="CN=CA"), itself, NOW) == []
    psk = peering().model_copy(update={"keys": PskKeys(source="psk", secret=Path("psk"))})
    assert findings(psk, Psk(b"whatever"), NOW) == []


OTHER = generate.authority("other CA")
CASES: dict[str, tuple[Callable[[], Credentials], str, bool]] = {
    "over": (lambda: mine(generate.issue(CA, "gw1.example", -2)), "gw1.pem: .*is over since 20.*: install", True),
    "soon over": (lambda: mine(generate.issue(CA, "gw1.example", 5)), "gw1.pem: .*ends in 5 days: install", False),
    "for another": (lambda: mine(FAR), "gw1.pem: .*is not for gw1.example: set keys.local_id to .*gw2.example", True),
    "of another purpose": (lambda: mine(with_purpose(ExtendedKeyUsageOID.SERVER_AUTH)),
                           "gw1.pem: .*will not be trusted: its extended key usage is serverAuth", True),
    "of another PKI": (
        lambda: mine(OWN, OTHER.certificate), "gw1.pem: .*ca.pem: .*none of the CAs there: fine only", False),
    "a CA that is over": (
        lambda: mine(OWN, CA.certificate, generate.authority("old CA", -2).certificate), "ca.pem: .*old CA.* is over",
        False),
    "no CA that can be used": (
        lambda: mine(OWN, OWN.certificate, FAR.certificate), "ca.pem: none of the CAs there can be used", True),
    "a gateway's for a CA": (lambda: mine(OWN, OWN.certificate), "is no CA .*make it remote_cert", True),
    "a gateway's beside a CA": (
        lambda: mine(OWN, CA.certificate, OWN.certificate), "is no CA .*make it remote_cert", False),
    "a list that is over": (lambda: mine(crls=(crl(CA, NOW - DAY),)), "crls: that of CN=CA is over since", True),
    "a list of nobody's": (lambda: mine(crls=(crl(OTHER, NOW + DAY),)), "other CA is signed by no CA in ca.pem", False),
    "no list": (lambda: mine(crls=(crl(OTHER, NOW + DAY),), strict=True), "crls: none is that of .CN=CA., and", True),
    "a pinned one that is over": (
        lambda: mine(pinned=generate.issue(CA, "gw2.example", -2).certificate), "far.pem: .*is over since", True),
    "a pinned one of another": (lambda: mine(pinned=OWN.certificate), "far.pem: .*is not for gw2.*set keys.rem", True),
}  # fmt: skip


@pytest.mark.parametrize("what", CASES)
def test_what_is_wrong_is_told_with_the_file_and_what_to_do(what: str) -> None:
    make, text, fault = CASES[what]
    found = findings(peering(remote_cert="far.pem", crls=["crl.pem"]), make(), NOW)
    assert [one.fault for one in found if re.search(text, one.text)] == [fault], found
    assert not any("\n" in one.text for one in found)


def test_one_mistake_is_one_finding() -> None:
    for no_ca in (OWN, FAR):
        assert len(findings(peering(), mine(OWN, no_ca.certificate), NOW)) == 1, "a gateway's certificate for a CA's"


def test_it_is_looked_at_again_every_hour_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    check = Checkup(peering(), mine(generate.issue(CA, "gw1.example", 5)))
    for now in (0.0, 1.0, 3601.0):
        check.tick(now)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert len(check.told()["findings"]) == 1


def test_until_when_a_certificate_that_is_over_counts_is_told() -> None:
    over = generate.issue(CA, "gw1.example", 1)
    far = Trusted(FAR.certificate, over.certificate.not_valid_after_utc)
    within, after = NOW + 3 * DAY, NOW + 9 * DAY
    until = f"until {far.valid_until + 7 * DAY:%Y-%m-%d %H:%M} UTC"
    found = findings(peering(cert_grace="7d"), mine(over), within, far)
    assert [one.fault for one in found] == [False, False]
    assert all(until in one.text for one in found), found
    assert all(one.fault for one in findings(peering(), mine(over), within, far))
    assert [one.fault for one in findings(peering(cert_grace="7d"), mine(over), after, far)] == [True, True]
    assert findings(peering(), mine(), NOW, Trusted(FAR.certificate, FAR.certificate.not_valid_after_utc)) == []


def test_an_end_is_told_when_it_comes_and_not_an_hour_later(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime.datetime):
        off = 0 * DAY

        @classmethod
        def now(cls, tz: Any = None) -> Clock:
            return cls.fromtimestamp((NOW + cls.off).timestamp(), tz)

    monkeypatch.setattr(checkup, "datetime", Clock)
    check = Checkup(peering(cert_grace="7d"), mine())
    check.tick(0.0)
    check.proved(Trusted(FAR.certificate, NOW + DAY / 24 / 60))
    check.tick(1.0)
    assert check.told()["findings"] == []
    Clock.off = DAY / 24 / 30
    check.tick(121.0)
    assert "gw2.example" in check.told()["findings"][0]


def test_the_days_that_are_left_are_told() -> None:
    check = Checkup(peering(), mine())
    assert check.told()["local_days"] == pytest.approx(300, abs=0.1)
    assert (check.told()["remote"], check.told()["remote_days"]) == (None, None)
    check.proved(Trusted(FAR.certificate, NOW + 10 * DAY))
    assert check.told()["remote"] == "CN=gw2.example"
    assert check.told()["remote_days"] == pytest.approx(10, abs=0.1)
    assert Checkup(peering(), Psk(b"whatever")).told() == {}


def test_the_log_names_the_certificate_that_a_peer_has_proved_itself_by() -> None:
    leaf = FAR.certificate
    told = checkup.audit([leaf])
    assert told["certificate"] == "CN=gw2.example"
    assert int(told["serial"], 16) == leaf.serial_number
    assert told["not_after"] == leaf.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert checkup.audit(()) == {}


def test_what_cannot_be_read_is_a_finding() -> None:
    class Odd:
        def __getattr__(self, name: str) -> Any:
            raise x509.UnsupportedGeneralNameType("odd", 3)

    odd = replace(mine(), chain=(Odd(),))  # type: ignore[arg-type]
    assert any(one.fault and "cannot be read" in one.text for one in findings(peering(), odd, NOW))


CONFIG = """
[[peering]]
name = "vpc2"
local_addrs = "192.0.2.1"
remote_addrs = "192.0.2.2"
local_ts = ["10.1.0.0/16"]
remote_ts = ["10.2.0.0/16"]
keys = {{ source = "cert", certificate = "{0}/gw1.example.pem", key = "{0}/gw1.example.key",
         authorities = "{0}/ca.pem", local_id = "{1}", remote_id = "gw2.example" }}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    generate.write_authority(tmp_path, ["gw1.example"])
    (tmp_path / "fwd.toml").write_text(CONFIG.format(tmp_path, "gw1.example").replace(",\n        ", ","))
    return tmp_path


def test_config_check_examines_secrets_when_asked(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = files / "fwd.toml"
    assert _exit_status(["config", "check", "--secrets", str(file)]) == 0
    assert ": OK: " in capsys.readouterr().out
    file.write_text(file.read_text().replace('local_id = "gw1.example"', 'local_id = "gw3.example"'))
    assert _exit_status(["config", "check", str(file)]) == 0
    capsys.readouterr()
    assert _exit_status(["config", "check", "--secrets", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "vpc2" in said.err
    assert "is not for gw3.example" in said.err


def test_config_check_tells_what_cannot_be_opened(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "gw1.example.key").unlink()
    assert _exit_status(["config", "check", "--secrets", str(files / "fwd.toml")]) == 2
    assert "gw1.example.key: private key cannot be opened" in capsys.readouterr().err


def test_a_warning_is_no_refusal(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "ca.pem").write_bytes(OTHER.certificate.public_bytes(Encoding.PEM))
    assert _exit_status(["config", "check", "--secrets", str(files / "fwd.toml")]) == 0
    said = capsys.readouterr()
    assert "vpc2: warning:" in said.err
    assert ": OK: " in said.out


def test_the_labs_secret_is_left_alone() -> None:
    lab = peering().model_copy(update={"keys": LabKeys(source="lab", secret=Path("/none"))})
    assert checkup.examine(lab) == []
