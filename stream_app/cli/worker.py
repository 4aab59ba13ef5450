"""`nextclick worker`."""

import os

import click

from stream_app.cli.options import with_settings
from stream_app.files.shared_directory import own_place
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
    Replicas of a container, which are all started alike:
      nextclick worker --set shared_data_dir=/var/lib/nextclick/workers
    """
    set_up_logging(settings.log_level, process="worker")
    os.umask(0o077)  # sessions are nobody else's business, whoever made the directory
    from stream_app.services.worker import run_worker  # noqa: PLC0415 - keeps --help quick

    if settings.shared_data_dir is None:
        run_worker(settings)
    else:
        with own_place(settings.shared_data_dir) as data_dir:
            run_worker(settings.model_copy(update={"data_dir": data_dir}))
