"""`nextclick gateway`."""

import click

from stream_app.cli.options import with_settings
from stream_app.logging_setup import get_logger, set_up_logging
from stream_app.settings import Settings


@click.command()
@with_settings(
    "kafka.bootstrap_servers",
    "registry",
    "gateway.port",
    "gateway.host",
    "metrics.port",
    "metrics.host",
)
def gateway(settings: Settings) -> None:
    """Take clicks and give answers over HTTP, with a live feed, and a page to look at it all.

    A click is answered once Kafka has it; with ?wait=MS the answer to it comes along.  Any number may run.

    \b
    Example:
      nextclick gateway --bootstrap-servers kafka:9092 --port 8480
      curl -H 'Content-Type: application/json' 'localhost:8480/v1/clicks?wait=500' \\
        -d '{"session_id": "s-1", "item_id": "sku-4711", "event_time": "2026-11-24T11:12:13Z"}'
    """
    set_up_logging(settings.log_level, process="gateway")
    from stream_app.adapters.instruments import process_registry  # noqa: PLC0415 - keeps --help quick
    from stream_app.gateway.server import serve_until_told  # noqa: PLC0415

    serve_until_told(settings, process_registry())
    get_logger("gateway").info("gateway_stopped")
