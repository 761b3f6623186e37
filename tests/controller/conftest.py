"""A controller's API for one test. Leaves out tests of what the environment has not, where it is older than
requirements.lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from apikit import Api

_NEED_FASTAPI = [
    "test_api.py", "test_api_hosts.py", "test_controller_tls.py", "test_controller_program.py", "test_objects.py",
    "test_api_documented.py", "test_link_joins.py", "test_acts.py", "test_door.py",
    "test_upgrade.py", "test_restarts.py", "test_rekey.py", "test_audit_log.py", "test_leaders.py", "test_turns.py",
    "test_shares.py",
    "test_join_replaces.py", "test_many_hosts.py", "test_reaching.py", "test_page.py", "test_page_sign_in.py",
    "test_page_members.py", "test_page_replay.py", "test_page_path.py",
    "test_page_views.py", "test_page_live.py", "test_page_changes.py",
]  # fmt: skip

collect_ignore = [] if find_spec("httpx") else ["test_etcd.py", "test_webhook.py"]
collect_ignore += (
    []
    if find_spec("playwright") and find_spec("jinja2")
    else ["test_page_browser.py", "test_page_cost.py", "test_page_drawn.py"]
)
collect_ignore += [] if find_spec("fastapi") and find_spec("jinja2") else _NEED_FASTAPI


@pytest.fixture
def api() -> Iterator[Api]:
    """A controller with nothing in it, and a clock that a test sets."""
    from apikit import Api

    one = Api()
    try:
        yield one
    finally:
        one.close()
