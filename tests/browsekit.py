"""Debian's Chromium, and somebody who looks at a controller's dashboard with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

AXE = Path(__file__).parent / "controller" / "axe" / "axe.min.js"
SOON_MS = 60_000  # a browser takes seconds for everything where others have the cores
expect.set_options(timeout=SOON_MS)


@contextmanager
def chromium_runs() -> Iterator[Browser]:
    """A browser for as long as it is needed."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def looking(chromium: Browser, url: str, token: str, **how: Any) -> Iterator[Page]:
    """A page of somebody who has signed in; whatever the browser complains of is a fault."""
    context = chromium.new_context(ignore_https_errors=True, base_url=url, **how)
    page = context.new_page()
    page.set_default_timeout(SOON_MS)
    faults: list[str] = []
    page.on("console", lambda one: faults.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda one: faults.append(str(one)))
    page.goto("/")
    page.get_by_label("Bearer token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Map")).to_be_visible()
    page.wait_for_load_state("load")  # with its scripts
    yield page
    context.close()
    # What is said of a controller that does not answer, or goes while it does.
    away = ("Failed to load resource", "htmx: htmx:sse:error", "htmx: htmx:error: Failed to fetch")
    said = [one for one in faults if not one.startswith(away)]
    assert not said, said


def axe(page: Page, *rules: str) -> list[str]:
    """What axe complains of on a page: all that it looks for, or some rules."""
    if not page.evaluate("!!window.axe"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    only = {"runOnly": {"type": "rule", "values": rules}} if rules else {}
    found = page.evaluate("only => axe.run(document, {resultTypes: ['violations'], ...only})", only)
    return [
        f"{one['id']}: {node['target']}: {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"][:3]
    ]
