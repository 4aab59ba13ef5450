"""How long from a click to the changed list, in a real browser: `python -m tests.browser.click_times`."""

import argparse
import json
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browser.browsing import Visitor, launch, visiting

VISIT = 40
"""Clicks of one visitor.  A worker takes somebody who clicks a hundred times a minute for a robot."""
TIMES = "performance.getEntriesByName('click-to-list').map((entry) => entry.duration)"


def click_times(visitor: Visitor, clicks: int) -> dict[str, Any]:
    """Click through shop and list in turns.  Milliseconds, from the handler of the click until the frame
    that shows the answer was drawn; a page that draws sixty frames a second adds up to 17 of them."""
    page = visitor.open_shop()
    hits = 0
    for n in range(clicks):
        if n and n % VISIT == 0:
            hits += page.locator(".step.is-hit").count()
            page.get_by_role("button", name="Be somebody new").click()
        if n % 2:
            visitor.click_recommended(1 + n % 10)
        else:
            visitor.click_item(n % 40)
        page.wait_for_function(f"() => {TIMES}.length === {n + 1}")
    times = sorted(page.evaluate(TIMES))
    return {
        "clicks": clicks,
        "p50_ms": round(times[len(times) // 2], 1),
        "p99_ms": round(times[int(len(times) * 0.99)], 1),
        "max_ms": round(times[-1], 1),
        "hits": hits + page.locator(".step.is-hit").count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--origin", default="http://127.0.0.1:8480", help="a running gateway")
    parser.add_argument("--clicks", type=int, default=200)
    options = parser.parse_args()
    with (
        sync_playwright() as playwright,
        launch(playwright) as browser,
        visiting(browser, options.origin) as visitor,
    ):
        print(json.dumps(click_times(visitor, options.clicks)))


if __name__ == "__main__":
    main()
