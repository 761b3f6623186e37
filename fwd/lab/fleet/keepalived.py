"""Two routers of a VPC and one address: Debian's keepalived on each, by VRRP on the LAN.

The first router has the addresses that clients and gateways route to; the second takes them once three advertisements
are missing, one of which comes each 100 ms. Who was away does not take them back.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from fwd.lab.fleet.plan import Fleet
from fwd.lab.world import LabError

_ADVERT_S: Final = 0.1
_PRIORITY: Final = 100


def require() -> None:
    """Refuse a machine without it."""
    if shutil.which("keepalived") is None:
        raise LabError("the command keepalived is missing: install keepalived, or take one router for each VPC")


def configuration(fleet: Fleet, router: str) -> str:
    """Return a router's file."""
    site = fleet.site(router)
    routers = fleet.routers_of(site)
    own, *others = [router, *(one for one in routers if one != router)]

    # Clouds carry no multicast: each names the others. One address on each side, and both go together.
    peers = "\n".join(f"    {fleet.inner(one)[0]}" for one in others)
    shared = list(zip(fleet.applications(site, 1), site.inside(254), strict=True))
    addresses = [f"    {inside} dev inside\n    {lan} dev lan" for inside, lan in shared]
    return f"""global_defs {{
  vrrp_version 3
}}
vrrp_instance vpc{site.number} {{
  state BACKUP
  nopreempt
  interface lan
  track_interface {{
    inside
  }}
  virtual_router_id {site.number}
  priority {_PRIORITY - routers.index(own)}
  advert_int {_ADVERT_S}
  unicast_src_ip {fleet.inner(own)[0]}
  unicast_peer {{
{peers}
  }}
  virtual_ipaddress {{
{addresses[0]}
  }}
  virtual_ipaddress_excluded {{
{addresses[1]}
  }}
}}
"""


def command(config: Path) -> list[str]:
    """Return what runs it, in the foreground, its pid files beside its own."""
    pids = ["-p", str(config.with_suffix(".pid")), "-r", str(config.with_suffix(".vrrp.pid"))]
    return ["keepalived", "-n", "-l", "-P", "-f", str(config), *pids]
