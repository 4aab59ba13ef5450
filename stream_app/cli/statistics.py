"""`nextclick statistics`."""

import signal
import threading

import click

from stream_app.cli.options import with_settings
from stream_app.logging_setup import get_logger, set_up_logging
from stream_app.settings import Settings


@click.command()
@with_settings("kafka.bootstrap_servers", "metrics.port", "metrics.host")
def statistics(settings: Settings) -> None:
    """Learn from every click what is popular and what follows what, for the workers to read (run exactly one).

    \b
    Example:
      nextclick statistics --bootstrap-servers kafka:9092 --metrics-port 9103
      nextclick statistics --set statistics.publish_seconds=5 --set statistics.pair_half_lives_minutes=10,240
    """
    set_up_logging(settings.log_level, process="statistics")
    from stream_app.adapters import http_endpoints  # noqa: PLC0415 - keeps --help quick
    from stream_app.adapters.instruments import (  # noqa: PLC0415
        StatisticsInstruments,
        process_registry,
    )
    from stream_app.services.statistics import Health, run_statistics  # noqa: PLC0415

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    registry, health = process_registry(), Health()
    endpoints = http_endpoints.serve(
        settings.metrics.host,
        settings.metrics.port,
        registry=registry,
        is_ready=health.is_ready,
        is_healthy=health.is_healthy,
    )
    log = get_logger("statistics")
    log.info("metrics_served", metrics=f"{endpoints.url}/metrics")
    try:
        run_statistics(settings, StatisticsInstruments(registry), stop, health)
    finally:
        endpoints.close()
    log.info("statistics_stopped")
