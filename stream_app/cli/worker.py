"""`nextclick worker`."""

import click

from stream_app.cli.options import with_settings
from stream_app.logging_setup import set_up_logging
from stream_app.settings import Settings


@click.command()
@with_settings("kafka.bootstrap_servers", "registry", "data_dir", "metrics.port", "metrics.host")
def worker(settings: Settings) -> None:
    """Answer every click with a recommendation (the stream processor).

    \b
    Example, two workers sharing the partitions:
      nextclick worker --data-dir /var/lib/nextclick/a --metrics-port 9101
      nextclick worker --data-dir /var/lib/nextclick/b --metrics-port 9102
    """
    set_up_logging(settings.log_level, process="worker")
    from stream_app.services.worker import run_worker  # noqa: PLC0415 - keeps --help quick

    run_worker(settings)
