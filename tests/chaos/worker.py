"""`python -m tests.chaos.worker`: the real worker, with faults that come from inside.

Nothing of it is replaced; it may only be killed or held up at a named point, or live with a wrong clock.
"""

import os
import signal
import time
from pathlib import Path
from typing import Any

import click
from aiokafka.producer.message_accumulator import BatchBuilder

from stream_app.cli.options import with_settings
from stream_app.logging_setup import get_logger, set_up_logging
from stream_app.services.loop_points import LoopPoint
from stream_app.services.worker import run_worker
from stream_app.settings import Settings

CLOCK_READ_SECONDS = 0.05

log = get_logger("chaos")


@click.command()
@with_settings("kafka.bootstrap_servers", "registry", "data_dir", "metrics.port")
@click.option("--kill-at", metavar="POINT:N", help="kill -9 ourselves at the N-th pass of a point.")
@click.option("--hold-at", metavar="POINT:SECONDS", help="Do nothing for so long at each pass.")
@click.option(
    "--stop-in",
    type=click.Path(path_type=Path),
    help="SIGSTOP ourselves at the point that has a file in this directory.",
)
@click.option(
    "--clock", type=click.Path(path_type=Path), help="File with the clock's error, seconds."
)
def worker(
    settings: Settings,
    kill_at: str | None,
    hold_at: str | None,
    stop_in: Path | None,
    clock: Path | None,
) -> None:
    """The stream processor, with faults."""
    set_up_logging(settings.log_level, process="worker")
    if clock is not None:
        follow_clock(clock)
    run_worker(settings, at=Faults(kill_at, hold_at, stop_in))


class Faults:
    """What happens at the named points of the loop."""

    def __init__(self, kill_at: str | None, hold_at: str | None, stop_in: Path | None) -> None:
        self._kill_at, passes = _at(kill_at)
        self._passes_left = int(passes or 0)
        self._hold_at, seconds = _at(hold_at)
        self._hold_seconds = float(seconds or 0)
        self._stop_in = stop_in

    def __call__(self, point: LoopPoint) -> None:
        if point == self._hold_at:
            log.info("held_up", point=point)
            time.sleep(self._hold_seconds)
        if self._stop_in is not None and (self._stop_in / point).exists():
            (self._stop_in / point).unlink()
            os.kill(os.getpid(), signal.SIGSTOP)
        if point == self._kill_at:
            self._passes_left -= 1
            if self._passes_left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def _at(text: str | None) -> tuple[LoopPoint | None, str]:
    if text is None:
        return None, ""
    point, _, rest = text.partition(":")
    return LoopPoint(point), rest


def follow_clock(file: Path) -> None:
    """Let the wall clock of this process be wrong by what the file says, read anew every 50 ms.

    As for a machine whose clock is set: libraries see it too, and monotonic clocks do not.
    """
    true_ns, read_at, error_ns = time.time_ns, -1.0, 0

    def wrong_ns() -> int:
        nonlocal read_at, error_ns
        if time.monotonic() - read_at > CLOCK_READ_SECONDS:
            read_at = time.monotonic()
            error_ns = int(float(file.read_text() or 0) * 1e9) if file.exists() else 0
        return true_ns() + error_ns

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9
    append = BatchBuilder.append

    def stamped(batch: BatchBuilder, *, timestamp: int | None, **message: Any) -> Any:
        """aiokafka's compiled part asks the system for the time of a record, so it must be told."""
        when_ms = wrong_ns() // 1_000_000 if timestamp is None else timestamp
        return append(batch, timestamp=when_ms, **message)

    BatchBuilder.append = stamped


if __name__ == "__main__":
    worker()
