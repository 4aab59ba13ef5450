"""Training progress for people: a live bar on a terminal, plain lines in a log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from models.progress import ProgressCallback, TrainingProgress

LINE_SECONDS: Final = 10.0
"""A log gets a line this often, and at each epoch's end."""


@contextmanager
def show_progress(console: Console | None = None) -> Iterator[ProgressCallback]:
    """Gives the `progress` argument of `train`: epochs, events/s, loss, time left."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield _lines(console)
        return
    columns = (
        TextColumn("[bold]training"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=1.0)

        def show(now: TrainingProgress) -> None:
            share = now.events_done / max(now.events_total, 1)
            bar.update(task, completed=share, description=describe(now))

        yield show


def describe(now: TrainingProgress) -> str:
    """`epoch 2/5, loss 4.113, 7,310 events/s, 0:01:12 left`"""
    left = round(now.seconds_left)
    clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
    return (
        f"epoch {now.epoch}/{now.epochs}, loss {now.loss:.4g}, "
        f"{now.events_per_second:,.0f} events/s, {clock} left"
    )


def _lines(console: Console) -> ProgressCallback:
    next_line = 0.0

    def show(now: TrainingProgress) -> None:
        nonlocal next_line
        if now.epoch_finished or time.monotonic() >= next_line:
            next_line = time.monotonic() + LINE_SECONDS
            share = 100 * now.events_done / max(now.events_total, 1)
            console.print(f"training {share:3.0f} %: {describe(now)}", highlight=False)

    return show
