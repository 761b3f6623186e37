"""The two forms of a burst's stages: a test that asks for `form` runs in each that there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fwd.proto import core

FORMS = ["pure", "compiled"] if core.in_use else ["pure"]


@pytest.fixture(scope="module", params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    """SAs that are made meanwhile are worked on in this form."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "in_use", request.param == "compiled")
        yield request.param
