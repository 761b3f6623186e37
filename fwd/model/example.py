"""The example of a configuration: what `fwd config example` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from fwd.model.tables import TABLES
from fwd.model.words import Strict, change_of

_COMMENT_AT: Final = 35
_KEY: Final = re.compile(r"((?:# )?([a-z_]+) = [^#]*?) *(?:# (.*))?")
_TEXT: Final = """\
# fwd: one gateway's configuration. `fwd config check FILE` tells what is wrong with it.
# While fwd runs: a key that is live may change at once, and no packet is lost. Another sets its peering up anew
# (restart); in [gateway] it waits for a restart of fwd.

[gateway]
control = "/run/fwd/fwd.sock"      # where `fwd status` asks
metrics = "127.0.0.1:9595"         # Prometheus text, /healthz, /readyz; leave out for none
# beacon = "10.1.0.1:4790"         # where routers of this VPC probe (`fwd router`); leave out for none
# probe_key = "/etc/fwd/probe.key" # 32 octets in hexadecimal, as the routers have it; mode 0600
# user = "fwd"                     # children run as fwd, fwd-keyd, fwd-agent; a number: as it and the next two
# low_latency = true              # the host's CPUs do not sleep deeply: more power, less waiting after a pause
log_level = "info"

[[peering]]
name = "vpc2"
local_addrs = "192.0.2.1"          # this gateway's outer address
remote_addrs = "192.0.2.2"         # the far gateway's, or its name; a list of them: several far gateways
local_ts = ["10.1.0.0/16"]         # subnets on this side
remote_ts = ["10.2.0.0/16"]        # subnets on the far side
members = 4                        # worker processes, one ESP tunnel each
payload = "superpacket"            # "esp": plain RFC 4303, for any IPsec peer
port = 4500                        # member i uses UDP port 4500 + i
tun = "fwd0"
# path_mtu = 1500                  # default: that of the outgoing interface
esn = true
replay_window = 1024
rekey_time = "1h"
# life_time = "66m"                # when an SA ends whatever happens; default: 1.1 × rekey_time

[peering.keys]
source = "psk"                     # IKEv2 with a pre-shared key; "cert": with certificates
secret = "/etc/fwd/vpc2.psk"       # mode 0600; 16 or more bytes, or 0x and hex, 0s and base64; as the far side's
# reauth_time = "1d"               # both sides authenticate anew; default: never
# grace = "60s"                    # for which SAs of a secret go on that SIGHUP has changed
# local_id = "gw1.example"         # default: the outer addresses
# remote_id = "gw2.example"
# With certificates, source = "cert", and instead of secret:
# certificate = "/etc/fwd/gw1.pem" # this gateway's, and CAs between it and the root; all files PEM
# key = "/etc/fwd/gw1.key"         # mode 0600
# authorities = "/etc/fwd/ca.pem"  # whom the far gateway's must come from; or remote_cert, its own certificate
# crls = ["/etc/fwd/ca.crl"]       # what they have revoked; read anew on SIGHUP
# crl_policy = "strict"            # no peer without a CRL of every CA; default: ifpresent
# tls_certificates = true          # take those for TLS servers and clients, as easy-rsa makes them
ike_proposals = ["aes256gcm16-prfsha384-x25519-ecp384"]
esp_proposals = ["aes256gcm16-x25519-ecp384-esn-noesn"]
ike_rekey_time = "4h"
dpd_delay = "10s"
mobility = "port"                  # of the far gateway's address; "address": all, once it answers there; "none"
ike_port = 500
"""


def _marked() -> Iterator[str]:
    """Yield the lines of the example, each key with what a change of it does."""
    models: list[type[Strict]] = []
    for line in _TEXT.splitlines():
        if line.startswith("["):
            models = [model for title, model in TABLES.items() if title.split(",")[0] == line]
        match = _KEY.fullmatch(line)
        model = next((one for one in models if match and match[2] in one.model_fields), None)
        if match is None or model is None:
            yield line
        else:
            comment = f": {match[3]}" if match[3] else ""
            yield f"{match[1].rstrip():{_COMMENT_AT - 1}} # {change_of(model, match[2])}{comment}"


EXAMPLE: Final = "\n".join(_marked()) + "\n"
