"""`nextclick statistics`: keeps one aggregator going."""

import threading
import time
from typing import Final

from stream_app.adapters.instruments import StatisticsInstruments
from stream_app.core.errors import ServiceAwayError
from stream_app.logging_setup import get_logger
from stream_app.services.aggregator import Aggregator
from stream_app.settings import Settings

RETRY_SECONDS: Final = 2.0
PROGRESS_SECONDS_MAX: Final = 60.0
"""No turn for so long: /healthz asks to be restarted."""

log = get_logger("statistics")


def run_statistics(
    settings: Settings, instruments: StatisticsInstruments, stop: threading.Event, health: "Health"
) -> None:
    """Count until `stop` is set.  A broker that goes away later is waited for.

    Raises `ServiceAwayError` if there is none at the start, `ConfigurationError` if the click topic is
    not the one that was counted before, `InvariantError` if another aggregator took over.
    """
    was_up = False
    while not stop.is_set():
        try:
            with Aggregator(settings, instruments, progress=health.progress) as aggregator:
                was_up = True
                health.up(aggregator.version)
                while not stop.is_set():
                    aggregator.turn()
                    health.progress()
                aggregator.publish()
        except ServiceAwayError as error:
            if not was_up:
                raise
            log.warning("broker_away", error=str(error), retry_seconds=RETRY_SECONDS)
            health.down(str(error))
            stop.wait(RETRY_SECONDS)


class Health:
    """What /readyz and /healthz say; set by the loop, read by the server's threads."""

    def __init__(self) -> None:
        self._ready, self._reason = False, "restoring the counts"
        self._progress_at = time.monotonic()

    def up(self, version: int) -> None:
        self._ready, self._reason = True, f"counting on from version {version}"

    def down(self, reason: str) -> None:
        self._ready, self._reason = False, reason
        self.progress()

    def progress(self) -> None:
        self._progress_at = time.monotonic()

    def is_ready(self) -> tuple[bool, str]:
        return self._ready, self._reason

    def is_healthy(self) -> tuple[bool, str]:
        since = time.monotonic() - self._progress_at
        return since < PROGRESS_SECONDS_MAX, f"last turn {since:.1f} s ago"
