"""`nextclick replay` and `nextclick simulate`: clicks from a file, or from a shop that does not exist."""

from __future__ import annotations

import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

import click

from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.files.click_formats import parse_columns

if TYPE_CHECKING:
    from stream_app.settings import Settings
    from stream_app.tools.replay import ReplayReport

_REPORT = click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures as JSON, too.",
)


class Moment(click.ParamType):
    """An event time: ISO 8601 (UTC where no zone is given), or milliseconds since 1970."""

    name = "time"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int) or re.fullmatch(r"\d{12,14}", value):
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time: write e.g. 2014-04-08, 2014-04-08T12:00:00Z or 1396958400000",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)


class Speed(click.ParamType):
    name = "speed"

    def convert(
        self, value: str | float | None, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value is None or value == "max":
            return None
        try:
            speed = float(value)
        except ValueError:
            speed = 0.0
        if not 0 < speed < 1e9:
            self.fail(f"{value!r}: write a number above 0 (1 is as recorded), or max", param, ctx)
        return speed


class ColumnMapping(click.ParamType):
    """`session_id=visitor,item_id=sku`"""

    name = "mapping"

    def convert(
        self,
        value: str | dict[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        try:
            return parse_columns(value)
        except ConfigurationError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--speed", type=Speed(), default="1", show_default=True, help="1: as recorded; 60; or max."
)
@click.option("--format", "kind", help="Format of the file [default: told by its content].")
@click.option(
    "--columns",
    type=ColumnMapping(),
    metavar="OURS=COLUMN,...",
    help="CSV, TSV, Parquet: which column is which, e.g. session_id=visitor,item_id=sku,event_time=ts.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Send so many clicks only.")
@click.option("--from", "start_ms", type=Moment(), help="Only clicks from this event time on.")
@click.option("--until", "end_ms", type=Moment(), help="Only clicks before this event time.")
@click.option(
    "--shift-to-now",
    is_flag=True,
    help="Move event times so that the first is now (above speed 1 they run ahead of the clock).",
)
@click.option(
    "--order",
    type=click.Choice(["time", "file"]),
    default="time",
    show_default=True,
    help="By event time, or as they stand in the file.",
)
@_REPORT
@with_settings("kafka.bootstrap_servers")
def replay(
    settings: Settings,
    file: Path,
    speed: float | None,
    kind: str | None,
    columns: dict[str, str] | None,
    limit: int | None,
    start_ms: int | None,
    end_ms: int | None,
    shift_to_now: bool,
    order: str,
    report: Path | None,
) -> None:
    """Send a recorded click file into the click topic, keyed by session.

    Formats: JSON lines, CSV, TSV, Parquet, RetailRocket events.csv, Yoochoose .dat, Diginetica, OTTO
    .jsonl; gzip allowed.  Event times stay as recorded unless --shift-to-now.

    \b
    Examples:
      nextclick replay clicks.jsonl --speed 60
      nextclick replay log.csv.gz --speed max --columns session_id=visitor,item_id=sku,event_time=ts
      nextclick replay clicks.parquet --speed max --from 2014-04-08 --report replay.json
    """
    from stream_app.tools import replay as tool  # noqa: PLC0415 - keeps --help quick
    from stream_app.tools.reports import write_report  # noqa: PLC0415

    plan = tool.ReplayPlan(
        path=file,
        speed=speed,
        format=kind,
        columns=columns or {},
        order="file" if order == "file" else "time",
        start_ms=start_ms,
        end_ms=end_ms,
        limit=limit,
        shift_to_now=shift_to_now,
    )
    with _progress() as progress:
        result = tool.replay(settings, plan, progress)
    if report is not None:
        write_report(report, result)
    how = "" if result.finished else ", stopped"
    click.echo(
        f"{result.clicks:,} clicks in {result.seconds:.1f} s, "
        f"{result.clicks_per_second:,.0f}/s{how}"
    )


@click.command()
@click.option(
    "--clicks-per-second",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="Mean rate of all clicks.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="End after so long [default: until Ctrl-C].",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which shop."
)
@click.option(
    "--bad-share",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Bad clicks besides, as a share of the good ones: something for the dead letters.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write JSON lines to this file instead, as fast as it goes (needs --seconds).",
)
@click.option("--start", "start_ms", type=Moment(), help="Event time of the start [default: now].")
@_REPORT
@with_settings("kafka.bootstrap_servers")
def simulate(
    settings: Settings,
    clicks_per_second: float,
    seconds: float | None,
    seed: int,
    bad_share: float,
    out: Path | None,
    start_ms: int | None,
    report: Path | None,
) -> None:
    """Let visitors of a simulated shop click, endlessly, into the click topic.

    2,000 items with names, visitors with tastes and intent, drifting popularity, new items, carts and
    purchases, a few bots; the same clicks for the same seed and start.  It knows its own
    probabilities, and so says the best hit rate@20 that any model could reach.

    \b
    Examples:
      nextclick simulate --clicks-per-second 200
      nextclick simulate --seconds 3600 --start 2026-01-01 --out clicks.jsonl
    """
    from stream_app.tools import simulate as tool  # noqa: PLC0415 - keeps --help quick

    plan = tool.SimulationPlan(
        clicks_per_second=clicks_per_second,
        seconds=seconds,
        seed=seed,
        bad_share=bad_share,
        out=out,
        start_ms=start_ms,
        report=report,
    )
    tool.simulate(settings, plan, click.echo)


class _Lines:
    """Progress where there is no terminal: a line now and then."""

    INTERVAL_SECONDS = 5.0

    def __enter__(self) -> Self:
        self._next = time.monotonic() + self.INTERVAL_SECONDS
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def begin(self, total: int | None) -> None:
        self._total = total

    def update(self, report: ReplayReport) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self.INTERVAL_SECONDS
            of = f" of {self._total:,}" if self._total else ""
            click.echo(f"{report.clicks:,}{of} clicks, {report.clicks_per_second:,.0f}/s", err=True)


class _Bar:
    """Progress in a terminal."""

    def __enter__(self) -> Self:
        from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
        from rich.progress import (  # noqa: PLC0415
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, total: int | None) -> None:
        self._task = self._bar.add_task("reading", total=total)

    def update(self, report: ReplayReport) -> None:
        when = ""
        if report.last_event_time_ms is not None:
            moment = datetime.fromtimestamp(report.last_event_time_ms / 1000, UTC)
            when = f" {moment:%Y-%m-%d %H:%M:%S}"
        self._bar.update(
            self._task,
            completed=report.clicks,
            description=f"{report.clicks_per_second:,.0f} clicks/s{when}",
        )


def _progress() -> _Bar | _Lines:
    return _Bar() if sys.stderr.isatty() else _Lines()
