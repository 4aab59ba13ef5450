"""`nextclick archive`."""

import click

from stream_app.cli.options import with_settings
from stream_app.core.errors import ConfigurationError
from stream_app.logging_setup import set_up_logging
from stream_app.settings import Settings


@click.command()
@click.option(
    "--compact",
    is_flag=True,
    help="Only write files anew that hold clicks of erased sessions, then end.",
)
@with_settings("kafka.bootstrap_servers", "click_log", "metrics.port", "metrics.host")
def archive(settings: Settings, compact: bool) -> None:
    """Write the click topic to a Parquet click log, by day; no click missing or twice.

    Several may run: they share the partitions.  Ends cleanly on Ctrl-C or SIGTERM: what is buffered
    is written first.  Clicks of erased sessions are left out whenever the log is read; `--compact` removes
    their bytes, needs no broker, and may run beside an archive.

    \b
    Example:
      nextclick archive --click-log /var/lib/nextclick/click-log --metrics-port 9102
      nextclick archive --click-log /var/lib/nextclick/click-log --compact
    """
    if compact:
        from stream_app.files.click_log_compaction import compact as compact_log  # noqa: PLC0415

        try:
            done = compact_log(settings.click_log)
        except OSError as error:
            raise ConfigurationError(
                f"click_log {settings.click_log} cannot be written: {error.strerror or error}.  No file was "
                "harmed: make room, or mend its permissions, and compact again"
            ) from error
        click.echo(
            f"{done.files:,} files: {done.rewritten:,} written anew without "
            f"{done.clicks_removed:,} clicks of erased sessions"
        )
        return
    # Imported here, so that --help costs no Kafka client.
    from stream_app.services.archive import run_archive  # noqa: PLC0415

    set_up_logging(settings.log_level, process="archive")
    run_archive(settings)
