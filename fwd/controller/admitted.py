"""Whether gateways would take what they are to do: pure. It is asked before a change is made, by the gateway's own
words (link/admit.py), as one that lets everything be set; what its own file says less, it says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from fwd.link.admit import admit
from fwd.link.document import DocumentError
from fwd.model.config import Config
from fwd.model.controller import Controller
from fwd.model.keys import CertificateKeys

_LOCAL: Final = Config(
    controller=Controller(subnets=[ip_network("0.0.0.0/0"), ip_network("::/0")], members_max=64, port_min=1024),
    peering=[],
)
_ANY: Final = Path("/any")
_KEYS: Final = CertificateKeys(source="cert", certificate=_ANY, key=_ANY, authorities=_ANY)


def why_refused(before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]) -> str:
    """Say which gateway would refuse what is another for it now, and why; empty: none would. Both are contents by
    gateway; what stays is not looked at, so that whatever is there already can be mended piece by piece.
    """
    for name, content in after.items():
        if before.get(name) != content:
            try:
                admit(_LOCAL, _KEYS, content)
            except DocumentError as error:
                return f"gateway {name} would refuse it: {error}"
    return ""
