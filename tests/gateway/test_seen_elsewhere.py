"""One of two gateways seems to be at another address, by a NAT or without one: where the other sends then."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from gwkit import Json, MakePair, Pair, until

NAT, OTHER = "192.0.2.254", "192.0.2.250"  # the router's address towards gw2, and what it may use besides
OWN = "192.0.2.1"  # gw1's
KEYS = {"source": "psk", "dpd_delay": 2}


def translate(pair: Pair, to: str) -> None:
    """What gw1 sends comes to gw2 from this address and other ports; what was translated before is forgotten."""
    rules = f"""flush ruleset
        table ip lab {{
          chain hide {{
            type nat hook postrouting priority srcnat;
            oifname "wan2" meta l4proto udp snat to {to}:20000-30000
          }}
        }}
        """
    pair.topology.run("router", ["nft", "-f", "-"], input=rules)
    forget = "from pyroute2 import NFCTSocket; NFCTSocket().flush()"
    pair.topology.run("router", [sys.executable, "-P", "-c", forget])


def forge(pair: Pair, source: str) -> None:
    """What gw1 sends seems to come from this address; what is sent to it goes where it went."""
    rules = f"""flush ruleset
        table ip lab {{
          chain forge {{
            type filter hook forward priority filter;
            oifname "wan2" meta l4proto udp ip saddr set {source}
          }}
        }}
        """
    pair.topology.run("router", ["nft", "-f", "-"], input=rules)


def behind(pairs: MakePair, **peering: Any) -> Pair:
    """gw1 begins, and is behind the router's NAT."""
    pair = pairs([peering], keys=KEYS, lab={"router": True}, start=False)
    write = pair.write_config

    def write_config(host: str) -> Path:
        path = write(host)
        if host == "gw2":
            text = path.read_text().replace(f'remote_addrs = "{OWN}"', f'remote_addrs = "{NAT}"')
            path.write_text(f'{text}\nremote_id = "{OWN}"\nstart_action = "none"\n')
        return path

    pair.write_config = write_config  # type: ignore[method-assign]
    translate(pair, NAT)
    return pair.start()


def ike_sa(pair: Pair, host: str) -> Json:
    found: Json = until(lambda: pair.peering(host)["ike_sas"], what=f"IKE SA of {host}")[0]
    return found


def peers(pair: Pair, host: str) -> list[str]:
    """To which address each member sends."""
    return [(member["peer"] or "").rpartition(":")[0] for member in pair.peering(host)["members"]]


@pytest.mark.parametrize(
    "peering",
    [{}, {"payload": "esp", "shared_port": True}],
    ids=["a port for each member", "one port"],
)
def test_a_nat_that_changes_its_address_is_followed(pairs: MakePair, peering: dict[str, Any]) -> None:
    pair = behind(pairs, **peering)
    until(lambda: pair.ping("-W", "0.3"), 10.0, "first ping")
    until(lambda: ike_sa(pair, "gw1")["behind_nat"], what="gw1 knows of the NAT")
    until(lambda: ike_sa(pair, "gw2")["peer_behind_nat"], what="gw2 knows of it, too")
    translate(pair, OTHER)
    until(lambda: pair.ping("-W", "0.3"), 20.0, "ping through the other address")
    until(lambda: ike_sa(pair, "gw2")["remote"].startswith(OTHER), what="gw2 shows where it follows")
    until(lambda: OTHER in peers(pair, "gw2"), 20.0, "a member sends to the other address")
    until(lambda: set(peers(pair, "gw2")) <= {OTHER, ""}, 20.0, "none sends to the old one")


def test_a_gateway_without_a_nat_before_it_is_not_followed_to_another_address(pairs: MakePair) -> None:
    """Its packets are taken, wherever they seem to come from; what is sent goes to where it was."""
    pair = pairs([{}], keys=KEYS, lab={"router": True})
    until(lambda: pair.ping("-W", "0.3"), 10.0, "first ping")
    assert not ike_sa(pair, "gw2")["peer_behind_nat"]
    forge(pair, OTHER)
    assert pair.ping(count=5)
    until(lambda: f"{OTHER} port" in pair.log("gw2"), 10.0, "gw2 says that it does not follow")
    assert pair.ping(count=5)
    assert ike_sa(pair, "gw2")["remote"].startswith(OWN)
    assert set(peers(pair, "gw2")) <= {OWN, ""}
