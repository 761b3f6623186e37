"""What an operator sees of a real fleet in a browser while something goes wrong, and after."""

from __future__ import annotations

import re
import signal
import time

import pytest
from browsekit import chromium_runs, looking
from clusterkit import Cluster, MakeFleet, until
from playwright.sync_api import expect

SHOWN_S = 20.0  # 3 s, and a busy machine's delay
# When the page says so first, by the clock that the test has, too.
NOTE = """labels => {
  window.seen = {};
  const look = () => labels.forEach(one => {
    if (!(one in seen) && document.querySelector(`[aria-label^="${one}"]`)) seen[one] = Date.now() / 1000;
  });
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


@pytest.mark.alone
@pytest.mark.timeout(240)
def test_a_gateway_that_freezes_under_load_is_seen_with_its_line_and_why_and_comes_back(fleets: MakeFleet) -> None:
    lab: Cluster = fleets(2, 2, peered=True)
    token = str(lab.api.create("tokens", role="viewer")["token"])
    with lab.load(), chromium_runs() as chromium, looking(chromium, lab.url, token) as page:
        until(lambda: min(lab.records(host) for host in lab.fleet.gateways) > 200, "traffic over all pairs")
        expect(page.get_by_label(re.compile("^peering .*, up, 2 of 2 pairs"))).to_be_visible()
        down = ["gateway gw2, down", "peering one-two, degraded, 1 of 2 pairs"]
        page.evaluate(NOTE, down)

        lab.signal("gw2", signal.SIGSTOP)
        at = time.time()
        try:
            for label in down:
                expect(page.get_by_label(re.compile(f"^{label}"))).to_be_visible()
            seen = page.evaluate("seen")
            print({label: round(seen[label] - at, 1) for label in down})
            assert max(seen.values()) - at < SHOWN_S
            panel = page.get_by_role("region", name="Why gateway gw2 is down")
            expect(panel).to_contain_text("no answer to its probes")
        finally:
            lab.signal("gw2", signal.SIGCONT)
        expect(page.get_by_label("gateway gw2, up", exact=True)).to_be_visible()
        expect(page.get_by_label(re.compile("^peering one-two, up, 2 of 2 pairs"))).to_be_visible()

        # What real gateways tell of their members.
        page.goto("/gateways/gw1")
        rows = page.get_by_role("region", name="Members").locator("tbody tr")
        expect(rows.first).to_contain_text("0x")
        expect(rows.first).to_contain_text("bit/s")
