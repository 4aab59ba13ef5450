"""`python -m tests.chaos.archive_process`: the real archive, with faults that come from inside."""

import os
import resource
import signal
import sys

import click

from stream_app.cli.options import with_settings
from stream_app.core.errors import NextclickError
from stream_app.logging_setup import set_up_logging
from stream_app.services.archive import run_archive
from stream_app.settings import Settings

STEPS = ("part_written", "part_in_place", "committed")


@click.command()
@with_settings("kafka.bootstrap_servers", "click_log", "metrics.port")
@click.option("--kill-at", metavar="STEP:N", help="kill -9 ourselves at the N-th pass of a step.")
@click.option(
    "--file-bytes-max", type=int, help="A file that grows beyond fails, as on a full disk."
)
def archive(settings: Settings, kill_at: str | None, file_bytes_max: int | None) -> None:
    """The archive, with faults."""
    set_up_logging(settings.log_level, process="archive")
    if file_bytes_max is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes_max, file_bytes_max))
    run_archive(settings, checkpoint=KillAt(kill_at))


class KillAt:
    """Ends us at the N-th pass of a step of the writer."""

    def __init__(self, kill_at: str | None) -> None:
        self._step, _, passes = (kill_at or ":0").partition(":")
        assert self._step in (*STEPS, ""), f"no such step: {self._step}"
        self._left = int(passes)

    def __call__(self, step: str) -> None:
        if step == self._step:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        archive(standalone_mode=False)
    except NextclickError as error:
        click.echo(f"nextclick: {error}", err=True)
        sys.exit(error.exit_status)
