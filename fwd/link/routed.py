"""What a controller may set on a router, by the word of the router's own file: pure.

    local configuration, a document's content ──admit──▶ the spreads that are wanted beside it, or a refusal

From outside come spreads alone, of keys that are named here, the probe key and the seed of the flows' hash. All far
subnets and all gateways must lie in the subnets that the local file gives away. Spreads of the local file stay as they
are, and none of another origin may take their names or subnets. What names a file or a socket cannot be said at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_network
from typing import Any, Final

from pydantic import ValidationError

from fwd.link.admit import first_outside
from fwd.link.document import DocumentError
from fwd.model.controller import RouterController
from fwd.model.mistakes import first_reason
from fwd.model.router import RouterConfig, Spread, Wish

TABLES: Final = frozenset({"spread", "probe_key", "probe_number", "hash_seed", "ca_bundle"})  # of a router's content
_MODELS: Final = {"spread": Spread}


def admit(local: RouterConfig, content: Mapping[str, Any]) -> Wish:
    """Return what the content asks for. Raises DocumentError, one line."""
    assert local.controller is not None
    if strange := sorted(content.keys() - TABLES):
        raise DocumentError(f"it sets {str(strange[0])[:64]!r}, which is the local file's alone")
    try:
        wish = Wish.model_validate({"spread": content.get("spread", []), "hash_seed": content.get("hash_seed")})
    except ValidationError as error:
        raise DocumentError(first_reason(error, _MODELS)) from None
    if why := why_outside(wish, local.controller):
        raise DocumentError(why)
    beside(local, wish)
    return wish


def why_outside(wish: Wish, allowed: RouterController) -> str:
    """Say why a wish is more than the local file gives away; empty if it is not."""
    for spread in wish.spread:
        if outside := first_outside(spread.remote_ts, allowed.subnets):
            return f"spread {spread.name}: remote_ts {outside} is in none of controller.subnets"
        for hop in spread.gateway:
            if outside := first_outside([ip_network(one) for one in hop.addresses], allowed.subnets):
                address = outside.network_address
                return f"spread {spread.name}: gateway {hop.name} ({address}) is in none of controller.subnets"
    return ""


def beside(local: RouterConfig, wish: Wish) -> RouterConfig:
    """Return the local file's configuration and what comes from outside as one. Raises DocumentError, one line."""
    router, seed = local.router, local.router.hash_seed or wish.hash_seed
    try:
        return RouterConfig(
            router=router.model_copy(update={"hash_seed": seed}),
            controller=local.controller,
            spread=[*local.spread, *wish.spread],
        )
    except ValidationError as error:
        raise DocumentError(f"beside what is here: {first_reason(error, _MODELS)}") from None


def understood(content: Mapping[str, Any]) -> Wish:
    """Return those spreads of a content that are some by themselves, whatever is given away; without gateways."""
    found: list[Spread] = []
    for table in content.get("spread", []):
        with suppress(ValidationError):
            found = Wish(spread=[*found, Spread.model_validate({**table, "gateway": []})]).spread
    return Wish(spread=found)


def guarded(local: RouterConfig, kept: Wish) -> Wish:
    """Return of spreads that were in force, and cannot be any more, those that are not the local file's, without
    gateways: what is for their subnets goes nowhere.
    """
    found = Wish()
    for one in kept.spread:
        more = Wish(spread=[*found.spread, one.model_copy(update={"gateway": []})])
        with suppress(DocumentError):
            beside(local, more)
            found = more
    return found
