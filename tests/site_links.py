"""`python -m tests.site_links DIRECTORY`: every link of a built site leads somewhere, and nothing is loaded from outside.

Within the site a link must meet a file, and its `#part` an element of that id.  Outside of it nothing is asked
(there may be no network): an address must only look like one.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_OUTSIDE = re.compile(r"https://([a-z0-9-]+\.)+[a-z]{2,}(:\d+)?(/[^\s<>\"]*)?(#[^\s<>\"]*)?")
_EXAMPLE = re.compile(r"http://(localhost|127\.0\.0\.1)(:\d+)?(/.*)?")
_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
"""What a browser fetches by itself; of `link` only some kinds (`_LOADED_LINKS`)."""
_LOADED_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "modulepreload"}


class Page(HTMLParser):
    """What a page links to, loads, and can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids.update(given[name] for name in ("id", "name") if name in given)
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and _LOADED_LINKS & set(given.get("rel", "").split()):
            self.loaded.append(given["href"])
        elif tag in _LOADED and _LOADED[tag] in given:
            self.loaded.append(given[_LOADED[tag]])


def problems(site: Path) -> Iterator[str]:
    """What is wrong with the links of all pages, a line each."""

    @cache
    def page(path: Path) -> Page:
        return Page(path)

    for path in sorted(site.rglob("*.html")):
        where = str(path.relative_to(site))
        # The page for what is not found may be shown at any depth, so its links begin at the root.
        base = site if where == "404.html" else path.parent
        for link in page(path).loaded:
            if urlsplit(link).netloc:
                yield f"{where}: loads {link} from elsewhere: keep a copy in docs/"
        for link in dict.fromkeys([*page(path).links, *page(path).loaded]):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if not (
                    _OUTSIDE.fullmatch(link)
                    or _EXAMPLE.fullmatch(link)
                    or parts.scheme in {"mailto", "data"}
                ):
                    yield f"{where}: {link} is not an address"
                continue
            target = path if not parts.path else _resolve(site, base, unquote(parts.path))
            if not target.is_file():
                yield f"{where}: {link} leads nowhere"
            elif parts.fragment and unquote(parts.fragment) not in page(target).ids:
                yield f"{where}: {link}: that page has no such part"


def _resolve(site: Path, base: Path, link: str) -> Path:
    target = site / link.lstrip("/") if link.startswith("/") else base / link
    return target / "index.html" if target.is_dir() else target


def main() -> None:
    site = Path(sys.argv[1])
    pages = len(list(site.rglob("*.html")))
    found = list(problems(site))
    print("\n".join([*found, f"{site}: {pages} pages, {len(found)} links or parts are wrong"]))
    sys.exit(bool(found) or not pages)


if __name__ == "__main__":
    main()
