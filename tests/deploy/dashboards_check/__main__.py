"""`make dashboards-check`: fill every panel by a real run, and draw them.  Writes build/dashboards.json."""

import json
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from tests.deploy.dashboards_check import drawing
from tests.deploy.dashboards_check.collect import Filled, as_rows, collect
from tests.deploy.dashboards_check.shop import ROOT, Shop

TABLE: Final = ROOT / "build" / "dashboards.json"
SERIES: Final = ROOT / "build" / "dashboards-series.json"


@click.command()
@click.option("--minutes", default=12.0, show_default=True, help="How long the shop is open.")
@click.option("--clicks-per-second", default=100.0, show_default=True)
@click.option("--draw/--no-draw", default=True, help="Draw them, too.")
@click.option(
    "--run/--no-run", default=True, help="Without a run, the series of the last are drawn."
)
def main(minutes: float, clicks_per_second: float, draw: bool, run: bool) -> None:
    """Run nextclick under a simulated shop, and see that every query of every panel finds something.

    \b
    Example:
      python -m tests.deploy.dashboards_check --minutes 5 --no-draw
    """
    missing = (run and Shop.why_not()) or (draw and drawing.why_not())
    if missing:
        raise click.UsageError(missing)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    empty = fill(minutes, clicks_per_second) if run else []
    if draw:
        for picture in drawing.draw_all(SERIES):
            click.echo(f"{picture.relative_to(ROOT)}  {picture.stat().st_size / 1000:.0f} kB")
    sys.exit(1 if empty else 0)


def fill(minutes: float, clicks_per_second: float) -> list[Filled]:
    """Run, write what was found, and return the queries that found nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="nextclick-dashboards-") as directory,
        Shop(Path(directory), clicks_per_second=clicks_per_second) as shop,
    ):
        took = shop.wait_until("the first model is live", lambda: shop.live_version() is not None)
        click.echo(f"the first model is live {took:.0f} s after the shop opened")
        shop.send_junk()
        shop.run_for(60 * minutes / 2)
        shop.restart("worker-2")
        shop.run_for(60 * minutes / 2)
        table, series = collect(shop)
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(json.dumps(as_rows(table), indent=1, ensure_ascii=False) + "\n")
    SERIES.write_text(json.dumps(series))
    for row in table:
        click.echo(f"{row.dashboard:<20} {row.panel:<42} {row.query}  {row.series:>3} series")
    empty = [row for row in table if row.is_empty]
    for row in empty:
        click.echo(f"EMPTY: {row.dashboard}, {row.panel}, {row.query}: {row.expr}")
    click.echo(f"{len(table)} queries, {len(empty)} empty: {TABLE.relative_to(ROOT)}")
    return empty


if __name__ == "__main__":
    main()
