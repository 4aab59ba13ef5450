"""Draws the dashboards with Grafana's own components, in a real browser, light and dark."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright

from tests.deploy.dashboards_check.shop import ROOT

SOURCES: Final = ROOT / "deploy" / "grafana" / "drawing"
WORKSHOP: Final = ROOT / "build" / "drawing"
"""Where the components are installed, 400 MB that git does not see."""
PICTURES: Final = ROOT / "docs" / "pictures"
INSTALL_FLAGS: Final = (
    *("--ignore-scripts", "--legacy-peer-deps", "--no-package-lock"),
    *("--no-audit", "--no-fund"),
)
MODES: Final = ("light", "dark")
WIDTH: Final = 1600
COLOURS: Final = 256
"""In a picture; charts have few, and a palette makes the file a fraction."""
COLOURS_KEPT: Final = 128
"""The most frequent stay as they are, or thin lines would take the colour of thicker ones."""
PICTURE_BYTES_MAX: Final = 300_000
PATIENCE_MS: Final = 600_000
NOWHERE: Final = "--host-resolver-rules=MAP * ~NOTFOUND"
ADDRESS: Final = "http://drawing.test"
"""Nobody listens there: the browser gets every file from `_answer`."""
ICONS: Final = ("/public/build/", WORKSHOP / "node_modules" / "@grafana" / "ui" / "dist" / "public")
PAGE: Final = """<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="drawing.css">
<body style="margin: 0"><div id="root"></div>
"""


def why_not() -> str:
    """What is missing for it, and how to get it; empty where nothing is."""
    for program, package in (("npm", "npm"), ("chromium", "chromium")):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install {package}"
    return ""


def draw_all(series_file: Path, modes: Sequence[str] = MODES) -> Iterator[Path]:
    """A picture of each dashboard in each mode, from what `collect` found."""
    found = json.loads(series_file.read_text())
    _make_components()
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", NOWHERE]
        )
        for mode in modes:
            for uid in found["boards"]:
                picture = PICTURES / f"{uid}-{mode}.png"
                _draw(browser, found, uid, mode, picture)
                yield picture
        browser.close()


def _make_components() -> None:
    """Install Grafana's components and bundle what draws with them, where that is not done yet."""
    WORKSHOP.mkdir(parents=True, exist_ok=True)
    (WORKSHOP / "page.html").write_text(PAGE)
    changed = {source.name for source in SOURCES.iterdir() if _is_new(source)}
    for name in changed:
        shutil.copy(SOURCES / name, WORKSHOP / name)
    npm = ["npm", "--prefix", str(WORKSHOP)]
    if "package.json" in changed or not (WORKSHOP / "node_modules").exists():
        subprocess.run([*npm, "install", *INSTALL_FLAGS], check=True)
    if changed or not (WORKSHOP / "drawing.js").exists():
        (WORKSHOP / "drawing.js").unlink(missing_ok=True)
        subprocess.run([*npm, "run", "--silent", "build"], check=True, cwd=WORKSHOP)


def _is_new(source: Path) -> bool:
    copy = WORKSHOP / source.name
    return not copy.exists() or copy.read_bytes() != source.read_bytes()


def _draw(browser: Browser, found: dict[str, Any], uid: str, mode: str, picture: Path) -> None:
    page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme=mode)  # type: ignore[arg-type] # one of MODES
    page.set_default_timeout(PATIENCE_MS)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.route("**/*", _answer)
    page.goto(f"{ADDRESS}/page.html")
    drawing = {
        "mode": mode,
        "dashboard": found["boards"][uid],
        "titles": [board["title"] for board in found["boards"].values()],
        "series": found["series"][uid],
        "steps": found["steps"][uid],
        "annotations": [one for series in found["annotations"][uid] for one in series],
        "width": WIDTH,
        **{key: found[key] for key in ("from", "to", "step", "window")},
    }
    page.evaluate("drawing => { window.drawing = drawing }", drawing)
    page.add_script_tag(url=f"{ADDRESS}/drawing.js")
    assert not troubles, f"{uid}: {troubles}"
    _settle(page)
    assert not troubles, f"{uid}: {troubles}"
    page.locator("#root > div").screenshot(path=picture)
    page.close()
    compress(picture)


def _answer(route: Route) -> None:
    """From the workshop; Grafana's icons from where its package has them."""
    path = urlsplit(route.request.url).path
    prefix, icons = ICONS
    file = icons / path.removeprefix(prefix) if path.startswith(prefix) else WORKSHOP / path[1:]
    if file.is_file():
        route.fulfill(path=file)
    else:
        route.fulfill(status=404)


def _settle(page: Page) -> None:
    """Until every chart has its canvas, and two frames have been painted."""
    page.wait_for_selector("canvas")
    page.evaluate("() => document.fonts.ready.then(() => undefined)")
    page.evaluate(
        "() => new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 1500))"
    )


def compress(picture: Path) -> None:
    """To a palette of few colours; raises where the file is still too large for a README."""
    with Image.open(picture) as opened:
        full = opened.convert("RGB")
    few = full.quantize(palette=_palette_of(full), dither=Image.Dither.NONE)
    few.save(picture, optimize=True)
    size = picture.stat().st_size
    assert size < PICTURE_BYTES_MAX, f"{picture.name} has {size} bytes"


def _palette_of(full: Image.Image) -> Image.Image:
    found = full.getcolors(full.width * full.height) or []
    kept = sorted(found, reverse=True)[:COLOURS_KEPT]
    others = full.quantize(COLOURS - len(kept), method=Image.Quantize.MAXCOVERAGE).getpalette()
    palette = Image.new("P", (1, 1))
    palette.putpalette([value for _, colour in kept for value in colour] + (others or []))
    return palette
