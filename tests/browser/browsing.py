"""A visitor with a real browser: opens pages, and keeps a record of everything that went wrong in them."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect

PATIENCE_MS: Final = 60_000
"""A shared machine may stand still for a while; nothing here is about time."""
PHONE: Final[Mapping[str, Any]] = {
    "viewport": {"width": 360, "height": 740},
    "has_touch": True,
    "is_mobile": True,
}
PAGES: Final = ("playground", "live", "models", "sessions")

expect.set_options(timeout=PATIENCE_MS)


def chromium_path() -> str | None:
    """Chromium or Chrome as the system has it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """A browser that can look up no name: whatever a page wants from outside, it does not get."""
    return playwright.chromium.launch(
        executable_path=chromium_path(),
        args=["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"],
    )


class Visitor:
    """One browser context with one page, at one gateway."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.origin = origin
        self.complaints: list[str] = []
        """Console errors and warnings, uncaught exceptions, requests to anywhere else."""
        context.set_default_timeout(PATIENCE_MS)
        self.page: Page = context.new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self._note_request(request.url))

    def open(self, path: str) -> Page:
        """path: what stands behind `#/`."""
        self.page.goto(f"{self.origin}/#/{path}")
        return self.page

    def open_shop(self) -> Page:
        page = self.open("playground")
        page.locator(".card").first.wait_for()
        return page

    def click_item(self, place: int) -> None:
        """Click the item at this place of the shop, and wait for the list that answers it."""
        self._clicked(self.page.locator(".card button").nth(place))

    def click_recommended(self, rank: int) -> None:
        self._clicked(self.page.locator(".next-item").nth(rank - 1))

    def _clicked(self, button: Any) -> None:
        steps = self.page.locator(".step").count()
        button.click()
        expect(self.page.locator(".step")).to_have_count(steps + 1)
        expect(self.page.locator(".next.is-waiting")).to_have_count(0)

    def listed(self) -> list[str]:
        """Item ids on the list, best first."""
        ids: list[str] = self.page.locator(".next-list li").evaluate_all(
            "rows => rows.map((row) => row.dataset.id)"
        )
        return ids

    @property
    def session_id(self) -> str:
        kept: str = self.page.evaluate("sessionStorage.getItem('nextclick-visit')")
        return kept

    def _note_console(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(f"{message.type}: {message.text}")

    def _note_request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and f"{parts.scheme}://{parts.netloc}" != self.origin:
            self.complaints.append(f"asked for {url}")


@contextmanager
def visiting(browser: Browser, origin: str, **options: Any) -> Iterator[Visitor]:
    """options: of the browser context, e.g. `color_scheme="dark"`."""
    context = browser.new_context(**options)
    try:
        yield Visitor(context, origin)
    finally:
        context.close()
