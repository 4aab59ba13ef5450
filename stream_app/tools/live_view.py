"""The live numbers for people: on a terminal a calm picture, elsewhere a plain line now and then."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from stream_app.core.pipeline import Judgement
from stream_app.core.records import NO_MODEL
from stream_app.tools.latencies import percentile
from stream_app.tools.live_numbers import LiveNumbers, SeenClick, VersionQuality
from stream_app.tools.plain_text import printable

REFRESH_SECONDS: Final = 0.5
LINE_SECONDS: Final = 5.0
NEXT_CLICK_SECONDS: Final = 1.2
"""A click stays on the screen for as long as it takes to read four of them."""
CLICKS_SHOWN: Final = 4
VERSIONS_SHOWN: Final = 3
_BAR_WIDTH: Final = 18
_EIGHTHS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")


class Display:
    """Shows `picture()` on a terminal, or says `line()` every few seconds where there is none."""

    def __init__(
        self, console: Console, picture: Callable[[], RenderableType], line: Callable[[], str]
    ) -> None:
        self._console, self._picture, self._line = console, picture, line
        self._live: Live | None = None
        self._next = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, screen=True, auto_refresh=False)
            self._live.__enter__()
        else:
            self._next = time.monotonic() + LINE_SECONDS
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.__exit__(kind, error, trace)

    def tick(self) -> None:
        """Show what is new, if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._live is not None:
            self._next = now + REFRESH_SECONDS
            self._live.update(self._picture(), refresh=True)
        else:
            self._next = now + LINE_SECONDS
            say(self._console, self._line())

    def say(self, text: str) -> None:
        """A line that is news; on a terminal the picture has its own place for it."""
        if self._live is None:
            say(self._console, text)


def say(console: Console, text: str) -> None:
    """A line as it is: no markup, no highlighting, and wrapped only where somebody looks."""
    console.print(Text(text), soft_wrap=not console.is_terminal)


class ClickSample:
    """A few of the many clicks, each shown long enough to be read."""

    def __init__(self) -> None:
        self._shown: deque[SeenClick] = deque(maxlen=CLICKS_SHOWN)
        self._next = 0.0

    def look(self, numbers: LiveNumbers, now: float) -> list[SeenClick]:
        """The newest click every now and then, first; those that judge an answer go before others."""
        if numbers.recent and (now >= self._next or len(self._shown) < CLICKS_SHOWN):
            newest = numbers.recent[-1]
            judging = next((c for c in reversed(numbers.recent) if c.shown_version), newest)
            if not self._shown or judging is not self._shown[0]:
                self._shown.appendleft(judging)
                self._next = now + NEXT_CLICK_SECONDS
        return list(self._shown)


# -- words and numbers -------------------------------------------------------------------------------


def version_label(version: str) -> str:
    return "statistics" if version == NO_MODEL else printable(version)


def hit_rate(judgement: Judgement) -> float | None:
    """Hit rate@20; None before the first judged answer."""
    return judgement.hits / judgement.predictions if judgement.predictions else None


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}".replace("%", " %")


def latency_text(numbers: LiveNumbers, now: float) -> str:
    """`p50 4 ms  p99 12 ms` of the last minute."""
    counts = numbers.latencies.last_minute(now)
    if not counts:
        return "no answers yet"
    return f"p50 {percentile(counts, 0.5):,} ms  p99 {percentile(counts, 0.99):,} ms"


def status_line(numbers: LiveNumbers, now: float, *, best: float | None) -> str:
    """`151 clicks/s  p50 4 ms  p99 12 ms  hit rate@20: statistics 18.9 %, ...-3f2a 27.4 % (70 % of best)`"""
    parts = [f"{numbers.clicks_per_second(now):,.0f} clicks/s", latency_text(numbers, now)]
    rates = []
    for name, _, quality in _shown_versions(numbers, 1):
        rate = hit_rate(quality.live)
        if rate is not None:
            share = f" ({rate / best:.0%} of best)" if best else ""
            rates.append(f"{name} {percent(rate)}{share}")
    if rates:
        parts.append("hit rate@20: " + ", ".join(rates))
    return "  ".join(parts)


def _shown_versions(numbers: LiveNumbers, models: int) -> list[tuple[str, bool, VersionQuality]]:
    """Name, whether it is a model, and figures: what answers without a model, and the newest models.

    Where nothing was answered without one, the first row is plain popularity beside the models.
    """
    newest = [pair for pair in numbers.versions.items() if pair[0] != NO_MODEL][-models:]
    first = numbers.popularity_quality()
    beside = first.popularity is first.live and first.live.predictions > 0
    name = "popularity" if beside else version_label(NO_MODEL)
    models_shown = [(version_label(version), True, quality) for version, quality in newest]
    return [(name, False, first), *models_shown]


# -- the picture -------------------------------------------------------------------------------------


def quality_table(
    numbers: LiveNumbers, *, best: float | None, models: int = VERSIONS_SHOWN
) -> Table:
    """Live hit rate by model version, and of the statistics, against popularity on the same clicks and the best possible."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("answers by", width=21, no_wrap=True)
    table.add_column("judged", width=7, justify="right")
    table.add_column("hit@20", width=6, justify="right")
    table.add_column("", width=_BAR_WIDTH)
    table.add_column("popularity", width=10, justify="right")
    if best:
        table.add_column("of best", width=7, justify="right")
    rows = _shown_versions(numbers, models)
    rates = [rate for _, _, quality in rows if (rate := hit_rate(quality.live)) is not None]
    full = best or max(rates, default=0.0)
    for place, (name, is_model, quality) in enumerate(rows):
        rate = hit_rate(quality.live)
        beside = None if quality.popularity is quality.live else hit_rate(quality.popularity)
        cells: list[RenderableType] = [
            Text(name),
            f"{quality.live.predictions:,}",
            percent(rate),
            Text(bar((rate or 0.0) / full if full else 0.0), "green" if is_model else "yellow"),
            percent(beside),
        ]
        if best:
            cells.append(f"{rate / best:.0%}".replace("%", " %") if rate is not None else "")
        table.add_row(*cells, style="bold" if is_model and place == len(rows) - 1 else "")
    if best:
        table.add_row(
            "best possible", "", percent(best), Text(bar(1.0), "dim"), "", "100 %", style="dim"
        )
    return table


def bar(share: float, width: int = _BAR_WIDTH) -> str:
    """Eighths of a cell, so that a small change is seen.

    >>> bar(0.5, 4), bar(0.3, 4)
    ('██', '█▎')
    """
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def clicks_picture(clicks: Iterable[SeenClick], numbers: LiveNumbers, width: int) -> list[Text]:
    """Two lines a click: what was clicked and whether it had been shown; what is shown now."""
    lines = []
    for click in clicks:
        verdict, style = _verdict(click)
        room = max(width - len(verdict) - 2, 10)
        clicked = printable(numbers.title_of(click.item_id), room)
        line = Text(clicked.ljust(room) + "  ", no_wrap=True)
        lines.append(line.append(verdict, style))
        shown = " · ".join(printable(numbers.title_of(item)) for item in click.answer[:3])
        latency = f"{click.latency_ms:,} ms" if click.answer else ""
        room = max(width - len(latency) - 6, 10)
        answer = f"  → {printable(shown, room) if shown else 'no answer'}"
        lines.append(Text(f"{answer.ljust(width - len(latency) - 1)} {latency}", "dim"))
    return lines


def _verdict(click: SeenClick) -> tuple[str, str]:
    if click.shown_version is None:
        return "first click", "dim"
    if click.hit_rank:
        return f"✓ shown at {click.hit_rank}", "bold green"
    return "not shown", "dim"


def picture(
    title: str,
    facts: str,
    numbers: LiveNumbers,
    sample: ClickSample,
    *,
    console: Console,
    now: float,
    best: float | None = None,
    news: Iterable[str] = (),
) -> RenderableType:
    """All of it, fitted to the terminal; at 80x24 nothing is cut off."""
    width, height = console.size
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text(title, "bold"),
        f"{numbers.clicks_per_second(now):,.0f} clicks/s  {latency_text(numbers, now)}",
    )
    table = quality_table(numbers, best=best)
    news_lines = [Text(printable(line, width), "dim") for line in news]
    rest = height - 5 - table.row_count - len(news_lines) - (2 if news_lines else 0)
    clicks = sample.look(numbers, now)[: max(rest // 2, 0)]
    parts: list[RenderableType] = [head, Text(printable(facts, width), "cyan"), "", table, ""]
    parts += clicks_picture(clicks, numbers, width)
    if news_lines:
        parts += ["", *news_lines]
    return Group(*parts)
