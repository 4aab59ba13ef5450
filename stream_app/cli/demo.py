"""`nextclick demo`."""

import re
import signal
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from stream_app.cli.options import with_settings
from stream_app.cli.traffic import ColumnMapping
from stream_app.core.errors import ConfigurationError
from stream_app.settings import Settings

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smh]?)")
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}


def _duration(_context: click.Context, parameter: click.Parameter, text: str) -> float:
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or float(match[1]) <= 0:
        flag = parameter.opts[0]
        raise ConfigurationError(f"{flag} {text}: write a duration such as 60s or 5m")
    return float(match[1]) * _SECONDS[match[2]]


def _duration_or_never(
    context: click.Context, parameter: click.Parameter, text: str
) -> float | None:
    return None if text.strip().lower() == "never" else _duration(context, parameter, text)


_above_zero = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--seconds", type=_above_zero, help="End by itself after so long.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the figures as JSON at the end.",
)
@click.option(
    "--clicks-per-second",
    type=_above_zero,
    default=150.0,
    show_default=True,
    help="Traffic of the simulated shop.",
)
@click.option("--seed", default=0, show_default=True, help="Same seed, same shop.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Stream this recorded log instead of the simulated shop.",
)
@click.option("--format", default=None, help="Its format [default: by its content].")
@click.option(
    "--columns",
    type=ColumnMapping(),
    metavar="OURS=COLUMN,...",
    help="Its columns, as `nextclick replay` takes them.",
)
@click.option(
    "--first-day",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Day of the log to begin with (UTC) [default: its first].",
)
@click.option(
    "--train-days",
    type=click.FloatRange(min=0),
    help="Days to train on before the rest is streamed [default: to the last busy midnight, UTC].",
)
@click.option("--stream-days", type=_above_zero, help="Days to stream [default: all the rest].")
@click.option(
    "--speed", default=None, help="Of the stream: 1, 60, max [default: it takes four minutes]."
)
@click.option(
    "--retrain-every",
    "retrain_every_seconds",
    callback=_duration,
    default="60s",
    show_default=True,
    help="From one training to the next.",
)
@click.option(
    "--refresh-every",
    "refresh_every_seconds",
    callback=_duration_or_never,
    default="20s",
    show_default=True,
    help="From one refresh of the live model to the next, or never.",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="A new directory to work in; it stays, without the broker's data.",
)
@click.option("--keep", is_flag=True, help="Keep everything, the broker's data too.")
@click.option(
    "--training-env",
    type=click.Path(path_type=Path, file_okay=False),
    help="Environment with torch, made if it is not there [default: .venv-training].",
)
@click.option("--started-at", type=float, hidden=True, help="When `make demo` was called.")
@with_settings()
def demo(settings: Settings, **options: Any) -> None:
    """Run the whole system on this machine, on a simulated shop or a recorded log.

    A real Kafka, the worker, statistics, archive, retraining, and a live view of it all.  torch is
    installed while popularity already answers.  Ctrl-C ends it, and leaves nothing running.

    \b
    Example:
      nextclick demo
      nextclick demo --seconds 420 --report demo.json
      nextclick demo --data clicks.parquet
      nextclick demo --data clicks.parquet --train-days 3 --stream-days 1 --speed 600
    """
    from stream_app.demo.demo import Requests, run_demo  # noqa: PLC0415 - keeps --help quick
    from stream_app.demo.options import DemoOptions  # noqa: PLC0415

    first_day: datetime | None = options.pop("first_day")
    columns: dict[str, str] = options.pop("columns") or {}
    requests = Requests()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: requests.ask())
    told = DemoOptions(first_day=first_day, columns=columns, **options)
    run_demo(told, settings, Console(), requests)
