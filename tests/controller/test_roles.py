"""Who may ask: tokens that hosts join with, bearers' tokens, and links' certificates."""

from __future__ import annotations

import dataclasses

import pytest
from cakit import DAY_S, MONTH_S, NOW, new_key
from cryptography.hazmat.primitives.serialization import Encoding

from fwd.controller import ca, roles, tokens

PIN = "ab" * 32
CA = ca.new_authority("fwd", NOW)


def secret_of(text: str) -> str:
    return text.split(".")[1]


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_carries_the_cas_pin_and_is_kept_without_its_secret() -> None:
    text, kept = tokens.new_join_token("a", PIN, NOW)
    word, secret, pin = text.split(".")

    assert (word, len(secret), pin) == ("fwd1", 43, PIN)
    assert secret not in repr(kept)
    assert (kept.vpc, kept.ends_at) == ("a", NOW + 3600)


def test_a_token_is_used_once_and_answered_again_to_the_same_key() -> None:
    text, kept = tokens.new_join_token("a", PIN, NOW)
    used = tokens.use(secret_of(text), "a1", "key 1", [kept], NOW + 1)

    assert (used.used_by, used.used_key) == ("a1", "key 1")
    assert tokens.use(secret_of(text), "a1", "key 1", [used], NOW + 2) == used
    for name, key in (("a1", "key 2"), ("a2", "key 1")):
        with pytest.raises(tokens.TokenError, match="was used by a1"):
            tokens.use(secret_of(text), name, key, [used], NOW + 2)


@pytest.mark.parametrize("used", [False, True])
def test_a_token_ends_after_an_hour(used: bool) -> None:
    text, kept = tokens.new_join_token("a", PIN, NOW)
    if used:
        kept = tokens.use(secret_of(text), "a1", "key", [kept], NOW)
    assert tokens.use(secret_of(text), "a1", "key", [kept], NOW + 3599.9)
    with pytest.raises(tokens.TokenError, match="ended 5 s ago"):
        tokens.use(secret_of(text), "a1", "key", [kept], NOW + 3605)


def test_a_token_that_nobody_made_and_a_bearers_are_not_taken_for_a_hosts() -> None:
    text, kept = tokens.new_bearer_token("admin", NOW)
    for secret in (secret_of(text), "A" * 43, "", "é" * 43):
        with pytest.raises(tokens.TokenError, match="not known here"):
            tokens.use(secret, "a1", "key", [kept], NOW)


# -- bearers ----------------------------------------------------------------------------------------------------------


def test_a_viewer_may_read_and_an_admin_may_write() -> None:
    admin, its = tokens.new_bearer_token("admin", NOW, "root")
    viewer, other = tokens.new_bearer_token("viewer", NOW, "page")
    known = [its, other]

    assert roles.person(f"Bearer {admin}", known, writes=True).name == "root"
    assert roles.person(f"bearer {viewer}", known, writes=False).name == "page"
    with pytest.raises(roles.DeniedError, match="an admin's is needed") as denied:
        roles.person(f"Bearer {viewer}", known, writes=True)
    assert not denied.value.unknown


def test_who_says_nothing_or_has_no_bearers_token_is_unknown() -> None:
    join, its = tokens.new_join_token("a", PIN, NOW)
    bearer, other = tokens.new_bearer_token("admin", NOW)
    for header in (None, "", "Basic eDp5", "Bearer", f"Bearer {join}", f"Bearer fwdb.{secret_of(join)}", bearer):
        with pytest.raises(roles.DeniedError) as denied:
            roles.person(header, [its, other], writes=False)
        assert denied.value.unknown, header


# -- hosts ------------------------------------------------------------------------------------------------------------

KEY = new_key().public_key()
LINK = ca.link_certificate(CA, KEY, ("c1", "gateway", "a1"), NOW, MONTH_S)
DER = LINK.public_bytes(Encoding.DER)
HOSTS = {("gateway", "a1")}


def test_a_host_is_known_by_its_links_certificate() -> None:
    host = roles.host(DER, NOW, set(), HOSTS)
    assert (host.kind, host.name, host.serial, host.ends_at) == ("gateway", "a1", LINK.serial_number, NOW + MONTH_S)


@pytest.mark.parametrize("after_s", [MONTH_S + 1, MONTH_S + 7 * DAY_S])
def test_a_certificate_that_has_ended_holds_for_7_days_more(after_s: float) -> None:
    assert roles.host(DER, NOW + after_s, set(), HOSTS).name == "a1"


@pytest.mark.parametrize(
    ("now", "revoked", "hosts", "why"),
    [
        (NOW - 301, set[int](), HOSTS, "holds in 1 s; here it is 1789999699"),
        (NOW + MONTH_S + 7 * DAY_S + 1, set[int](), HOSTS, "grace of 604800 s is over; here it is"),
        (NOW, {LINK.serial_number}, HOSTS, "revoked"),
        (NOW, set[int](), {("router", "a1"), ("gateway", "a2")}, "no gateway a1"),
    ],
    ids=["not yet", "past its grace", "revoked", "deleted"],
)
def test_a_certificate_that_does_not_hold_is_refused(
    now: float, revoked: set[int], hosts: set[tuple[str, str]], why: str
) -> None:
    with pytest.raises(roles.DeniedError, match=why) as denied:
        roles.host(DER, now, revoked, hosts)
    assert not denied.value.unknown


def test_another_use_of_the_same_ca_is_no_link() -> None:
    ike = ca.ike_certificate(CA, KEY, "a1.gateway.fwd", NOW, MONTH_S).public_bytes(Encoding.DER)
    for der in (ike, CA.certificate.public_bytes(Encoding.DER), b"no certificate"):
        with pytest.raises(roles.DeniedError):
            roles.host(der, NOW, set(), HOSTS)
    with pytest.raises(roles.DeniedError) as denied:
        roles.host(None, NOW, set(), HOSTS)
    assert denied.value.unknown


def test_a_tokens_kept_form_is_a_value() -> None:
    _, kept = tokens.new_join_token("a", PIN, NOW)
    assert tokens.Token(**dataclasses.asdict(kept)) == kept
