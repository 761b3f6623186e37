"""How many examples a property is tried with: a quarter in a quick run, all with `--hypothesis-profile full`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No clock: a busy machine is no finding.
FULL, QUICK = "full", "quick"
settings.register_profile(FULL, max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(QUICK, settings.get_profile(FULL), max_examples=25)


def examples(full: int) -> int:
    """Return how many examples stand for `full` of them in the profile that is in force."""
    return full * settings().max_examples // settings.get_profile(FULL).max_examples
