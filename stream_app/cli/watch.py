"""`nextclick watch`: the running stream in a terminal."""

import signal
import threading
from pathlib import Path

import click
from rich.console import Console

from stream_app.cli.options import with_settings
from stream_app.settings import Settings


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="End after so long.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures as JSON at the end.",
)
@with_settings("kafka.bootstrap_servers")
def watch(settings: Settings, seconds: float | None, report: Path | None) -> None:
    """Watch clicks, answers, hits, latency and the hit rate by model, live (Ctrl-C ends it).

    Reads along from now on and disturbs nobody.  An answer is judged by its session's next click.

    \b
    Example:
      nextclick watch
      nextclick watch --seconds 60 --report watch.json
    """
    from stream_app.tools.watch import watch as run  # noqa: PLC0415 - keeps --help quick

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    run(settings, Console(), stop, seconds=seconds, report=report)
