"""Retraining every so often: a service that outlives its failed runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from stream_app.adapters.retrain_instruments import RetrainInstruments
from stream_app.core.errors import NextclickError
from stream_app.logging_setup import get_logger

if TYPE_CHECKING:
    from export.run import RunOutcome

WAITING_SECONDS: Final = 2.0
"""Before the first model, the log is looked at this often: the first model should not be late."""

log = get_logger("retrain")


class Rhythm:
    """When the next run begins, and how: pure, so that no test has to wait."""

    def __init__(self, every_seconds: float) -> None:
        self._every_seconds = every_seconds
        self.from_scratch = False
        """The last candidate was refused: the next one starts from scratch.  A warm start that went
        astray would otherwise be refused for ever, while its live model ages."""

    def pause_seconds(self, outcome: RunOutcome | None, took_seconds: float) -> float:
        """How long to wait after a run (None: it failed).  Runs begin `every_seconds` apart."""
        self.from_scratch = outcome is not None and outcome.result == "gated"
        if outcome is not None and outcome.result == "waiting" and outcome.before_first_model:
            return min(WAITING_SECONDS, self._every_seconds)
        return max(self._every_seconds - took_seconds, 0.0)


def counted(
    run: Callable[[], RunOutcome], instruments: RetrainInstruments
) -> Callable[[], RunOutcome]:
    """The run, its result counted."""

    def wrapped() -> RunOutcome:
        instruments.running.set(1)
        result = "failed"
        try:
            outcome = run()
            result = outcome.result
            return outcome
        finally:
            instruments.running.set(0)
            instruments.ended(result)

    return wrapped


def retrain_for_ever(
    run: Callable[[bool], RunOutcome],
    *,
    every_seconds: float,
    instruments: RetrainInstruments,
    done: Callable[[RunOutcome | None], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run, report, wait, again; ends by an exception from outside (Ctrl-C) only.

    run: called with whether to start from scratch.  done: told every outcome, None for a failed run,
    which is logged and counted; the next one may well succeed.
    """
    rhythm = Rhythm(every_seconds)
    instruments.interval.set(every_seconds)
    while True:
        began = time.monotonic()
        outcome: RunOutcome | None = None
        try:
            outcome = counted(lambda: run(rhythm.from_scratch), instruments)()
        except NextclickError as error:
            kind = type(error).__name__
            # The message says what to do; a traceback would bury it.
            log.error(f"{instruments.JOB}_failed", error=str(error), kind=kind)  # noqa: TRY400 - see above
        except Exception:
            log.exception(f"{instruments.JOB}_failed")
        done(outcome)
        sleep(rhythm.pause_seconds(outcome, time.monotonic() - began))
