"""Whether hosts would take what they are to do: pure. It is asked before a change is made, by the hosts' own words
(link/admit.py, link/routed.py), as ones that let everything be set; what its own file says less, a host says itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from fwd.link import routed
from fwd.link.admit import admit
from fwd.link.document import DocumentError
from fwd.model.config import Config
from fwd.model.controller import Controller, RouterController
from fwd.model.keys import CertificateKeys
from fwd.model.router import RouterConfig

Contents = Mapping[str, Mapping[str, Any]]  # by host
_ALL: Final = [ip_network("0.0.0.0/0"), ip_network("::/0")]
_GATEWAY: Final = Config(controller=Controller(subnets=_ALL, members_max=64, port_min=1024), peering=[])
_ROUTER: Final = RouterConfig(controller=RouterController(subnets=_ALL))
_ANY: Final = Path("/any")
_KEYS: Final = CertificateKeys(source="cert", certificate=_ANY, key=_ANY, authorities=_ANY)


def why_refused(before: Contents, after: Contents) -> str:
    """Say which gateway would refuse what is another for it now, and why; empty: none would. Both are contents by
    gateway; what stays is not looked at, so that whatever is there already can be mended piece by piece.
    """
    for name, content in after.items():
        if before.get(name) != content:
            try:
                admit(_GATEWAY, _KEYS, content)
            except DocumentError as error:
                return f"gateway {name} would refuse it: {error}"
    return ""


def why_router_refused(before: Contents, after: Contents) -> str:
    """Say which router would refuse what is another for it now, and why; empty: none would."""
    for name, content in after.items():
        if before.get(name) != content:
            try:
                routed.admit(_ROUTER, content)
            except DocumentError as error:
                return f"router {name} would refuse it: {error}"
    return ""
