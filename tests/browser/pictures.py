"""`make pictures`: every page of a running demo as docs/pictures/ shows it, and the time of 200 clicks.

Takes a demo that runs (`--origin`), or runs one until its third model answers.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import Page, sync_playwright

from tests.browser.browsing import Visitor, launch, visiting
from tests.browser.click_times import click_times

PICTURES: Final = Path(__file__).parents[2] / "docs" / "pictures"
BYTES_MAX: Final = 150_000
MODELS: Final = 3
DEMO_SECONDS_MAX: Final = 3_600
DESKTOP: Final = {"viewport": {"width": 1280, "height": 820}}
PHONE: Final = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@dataclass(frozen=True)
class Picture:
    name: str
    page: str
    scheme: str
    options: dict[str, Any] = field(default_factory=lambda: DESKTOP)
    below: str = ""
    """CSS of what to scroll to first."""


SET: Final = (
    Picture("playground", "playground", "light"),
    Picture("playground-phone", "playground", "dark", PHONE),
    Picture("live", "live", "dark"),
    Picture("live-phone", "live", "light", PHONE),
    Picture("models", "models", "light"),
    Picture("map", "models", "dark", below="[aria-labelledby=map-title]"),
    Picture("session", "sessions", "light"),
)


def take(visitor: Visitor, picture: Picture, out: Path) -> None:
    """A visitor who has clicked a few times looks at the page; small enough for a repository."""
    visitor.open_shop()
    visitor.click_item(3)
    for rank in (2, 5, 1, 8):
        visitor.click_recommended(rank)
    visitor.click_item(11)
    visitor.click_recommended(3)
    page = visitor.page
    if picture.page in READY:
        READY[picture.page](visitor)
    page.mouse.move(0, 0)
    page.evaluate("scrollTo(0, 0)")
    if picture.below:
        page.locator(picture.below).evaluate(
            "(element) => scrollTo(0, element.getBoundingClientRect().top + scrollY - 80)"
        )
    page.wait_for_timeout(1_500)  # what glides has arrived
    path = out / f"{picture.name}.jpg"
    for quality in (88, 80, 70, 60):
        page.screenshot(path=path, type="jpeg", quality=quality)
        if path.stat().st_size < BYTES_MAX:
            break
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def _live(visitor: Visitor) -> None:
    page = visitor.open("live")
    page.locator(".by-model").wait_for()
    page.locator(".feed-row").nth(6).wait_for()


def _models(visitor: Visitor) -> None:
    page = visitor.open("models")
    page.locator("canvas.map").wait_for()
    _choose_popular(page)


def _choose_popular(page: Page) -> None:
    """An item in the thick of it, so that the map shows neighbours."""
    point = page.evaluate(
        "async () => (await (await fetch('/v1/models/live/map?limit=3')).json()).points[0]"
    )
    page.get_by_label("Find an item on the map").fill(point["title"] or point["item_id"])
    page.keyboard.press("Enter")
    page.locator(".chosen").wait_for()
    page.evaluate("document.activeElement.blur()")


def _sessions(visitor: Visitor) -> None:
    page = visitor.open(f"sessions/{visitor.session_id}")
    page.locator(".moment").nth(6).wait_for()


READY: Final[dict[str, Callable[[Visitor], None]]] = {
    "live": _live,
    "models": _models,
    "sessions": _sessions,
}


@contextmanager
def running_demo() -> Iterator[str]:
    """The address of a demo's gateway, once enough models have answered."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "demo"
        command = [sys.executable, "-m", "stream_app", "demo", "--data-dir", str(data)]
        with subprocess.Popen(command, stdout=sys.stderr) as demo:
            try:
                yield _address_of(data / "nextclick.toml", demo)
            finally:
                demo.terminate()


def _address_of(settings_file: Path, demo: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + DEMO_SECONDS_MAX
    while time.monotonic() < deadline:
        if demo.poll() is not None:
            raise SystemExit(f"the demo ended with status {demo.returncode}")
        if settings_file.exists() and settings_file.stat().st_size:
            origin = f"http://127.0.0.1:{_port(settings_file)}"
            if len(_models_of(origin)) >= MODELS:
                return origin
        time.sleep(2)
    raise SystemExit(f"no {MODELS} models within {DEMO_SECONDS_MAX} s")


def _port(settings_file: Path) -> int:
    port: int = tomllib.loads(settings_file.read_text())["gateway"]["port"]
    return port


def _models_of(origin: str) -> list[Any]:
    try:
        with urllib.request.urlopen(f"{origin}/v1/models", timeout=10) as answer:
            models: list[Any] = json.load(answer)["models"]
            return models
    except OSError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--origin", help="a gateway that runs; otherwise a demo is started")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--clicks", type=int, default=200)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.origin:
        _take_all(options.origin, options.out, options.clicks)
        return
    with running_demo() as origin:
        _take_all(origin, options.out, options.clicks)


def _take_all(origin: str, out: Path, clicks: int) -> None:
    with sync_playwright() as playwright, launch(playwright) as browser:
        for picture in SET:
            with visiting(
                browser, origin, color_scheme=picture.scheme, **picture.options
            ) as visitor:
                take(visitor, picture, out)
        with visiting(browser, origin) as visitor:
            print(json.dumps(click_times(visitor, clicks)))


if __name__ == "__main__":
    main()
