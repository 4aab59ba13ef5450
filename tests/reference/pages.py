"""Pages of `docs/reference` that the code tells itself; committed, and held to the code by a test."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from tests.reference import alerts, commands, http, metrics, records, settings

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "reference"
NOTE = "<!-- written by `python -m tests.readme`; do not edit -->"

PAGES: dict[str, Callable[[], Iterator[str]]] = {
    "commands.md": commands.page,
    "settings.md": settings.page,
    "metrics.md": metrics.page,
    "records.md": records.page,
    "http.md": http.page,
}


@cache
def current() -> dict[Path, str]:
    """Each page as it must be; that of the alerts once there are rules."""
    pages = dict(PAGES)
    if any(alerts.every_alert()):
        pages["alerts.md"] = alerts.page
    return {DIRECTORY / name: _text(page) for name, page in pages.items()}


def write() -> None:
    """Write those anew that are not as they must be."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for path, text in current().items():
        path.write_text(text)


def _text(page: Callable[[], Iterator[str]]) -> str:
    title, *rest = "\n".join(page()).split("\n")
    return "\n".join([title, "", NOTE, *rest]).rstrip() + "\n"
