"""Carries out the steps of a plan that end no process at once: guards, secrets, members, live keys; says what waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from fwd.model.gateway import Gateway
from fwd.supervise import plan
from fwd.supervise.notify import summary
from fwd.supervise.standing import Standing
from fwd.supervise.troubles import Troubles, reason


def follow(
    standing: Standing, steps: Iterable[plan.Step], troubles: Troubles, *, secrets_due: bool
) -> tuple[set[str], set[str]]:
    """Return the peerings that follow, and those for which something went wrong: these stay as they are."""
    followed = set[str]()
    failed = standing.unfollowed = dict[str, str]()
    if secrets_due:
        standing.kept_secrets.clear()  # who has none that can be used says so again
    for step in steps:
        act = _act(standing, step, secrets_due=secrets_due)
        if act is None or step.name in failed:
            continue
        if troubles.apart(step.name, partial(_tell_why_not, failed, step, act)):
            followed.add(step.name)
    return followed - failed.keys(), set(failed)


def behind(standing: Standing) -> dict[str, str]:
    """Return which peerings are open otherwise than is wanted, and why."""
    return {**standing.kept_secrets, **standing.unfollowed}


def late(standing: Standing) -> dict[str, str]:
    """Return which peerings are not as is wanted, those too that cannot be set up yet, and why."""
    return {**behind(standing), **standing.waiting}


def summary_of(standing: Standing) -> str:
    """Return the service manager's line."""
    shared = {name: parts.shared for name, parts in standing.peerings.items()}
    return summary(shared, standing.waiting, behind(standing))


def _tell_why_not(failed: dict[str, str], step: plan.Step, act: Callable[[], None]) -> None:
    """Do what a step says. What keeps it from being done is kept for who asks, for as long as it is not done."""
    try:
        act()
    except Exception as error:
        what = str(step).removeprefix(f"{step.name}: ")
        failed[step.name] = f"{what}, not done yet: {reason(error)}"
        raise


def _act(standing: Standing, step: plan.Step, *, secrets_due: bool) -> Callable[[], None] | None:
    match step:
        case plan.Guard(peering) if peering.name in standing.served():
            return partial(standing.reguard, peering)
        case plan.Secrets(peering) if secrets_due:
            return partial(standing.reopen_secrets, peering)
        case plan.Grow(peering) | plan.Shrink(peering) | plan.Spread(peering):
            return partial(standing.resize, peering, spreads=isinstance(step, plan.Spread))
        case plan.Follow():
            return partial(standing.follow, step)
        case plan.LogLevel(level):
            return partial(standing.log_from, level)
        case plan.LowLatency(wanted):
            return partial(standing.keep_awake, wanted)
        case plan.Metrics(address):
            return partial(standing.serve_metrics, address)
        case plan.Beacon(wanted) if secrets_due or _probed(wanted) != _probed(standing.gateway):
            return partial(standing.serve_beacon, wanted)
        case _:
            return None


def _probed(gateway: Gateway) -> tuple[object, object]:
    return gateway.beacon, gateway.probe_key
