"""`nextclick archive`."""

import click

from stream_app.cli.options import with_settings
from stream_app.logging_setup import set_up_logging
from stream_app.settings import Settings


@click.command()
@with_settings("kafka.bootstrap_servers", "click_log", "metrics.port", "metrics.host")
def archive(settings: Settings) -> None:
    """Write the click topic to a Parquet click log, by day; no click missing or twice.

    Several may run: they share the partitions.  Ends cleanly on Ctrl-C or SIGTERM: what is buffered
    is written first.

    \b
    Example:
      nextclick archive --click-log /var/lib/nextclick/click-log --metrics-port 9102
    """
    # Imported here, so that --help costs no Kafka client.
    from stream_app.services.archive import run_archive  # noqa: PLC0415

    set_up_logging(settings.log_level, process="archive")
    run_archive(settings)
